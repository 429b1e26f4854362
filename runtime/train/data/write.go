package data

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"

	"github.com/fmoe-go/fmoe/internal/memory"
	"github.com/fmoe-go/fmoe/onnx"
)

// Written says what WriteMegatron wrote.
type Written struct {
	Documents, Tokens int
	Files             []string // .bin and .idx
}

// WriteMegatron tokenises the text or JSON lines at path, as [Open] does, and
// writes the tokens as Megatron's indexed dataset name.bin and name.idx, which
// Open and Megatron-LM read. Each document is one sequence. The text passes
// through memory piece by piece.
//
// A dataset that exists is not overwritten. The files appear under their names
// when they are complete, the index last; after an error there are none.
func WriteMegatron(name, path string, o Options) (w Written, err error) {
	if err := o.check(); err != nil {
		return w, err
	}
	if f := format(path); f == "" {
		return w, unknownFormat(path)
	} else if f != plainText && f != jsonLines {
		return w, fmt.Errorf("%s has tokens already, not text", path)
	}
	name = megatronName(name)
	w.Files = []string{name + ".bin", name + ".idx"}
	for _, file := range w.Files {
		if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
			return w, errors.Join(fmt.Errorf("%s exists; remove it, or choose another name", file), err)
		}
	}
	text, err := memory.MapFile(path, os.Stat, os.Open)
	if err != nil {
		return w, err
	}
	defer text.Close()

	e := newEncoder(o)
	var lengths []int32
	err = create(w.Files[0], func(bin *bufio.Writer) error {
		var raw []byte
		err := e.encode(texts(path, text.Bytes, o), func(tokens []int32) error {
			if len(tokens) > math.MaxInt32 {
				return fmt.Errorf("document %d has %d tokens; the format has up to %d", len(lengths), len(tokens), math.MaxInt32)
			}
			lengths = append(lengths, int32(len(tokens)))
			w.Tokens += len(tokens)
			raw = appendTokens(raw[:0], e.elements, tokens)
			_, err := bin.Write(raw)
			return err
		})
		if err == nil && w.Tokens == 0 {
			err = errors.New("has no text")
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		w.Documents = len(lengths)
		return nil
	})
	if err != nil {
		return w, err
	}
	err = create(w.Files[1], func(idx *bufio.Writer) error { return writeIndex(idx, e.elements, lengths) })
	if err != nil {
		os.Remove(w.Files[0])
	}
	return w, err
}

// writeIndex writes an .idx file in which each sequence is a document.
func writeIndex(w *bufio.Writer, t onnx.DataType, lengths []int32) error {
	var code byte
	for c, elements := range indexTypes {
		if elements == t {
			code = c
		}
	}
	n := uint64(len(lengths))
	head := binary.LittleEndian.AppendUint64([]byte(indexMagic), indexVersion)
	head = append(head, code)
	head = binary.LittleEndian.AppendUint64(head, n)
	head = binary.LittleEndian.AppendUint64(head, n+1)
	if _, err := w.Write(head); err != nil {
		return err
	}
	number := make([]byte, 8)
	for _, length := range lengths {
		binary.LittleEndian.PutUint32(number, uint32(length))
		if _, err := w.Write(number[:4]); err != nil {
			return err
		}
	}
	at, width := uint64(0), uint64(t.Bits()/8)
	for _, length := range lengths {
		binary.LittleEndian.PutUint64(number, at)
		if _, err := w.Write(number); err != nil {
			return err
		}
		at += uint64(length) * width
	}
	for i := range n + 1 {
		binary.LittleEndian.PutUint64(number, i)
		if _, err := w.Write(number); err != nil {
			return err
		}
	}
	return nil
}

// create makes a file that appears under its name when it is complete and on
// the disk.
func create(path string, fill func(*bufio.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	w := bufio.NewWriterSize(f, 1<<20)
	if err := fill(w); err != nil {
		return err
	}
	if err := errors.Join(f.Chmod(0o644), w.Flush(), f.Sync()); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.Rename(f.Name(), path)
}
