//go:build unix

package onnx

import (
	"os"

	"golang.org/x/sys/unix"
)

// mapFile returns the first size bytes of f, which are mapped and not read.
func mapFile(f *os.File, size int) ([]byte, error) {
	b, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, &os.PathError{Op: "mmap", Path: f.Name(), Err: err}
	}
	return b, nil
}

func unmapFile(b []byte) error { return unix.Munmap(b) }
