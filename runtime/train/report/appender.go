package report

import (
	"errors"
	"io"
)

// file is what sinks need of an os.File.
type file interface {
	io.Writer
	io.Seeker
	Truncate(size int64) error
	Sync() error
	Close() error
}

// appender adds to a file, whole pieces only: what is written of one when the
// disk is full is cut off, so that later ones can follow.
type appender struct {
	file
	size int64
}

func (a *appender) append(piece []byte) error {
	n, err := a.Write(piece)
	if err == nil {
		a.size += int64(n)
		return nil
	}
	if n > 0 {
		err = errors.Join(err, a.cut(a.size))
	}
	return err
}

// cut ends the file after so many bytes.
func (a *appender) cut(size int64) error {
	a.size = size
	_, err := a.Seek(size, io.SeekStart)
	return errors.Join(a.Truncate(size), err)
}

// close ends the file and waits until it is on the disk.
func (a *appender) close() error { return errors.Join(a.Sync(), a.Close()) }
