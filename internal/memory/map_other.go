//go:build !unix

package memory

import (
	"io"
	"os"
)

// mapBytes returns the first size bytes of f.
func mapBytes(f *os.File, size int) ([]byte, error) {
	b := make([]byte, size)
	_, err := io.ReadFull(f, b)
	return b, err
}

// Evict does nothing here.
func Evict([]byte) {}

func unmapBytes([]byte) error { return nil }
