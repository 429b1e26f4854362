package memory

import (
	"fmt"
	"io/fs"
	"math"
	"os"
)

// File is a regular file's content in memory: mapped and not read where the
// system can.
type File struct {
	Bytes []byte // must not be written to
	Info  fs.FileInfo
}

// MapFile maps the file of that name, which stat and open find: [os.Stat] and
// [os.Open], or those of a root. The file is looked at before it is opened, as
// opening a pipe would wait, and again after, as another could have taken its
// place.
func MapFile(name string, stat func(string) (fs.FileInfo, error), open func(string) (*os.File, error)) (*File, error) {
	info, err := stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", name)
	}
	f, err := open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err = f.Stat(); err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", name)
	}
	m := &File{Bytes: []byte{}, Info: info}
	if size := info.Size(); size > math.MaxInt {
		return nil, fmt.Errorf("%s: %d bytes are too many for this machine's address space", name, size)
	} else if size > 0 {
		m.Bytes, err = mapBytes(f, int(size))
	}
	return m, err
}

// Close releases the bytes, which are invalid afterwards.
func (f *File) Close() error {
	if len(f.Bytes) == 0 {
		return nil
	}
	b := f.Bytes
	f.Bytes = nil
	return unmapBytes(b)
}
