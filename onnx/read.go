package onnx

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"unsafe"
)

// ReadFile reads a model and finds its external data. Files are mapped into
// memory, not read: opening a model costs about as much as its structure
// weighs, and tensors alias the mapping until Close.
//
// External data may lie in the model's directory or below it (symbolic links
// resolved), or in the directory of the file that path resolves to when it is
// a symbolic link. Errors name the file; see [Decode] and [Check] for what is
// and is not verified.
func ReadFile(path string) (*Model, error) {
	file, err := mapRegular(path, os.Stat, os.Open)
	if err != nil {
		return nil, err
	}
	m, err := Decode(file.bytes)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), file.unmap())
	}
	m.files = []*mappedFile{file}
	if err := m.resolveExternal(path); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), m.Close())
	}
	return m, nil
}

// Close releases the files that the model was read from. The bytes of its
// tensors, and of the tensors that other models share with it, are invalid
// afterwards.
func (m *Model) Close() error {
	var errs []error
	for _, f := range m.files {
		errs = append(errs, f.unmap())
	}
	m.files = nil
	return errors.Join(errs...)
}

// Evict tells the operating system that b, bytes of tensors of a model that was
// read from a file, will not be read soon, so that it can use their memory
// otherwise. They stay valid, and are read from the file again when they are
// needed. It reports whether b lies in the model's files; where it does not,
// nothing happens.
func (m *Model) Evict(b []byte) bool {
	if len(b) == 0 {
		return false
	}
	at := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	for _, f := range m.files {
		if len(f.bytes) == 0 {
			continue
		}
		begin := uintptr(unsafe.Pointer(unsafe.SliceData(f.bytes)))
		if at >= begin && at+uintptr(len(b)) <= begin+uintptr(len(f.bytes)) {
			evict(b)
			return true
		}
	}
	return false
}

// mappedFile is a file's content in memory.
type mappedFile struct {
	bytes []byte
	info  fs.FileInfo
}

func (f *mappedFile) unmap() error {
	if len(f.bytes) == 0 {
		return nil
	}
	b := f.bytes
	f.bytes = nil
	return unmapFile(b)
}

// mapRegular maps the file of that name. The file is looked at before it is
// opened, as opening a pipe would wait, and again after, as another could
// have taken its place.
func mapRegular(name string, stat func(string) (fs.FileInfo, error), open func(string) (*os.File, error)) (*mappedFile, error) {
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
	m := &mappedFile{bytes: []byte{}, info: info}
	if size := info.Size(); size > math.MaxInt {
		return nil, fmt.Errorf("%s: %d bytes are too many for this machine's address space", name, size)
	} else if size > 0 {
		m.bytes, err = mapFile(f, int(size))
	}
	return m, err
}
