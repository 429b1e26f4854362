package onnx

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/fmoe-go/fmoe/internal/memory"
)

// externalFiles finds the files that a model's external data is in.
type externalFiles struct {
	roots  []string // directories that may hold data, symbolic links resolved; the model's first
	byName map[string]*memory.File
}

// resolveExternal maps the external data of every tensor of the model, which
// lies at path.
func (m *Model) resolveExternal(path string) error {
	var files *externalFiles
	for _, t := range m.tensors() {
		s := t.heldStorage()
		if s.location != externalLocation {
			continue
		}
		if files == nil {
			var err error
			if files, err = newExternalFiles(path); err != nil {
				return err
			}
		}
		location := s.key("location")
		file, ok := files.byName[location]
		if !ok {
			var err error
			if file, err = files.open(location); err != nil {
				return t.errorf("external data %q: %w", location, err)
			}
			files.byName[location] = file
			m.files = append(m.files, file)
		}
		part, err := s.slice(t, file.Bytes)
		if err != nil {
			return t.errorf("external data %q: %w", location, err)
		}
		s.mapped = part
	}
	return nil
}

// newExternalFiles allows the directory of the model, and the directory of
// the file that a model's symbolic link leads to: the caches of model hubs
// link both the model and its data into one folder of blobs.
func newExternalFiles(path string) (*externalFiles, error) {
	file, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, err
	}
	x := &externalFiles{byName: make(map[string]*memory.File)}
	for _, dir := range []string{filepath.Dir(path), filepath.Dir(file)} {
		if dir, err = filepath.EvalSymlinks(dir); err != nil {
			return nil, err
		}
		if dir, err = filepath.Abs(dir); err != nil {
			return nil, err
		}
		if !slices.Contains(x.roots, dir) {
			x.roots = append(x.roots, dir)
		}
	}
	return x, nil
}

// open maps the file at a location that a model gives.
func (x *externalFiles) open(location string) (*memory.File, error) {
	name := filepath.FromSlash(location)
	switch {
	case location == "":
		return nil, errors.New("the location is empty")
	case strings.ContainsRune(location, 0), !filepath.IsLocal(name), slices.Contains(strings.Split(filepath.ToSlash(name), "/"), ".."):
		return nil, errors.New("the location must be a path below the model's directory, without \"..\"")
	}
	target, err := filepath.EvalSymlinks(filepath.Join(x.roots[0], name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no such file in %s, put it beside the model", x.roots[0])
	}
	if err != nil {
		return nil, err
	}
	for _, dir := range x.roots {
		inside, err := filepath.Rel(dir, target)
		if err != nil || !filepath.IsLocal(inside) {
			continue
		}
		// The target has no symbolic link left; should one appear meanwhile,
		// the root does not let it lead outside.
		root, err := os.OpenRoot(dir)
		if err != nil {
			return nil, err
		}
		defer root.Close()
		return memory.MapFile(inside, root.Stat, root.Open)
	}
	return nil, fmt.Errorf("it is a symbolic link to %s, outside the model's directory", target)
}

// externalStorage refers to length bytes at an offset of the file at location.
func externalStorage(location string, offset, length int64) *tensorStorage {
	return &tensorStorage{location: externalLocation, external: []Property{
		{Key: "location", Value: location},
		{Key: "offset", Value: strconv.FormatInt(offset, 10)},
		{Key: "length", Value: strconv.FormatInt(length, 10)},
	}}
}

// key returns an entry of external_data, "" where there is none.
func (s *tensorStorage) key(name string) string {
	for i := range s.external {
		if s.external[i].Key == name {
			return s.external[i].Value
		}
	}
	return ""
}

// slice returns the part of a data file that s refers to. Without a length it
// is as long as t's type and dims say.
func (s *tensorStorage) slice(t *Tensor, file []byte) ([]byte, error) {
	size, err := t.ByteSize()
	if err != nil {
		return nil, err
	}
	offset, length := int64(0), size
	for _, n := range []struct {
		key   string
		value *int64
	}{{"offset", &offset}, {"length", &length}} {
		text := s.key(n.key)
		if text == "" {
			continue
		}
		v, err := strconv.ParseUint(text, 10, 63)
		if err != nil {
			return nil, fmt.Errorf("the %s %q is not a number of bytes", n.key, text)
		}
		*n.value = int64(v)
	}
	if length != size {
		return nil, fmt.Errorf("its length is %d bytes, the tensor's type and dims take %d", length, size)
	}
	have := int64(len(file))
	if offset > have || length > have-offset {
		return nil, fmt.Errorf("bytes %d to %d are beyond the end of the file, which has %d", offset, uint64(offset)+uint64(length), have)
	}
	return file[offset : offset+length : offset+length], nil
}
