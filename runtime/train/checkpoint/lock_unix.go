//go:build unix

package checkpoint

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// lockFile locks f until it is closed, which the system does for a process that
// ends in any way. It reports whether nobody else holds the lock.
func lockFile(f *os.File) (bool, error) {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EWOULDBLOCK):
			return false, nil
		case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.ENOTSUP):
			return true, nil // some network file systems have no locks: better to train without
		case err != nil:
			return false, &os.PathError{Op: "flock", Path: f.Name(), Err: err}
		}
		return true, nil
	}
}
