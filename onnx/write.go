package onnx

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// ExternalMode says whether WriteFile stores weights in a file of their own.
type ExternalMode int

// The modes of [WriteOptions].
const (
	ExternalAuto   ExternalMode = iota // when the weights pass WriteOptions.Limit
	ExternalAlways                     // always
	ExternalNever                      // never: the model is one file
)

// WriteOptions says how WriteFile stores a model.
type WriteOptions struct {
	External ExternalMode

	// Limit is the size in bytes of all initializers above which ExternalAuto
	// stores them externally; 0 means 1 GiB, half of what protobuf allows.
	Limit int64

	// Context ends the writing with its error when it is done, such as by the
	// user's interrupt; nil never does.
	Context context.Context
}

const (
	defaultLimit     = 1 << 30
	externalMinimum  = 1024 // smaller initializers stay in the model
	externalAlign    = 4096
	externalSuffix   = ".data"
	writeBufferBytes = 1 << 20
)

// WriteFile writes a model to path, and external data to one file beside it
// whose name is that of the model with ".data" appended. Weights are streamed,
// so that they may be larger than memory (see [Source]).
//
// Initializers of 1 KiB and more, those of nested graphs included, move to the
// data file, each at a multiple of 4 KiB and with its offset and length
// stated. All other tensors are stored in the model itself, wherever they were
// read from.
//
// Both files are written under another name first and take their place when
// they are complete: after an error what was at path is still there, and
// nothing else. A symbolic link at path is replaced, not followed. path may be the file that m was read from; m stays valid and
// unchanged. A file that m reads its external data from is replaced only
// together with its model.
//
// It fails, among others, where the model without its external data would
// pass protobuf's limit of 2 GiB.
func WriteFile(path string, m *Model, o WriteOptions) error {
	w := &modelWriter{ctx: cmp.Or(o.Context, context.Background()), path: path, dataPath: path + externalSuffix, model: m}
	err := w.plan(o)
	if err == nil {
		err = w.write()
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// modelWriter writes one model and its data file.
type modelWriter struct {
	ctx            context.Context
	path, dataPath string
	model          *Model
	encoder        encoder
	external       []externalTensor
}

// externalTensor is a tensor that moves to the data file.
type externalTensor struct {
	*Tensor
	offset int64
}

// plan decides where each tensor goes, and finds what is wrong before any
// file is touched.
func (w *modelWriter) plan(o WriteOptions) error {
	if w.model.Graph == nil {
		return errors.New("the model has no graph")
	}
	w.encoder.moved = make(map[*Tensor]*tensorStorage)
	if w.wantsExternal(o) {
		w.moveOut()
	}
	for _, t := range w.model.tensors() {
		if t.heldStorage().location != externalLocation || w.encoder.moved[t] != nil {
			continue
		}
		b, err := t.Bytes()
		if err != nil {
			return err
		}
		w.encoder.moved[t] = &tensorStorage{fields: []elementField{{rawData, b}}}
	}
	if _, err := measure(&w.encoder, modelSchema, w.model); err != nil {
		return err
	}
	return w.checkTargets()
}

// candidates calls use for each initializer that may move to the data file.
// One whose size nobody can tell, as its type is not known, may not.
func (w *modelWriter) candidates(use func(t *Tensor, size int64)) {
	_ = w.model.Graph.Walk(func(g *Graph) error {
		for _, t := range g.Initializers {
			if size, err := t.ByteSize(); err == nil && size >= externalMinimum && t.storage != nil {
				use(t, size)
			}
		}
		return nil
	})
}

func (w *modelWriter) wantsExternal(o WriteOptions) bool {
	switch o.External {
	case ExternalAlways:
		return true
	case ExternalNever:
		return false
	}
	limit := o.Limit
	if limit == 0 {
		limit = defaultLimit
	}
	total := int64(0)
	w.candidates(func(_ *Tensor, size int64) { total += size })
	return total > limit
}

// moveOut gives every candidate its place in the data file.
func (w *modelWriter) moveOut() {
	location := filepath.Base(w.dataPath)
	end := int64(0)
	w.candidates(func(t *Tensor, size int64) {
		if w.encoder.moved[t] != nil {
			return
		}
		offset := (end + externalAlign - 1) / externalAlign * externalAlign
		end = offset + size
		w.external = append(w.external, externalTensor{t, offset})
		w.encoder.moved[t] = externalStorage(location, offset, size)
	})
}

// checkTargets refuses to replace what is not a regular file, and what the
// model of another path still needs.
func (w *modelWriter) checkTargets() error {
	targets := []string{w.path}
	if len(w.external) > 0 {
		targets = append(targets, w.dataPath)
	}
	inPlace := false
	for i, target := range targets {
		info, err := os.Stat(target)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			return fmt.Errorf("%s is not a regular file", target)
		}
		for j, f := range w.model.files {
			if !os.SameFile(info, f.Info) {
				continue
			}
			if i == 0 && j == 0 {
				inPlace = true
			} else if i == 0 || j == 0 || !inPlace {
				return fmt.Errorf("%s belongs to the model that is being written, as it was read: choose another name", target)
			}
		}
	}
	return nil
}

func (w *modelWriter) write() (err error) {
	var staged []*stagedFile
	defer func() {
		for _, f := range staged {
			f.discard()
		}
	}()
	stage := func(path string, fill func(*bufio.Writer) error) error {
		f, err := newStagedFile(path)
		if err != nil {
			return err
		}
		staged = append(staged, f)
		return f.fill(w.ctx, fill)
	}
	if len(w.external) > 0 {
		if err := stage(w.dataPath, w.writeData); err != nil {
			return err
		}
	}
	if err := stage(w.path, func(out *bufio.Writer) error {
		return write(&w.encoder, out, modelSchema, w.model)
	}); err != nil {
		return err
	}
	return publish(staged)
}

func (w *modelWriter) writeData(out *bufio.Writer) error {
	var padding [externalAlign]byte
	end := int64(0)
	for _, t := range w.external {
		if _, err := out.Write(padding[:t.offset-end]); err != nil {
			return err
		}
		n, err := t.WriteTo(out)
		if err != nil {
			return err
		}
		end = t.offset + n
	}
	return nil
}
