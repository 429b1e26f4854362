package onnx

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"github.com/fmoe-go/fmoe/internal/memory"
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
	file, err := memory.MapFile(path, os.Stat, os.Open)
	if err != nil {
		return nil, err
	}
	m, err := Decode(file.Bytes)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), file.Close())
	}
	m.files = []*memory.File{file}
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
		errs = append(errs, f.Close())
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
		if len(f.Bytes) == 0 {
			continue
		}
		begin := uintptr(unsafe.Pointer(unsafe.SliceData(f.Bytes)))
		if at >= begin && at+uintptr(len(b)) <= begin+uintptr(len(f.Bytes)) {
			memory.Evict(b)
			return true
		}
	}
	return false
}
