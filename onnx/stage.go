package onnx

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// stagedFile is a file under a temporary name in the directory where it is to
// appear.
type stagedFile struct {
	*os.File
	path string // its final name
}

func newStagedFile(path string) (*stagedFile, error) {
	for {
		f, err := os.OpenFile(hiddenName(path), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if cause, ok := errors.AsType[*fs.PathError](err); ok {
			cause.Path = path // the user knows no other name
		}
		return &stagedFile{f, path}, err
	}
}

func hiddenName(path string) string {
	return filepath.Join(filepath.Dir(path), fmt.Sprintf(".%s.%016x", filepath.Base(path), rand.Uint64()))
}

// fill writes the content and sees to it that it is on the disk, with the
// permissions of the file that it will replace.
func (f *stagedFile) fill(ctx context.Context, content func(*bufio.Writer) error) error {
	out := bufio.NewWriterSize(contextWriter{ctx, f}, writeBufferBytes)
	if err := content(out); err != nil {
		return err
	}
	if err := out.Flush(); err != nil {
		return err
	}
	if old, err := os.Stat(f.path); err == nil {
		if err := f.Chmod(old.Mode().Perm()); err != nil {
			return err
		}
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return f.Close()
}

// contextWriter writes until its context is done.
type contextWriter struct {
	ctx context.Context
	io.Writer
}

func (w contextWriter) Write(b []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.Writer.Write(b)
}

// discard removes the file if it was not published.
func (f *stagedFile) discard() {
	if f.path != "" {
		_ = f.Close()
		_ = os.Remove(f.Name())
	}
}

// publish moves the files to their final names. When one cannot be moved,
// those before it get their old content back.
func publish(files []*stagedFile) error {
	var undo []func()
	var done []string // second names of the files that were replaced
	defer func() {
		for _, name := range done {
			_ = os.Remove(name)
		}
	}()
	for i, f := range files {
		old := hiddenName(f.path)
		last := i == len(files)-1
		restore := func() { _ = os.Remove(f.path) }
		if !last && os.Link(f.path, old) == nil {
			done = append(done, old)
			restore = func() { _ = os.Rename(old, f.path) }
		}
		if err := os.Rename(f.Name(), f.path); err != nil {
			for _, restore := range undo {
				restore()
			}
			return err
		}
		undo = append(undo, restore)
	}
	for _, f := range files {
		dir := filepath.Dir(f.path)
		f.path = ""
		if d, err := os.Open(dir); err == nil {
			_ = d.Sync() // best effort: not every system can
			_ = d.Close()
		}
	}
	return nil
}
