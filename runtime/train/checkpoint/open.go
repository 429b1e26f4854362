package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
	"github.com/fmoe-go/fmoe/runtime/train/safetensors"
)

// Checkpoint is one that is open for reading. Its tensors are read from mapped
// files when they are touched.
type Checkpoint struct {
	Weights   *Tensors
	Optimizer *Tensors

	path     string
	manifest *manifest
	model    *onnx.Model // once it was asked for
}

// ErrNone says that a run directory has no checkpoint yet.
var ErrNone = errors.New("there is no checkpoint")

// Open opens a checkpoint, or the newest one in a run directory, and compares
// all that it holds with its checksums. What is damaged is a [DamageError];
// where an older checkpoint of the run is intact, the error names it, but Open
// never takes it for the newest: see [Newest].
func Open(path string) (*Checkpoint, error) {
	c, err := OpenUnverified(path)
	if err == nil {
		if err = c.Verify(); err == nil {
			return c, nil
		}
		c.Close()
	}
	if damage, ok := errors.AsType[*DamageError](err); ok && damage.Path != filepath.Clean(path) {
		if older, _, olderErr := Newest(path); olderErr == nil {
			err = fmt.Errorf("%w; %s is intact: name it to go on from there", err, older.Path())
			older.Close()
		}
	}
	return nil, err
}

// OpenUnverified is Open without reading the tensors: files that are missing
// or cut short are found, others are when Verify is called.
func OpenUnverified(path string) (*Checkpoint, error) {
	path, err := locate(path)
	if err != nil {
		return nil, err
	}
	return open(path)
}

// locate returns the checkpoint that path means: itself, or the newest in a run
// directory.
func locate(path string) (string, error) {
	path = filepath.Clean(path)
	if _, err := os.Stat(filepath.Join(path, manifestName)); err == nil {
		return path, nil
	}
	if _, ok := stepOf(filepath.Base(path)); ok {
		return path, nil
	}
	all, err := list(path)
	if err != nil {
		return "", err
	}
	if len(all) == 0 {
		return "", fmt.Errorf("%w in %s: it has neither a %s nor directories such as %s", ErrNone, path, manifestName, stepName(1000))
	}
	return all[0].path, nil
}

// Newest opens the newest checkpoint in a run directory that is intact, and
// returns what is wrong with those that are newer. It is for those who accept
// an older one and tell their user; others want [Open]. Where there is none at
// all, the error is ErrNone.
func Newest(dir string) (*Checkpoint, []error, error) {
	all, err := list(dir)
	if err != nil {
		return nil, nil, err
	}
	var damaged []error
	for _, found := range all {
		c, err := open(found.path)
		if err == nil {
			if err = c.Verify(); err == nil {
				return c, damaged, nil
			}
			c.Close()
		}
		damaged = append(damaged, err)
	}
	if len(damaged) == 0 {
		return nil, nil, fmt.Errorf("%w in %s", ErrNone, dir)
	}
	return nil, damaged, fmt.Errorf("no checkpoint in %s is intact: %w", dir, damaged[0])
}

// open opens the checkpoint at path.
func open(path string) (*Checkpoint, error) {
	m, err := readManifest(path)
	if err == nil {
		err = measure(path, m.files())
	}
	if err != nil {
		return nil, err
	}
	c := &Checkpoint{path: path, manifest: m}
	c.Weights, err = openTensors(path, "weight", m.Weights)
	if err == nil {
		c.Optimizer, err = openTensors(path, "tensor of the optimizer", m.Optimizer)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Close releases the files. Tensors and models that came from them must not be
// used afterwards.
func (c *Checkpoint) Close() error {
	err := errors.Join(c.Weights.close(), c.Optimizer.close())
	if c.model != nil {
		err = errors.Join(err, c.model.Close())
		c.model = nil
	}
	return err
}

// Path returns the checkpoint's directory.
func (c *Checkpoint) Path() string { return c.path }

// Step returns the step that the checkpoint was saved at.
func (c *Checkpoint) Step() int64 { return c.manifest.Step }

// Verify compares all files with their checksums.
func (c *Checkpoint) Verify() error { return verify(c.path, c.manifest.files()) }

// State reads state.json into v, as json.Unmarshal does.
func (c *Checkpoint) State(v any) error {
	text, err := readRegular(filepath.Join(c.path, c.manifest.State.Name), c.manifest.State.Bytes)
	if err == nil {
		err = json.Unmarshal(text, v)
	}
	if err != nil {
		return &DamageError{c.path, c.manifest.State.Name, err}
	}
	return nil
}

// Model returns the model with the weights of the checkpoint, which are those
// in its shards. It is not to be changed, and lives until Close.
func (c *Checkpoint) Model() (*onnx.Model, error) {
	if c.model == nil {
		m, err := onnx.ReadFile(filepath.Join(c.path, c.manifest.Model.Name))
		if err != nil {
			return nil, &DamageError{c.path, c.manifest.Model.Name, err}
		}
		c.model = m
	}
	return c.model, nil
}

// Tensors are named tensors in the shards of a checkpoint, however many there
// are.
type Tensors struct {
	path  string // of the checkpoint
	what  string // that each is called
	files []*safetensors.File
	names []string
	file  map[string]int
}

func openTensors(path, what string, shards []fileEntry) (*Tensors, error) {
	t := &Tensors{path: path, what: what, file: make(map[string]int)}
	for i, shard := range shards {
		f, err := safetensors.Open(filepath.Join(path, shard.Name))
		if err != nil {
			return t, &DamageError{path, shard.Name, err}
		}
		t.files = append(t.files, f)
		for _, e := range f.Entries() {
			if other, ok := t.file[e.Name]; ok {
				return t, &DamageError{path, shard.Name, fmt.Errorf("it has a tensor %q, as has %s", e.Name, shards[other].Name)}
			}
			t.file[e.Name] = i
			t.names = append(t.names, e.Name)
		}
	}
	slices.Sort(t.names)
	return t, nil
}

func (t *Tensors) close() error {
	if t == nil {
		return nil
	}
	var err error
	for _, f := range t.files {
		err = errors.Join(err, f.Close())
	}
	return err
}

// Names returns the names of all tensors, sorted.
func (t *Tensors) Names() []string { return t.names }

// Tensor returns a tensor. It aliases the checkpoint's files: it is not to be
// written to.
func (t *Tensors) Tensor(name string) (*tensor.Tensor, error) {
	i, ok := t.file[name]
	if !ok {
		return nil, fmt.Errorf("checkpoint %s has no %s %q: it was saved by a run of another model or optimizer", t.path, t.what, name)
	}
	return t.files[i].Tensor(name)
}

// CopyTo copies tensors, or parts of them, into those given, by name. Types and
// shapes of the whole must be the same; where one is not there or is another, nothing is copied. There may
// be more tensors in the checkpoint.
func (t *Tensors) CopyTo(into []Named) error {
	from := make([]*tensor.Tensor, len(into))
	for i, n := range into {
		x, err := t.Tensor(n.Name)
		if err != nil {
			return err
		}
		if x.Type != n.Type || !slices.Equal(x.Shape, n.Whole()) {
			return fmt.Errorf("checkpoint %s: the %s %q is %s, not %s: it was saved by a run of another model or optimizer", t.path, t.what, n.Name, x, n.Type.String()+tensor.FormatShape(n.Whole()))
		}
		from[i] = x
	}
	for i, n := range into {
		if err := n.TakeFrom(from[i]); err != nil {
			return err
		}
	}
	return nil
}

// CopyAllTo is CopyTo where the checkpoint must have no other tensors.
func (t *Tensors) CopyAllTo(into []Named) error {
	wanted := make(map[string]bool, len(into))
	for _, n := range into {
		wanted[n.Name] = true
	}
	for _, name := range t.names {
		if !wanted[name] {
			return fmt.Errorf("checkpoint %s has a %s %q, for which there is no use here: it was saved by a run of another model or optimizer", t.path, t.what, name)
		}
	}
	return t.CopyTo(into)
}
