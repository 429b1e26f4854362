package checkpoint

import (
	"errors"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
)

// fileSystem is all that saving does to the disk, so that tests can let each
// step of it fail.
type fileSystem interface {
	Mkdir(path string) error
	Create(path string) (file, error) // fails where there is one
	Edit(path string) (file, error)   // one that is there, to write within it
	Rename(from, to string) error
	RemoveAll(path string) error
	SyncDir(path string) error
}

type file interface {
	io.WriteCloser
	io.WriterAt
	Sync() error
}

// disk is the file system.
type disk struct{}

func (disk) Mkdir(path string) error      { return os.Mkdir(path, 0o777) }
func (disk) Rename(from, to string) error { return os.Rename(from, to) }
func (disk) RemoveAll(path string) error  { return os.RemoveAll(path) }

func (disk) Create(path string) (file, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
}

func (disk) Edit(path string) (file, error) { return os.OpenFile(path, os.O_WRONLY, 0) }

// SyncDir makes names in a directory permanent, on systems that can.
func (disk) SyncDir(path string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENOTSUP) {
		return err
	}
	return nil
}

// chunk is how much is summed up and written at a time: it stays in the cache
// between the two.
const chunk = 256 << 10

// writeFile writes one file of a checkpoint, synced, and returns its entry.
func writeFile(fs fileSystem, dir, name string, fill func(io.Writer) error) (entry fileEntry, err error) {
	f, err := fs.Create(filepath.Join(dir, name))
	if err != nil {
		return fileEntry{}, err
	}
	w := &summingWriter{out: f}
	err = fill(w)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	return fileEntry{name, w.bytes, checksum(w.sum)}, err
}

// summingWriter counts and sums up what it writes.
type summingWriter struct {
	out   io.Writer
	bytes int64
	sum   uint32
}

func (w *summingWriter) Write(b []byte) (int, error) {
	written := 0
	for len(b) > 0 {
		part := b[:min(len(b), chunk)]
		n, err := w.out.Write(part)
		w.bytes += int64(n)
		w.sum = crc32.Update(w.sum, castagnoli, part[:n])
		written += n
		if err != nil {
			return written, err
		}
		b = b[n:]
	}
	return written, nil
}
