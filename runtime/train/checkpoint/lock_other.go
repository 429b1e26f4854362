//go:build !unix

package checkpoint

import "os"

// lockFile does nothing: there, two runs in one directory are not found out.
func lockFile(*os.File) (bool, error) { return true, nil }
