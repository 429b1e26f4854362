package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
	"github.com/fmoe-go/fmoe/runtime/train/safetensors"
)

// Writer is a checkpoint that is being written. Any number of processes write
// into its directory, each shards of its own or, by a [Plan], parts of the same
// ones; one of them began it, gathers what the others tell, and commits. How
// many there were, nobody can tell from the result.
type Writer struct {
	run  *Run
	step int64
	path string
}

// Begin makes the directory of a new checkpoint.
func (r *Run) Begin(step int64) (*Writer, error) {
	if step < 0 {
		return nil, r.failed(step, errors.New("a step cannot be negative"))
	}
	w := &Writer{r, step, r.hidden(step, "tmp")}
	if err := r.files.Mkdir(w.path); err != nil {
		return nil, r.failed(step, err)
	}
	return w, nil
}

// Path returns the directory to write shards into.
func (w *Writer) Path() string { return w.path }

// Abort removes what has been written. What it cannot remove, the next OpenRun
// will.
func (w *Writer) Abort() { _ = w.run.files.RemoveAll(w.path) }

// Shard is a file of tensors in the directory of a Writer. It can be sent to
// another process as JSON.
type Shard struct {
	fileEntry
	Optimizer bool                // of its state, rather than weights
	Tensors   []safetensors.Entry // where they are in the file
}

// WriteShards writes tensors into the directory of a Writer, as one of the
// processes that do so; rank is its number.
func WriteShards(path string, rank int, weights, optimizer []Named, o Options) ([]Shard, error) {
	var all []Shard
	for _, section := range []struct {
		tensors   []Named
		optimizer bool
	}{{weights, false}, {optimizer, true}} {
		for _, tensors := range split(section.tensors, o.shardBytes()) {
			s := Shard{Optimizer: section.optimizer}
			var err error
			s.fileEntry, err = writeFile(o.fileSystem(), path, fmt.Sprintf("shard-%05d-%05d", rank, len(all)), func(out io.Writer) (err error) {
				s.Tensors, err = safetensors.Write(out, tensors, map[string]string{"format": "pt"})
				return err
			})
			if err != nil {
				return nil, err
			}
			all = append(all, s)
		}
	}
	return all, nil
}

// split cuts a list of tensors into shards of at most limit bytes, or of one
// tensor.
func split(tensors []Named, limit int64) [][]Named {
	var shards [][]Named
	room := int64(0)
	for _, t := range tensors {
		size := int64(0)
		if t.Tensor != nil {
			size = int64(tensor.ByteSize(t.Type, t.Len()))
		}
		if len(shards) == 0 || size > room {
			shards, room = append(shards, nil), limit
		}
		last := len(shards) - 1
		shards[last] = append(shards[last], t)
		room -= size
	}
	return shards
}

// Commit makes a checkpoint of the shards, and then removes older ones that
// are no longer to be kept; see [Run.Save]. Initializers of the model that are
// in no shard are stored with it.
func (w *Writer) Commit(m *onnx.Model, state any, shards []Shard) (string, error) {
	r := w.run
	if err := w.complete(m, state, shards); err != nil {
		w.Abort()
		return "", r.failed(w.step, err)
	}
	replaced, err := w.publish()
	if err != nil {
		w.Abort()
		return "", r.failed(w.step, err)
	}
	path := filepath.Join(r.dir, stepName(w.step))
	if replaced != "" {
		err = r.files.RemoveAll(replaced)
	}
	if err = errors.Join(err, r.prune(w.step)); err != nil {
		return path, fmt.Errorf("%s is complete, but older checkpoints could not be removed: %w", path, err)
	}
	return path, nil
}

// complete gives the shards their names and writes what else belongs to the
// checkpoint.
func (w *Writer) complete(m *onnx.Model, state any, shards []Shard) error {
	stateText, err := encodeState(state)
	if err != nil {
		return err
	}
	list := manifest{Format: formatVersion, Step: w.step}
	if err := w.nameShards(&list, shards); err != nil {
		return err
	}
	model, err := refer(m, shards)
	if err != nil {
		return err
	}
	write := func(name string, content []byte) (entry fileEntry) {
		if err == nil {
			entry, err = writeFile(w.run.files, w.path, name, func(out io.Writer) error {
				_, err := out.Write(content)
				return err
			})
		}
		return entry
	}
	list.Model = write(modelName, model)
	list.State = write(stateName, stateText)
	text, encodeErr := json.MarshalIndent(list, "", " ")
	write(manifestName, append(text, '\n'))
	if err == nil {
		err = errors.Join(encodeErr, w.run.files.SyncDir(w.path))
	}
	return err
}

// nameShards renames the shards to what they are of their section, and lists
// them.
func (w *Writer) nameShards(list *manifest, shards []Shard) error {
	for _, section := range []struct {
		name      string
		optimizer bool
		entries   *[]fileEntry
	}{{"weights", false, &list.Weights}, {"optimizer", true, &list.Optimizer}} {
		total := 0
		for _, s := range shards {
			if s.Optimizer == section.optimizer {
				total++
			}
		}
		*section.entries = make([]fileEntry, 0, total)
		for i := range shards {
			s := &shards[i]
			if s.Optimizer != section.optimizer {
				continue
			}
			name := fmt.Sprintf("%s-%05d-of-%05d.safetensors", section.name, len(*section.entries)+1, total)
			if err := w.run.files.Rename(filepath.Join(w.path, s.Name), filepath.Join(w.path, name)); err != nil {
				return err
			}
			s.Name = name
			*section.entries = append(*section.entries, s.fileEntry)
		}
	}
	return nil
}

// refer returns the encoded model, whose initializers that are in shards refer
// to them. A name that two shards of a section have is an error.
func refer(m *onnx.Model, shards []Shard) ([]byte, error) {
	if m == nil || m.Graph == nil {
		return nil, errors.New("there is no model")
	}
	m = m.Clone()
	if err := m.Embed(); err != nil {
		return nil, err
	}
	initializers := make(map[string]*onnx.Tensor, len(m.Graph.Initializers))
	for _, t := range m.Graph.Initializers {
		initializers[t.Name] = t
	}
	seen := make(map[string]string)
	for _, s := range shards {
		for _, e := range s.Tensors {
			key := fmt.Sprint(s.Optimizer, e.Name)
			if seen[key] != "" {
				return nil, fmt.Errorf("%s and %s both have a tensor %q", seen[key], s.Name, e.Name)
			}
			seen[key] = s.Name
			if s.Optimizer {
				continue
			}
			t := initializers[e.Name]
			if t == nil {
				return nil, fmt.Errorf("the model's graph has no initializer %q", e.Name)
			}
			if err := fits(e.Type, e.Shape, t); err != nil {
				return nil, err
			}
			t.SetExternal(s.Name, e.Offset, e.Size)
		}
	}
	return onnx.Encode(m)
}

// publish gives the complete checkpoint its name. It returns the path of one
// that had it before, if any.
func (w *Writer) publish() (replaced string, err error) {
	files, final := w.run.files, filepath.Join(w.run.dir, stepName(w.step))
	if _, err := os.Lstat(final); err == nil {
		replaced = w.run.hidden(w.step, "old")
		if err := files.Rename(final, replaced); err != nil {
			return "", err
		}
	}
	if err := files.Rename(w.path, final); err != nil {
		if replaced != "" {
			err = errors.Join(err, files.Rename(replaced, final))
		}
		return "", err
	}
	return replaced, files.SyncDir(w.run.dir)
}

// advise adds to an error of the system what to do about it.
func advise(err error) error {
	for _, c := range []struct {
		cause  syscall.Errno
		advice string
	}{
		{syscall.ENOSPC, "free some space, or keep fewer checkpoints"},
		{syscall.EDQUOT, "free some space, or keep fewer checkpoints"},
		{syscall.EFBIG, "ask for smaller shards"},
		{syscall.EROFS, "choose a directory that can be written to"},
		{syscall.EACCES, "choose a directory that can be written to"},
		{syscall.EPERM, "choose a directory that can be written to"},
	} {
		if errors.Is(err, c.cause) {
			return fmt.Errorf("%w: %s", err, c.advice)
		}
	}
	return err
}
