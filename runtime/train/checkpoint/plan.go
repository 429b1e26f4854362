package checkpoint

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
	"github.com/fmoe-go/fmoe/runtime/train/safetensors"
)

// Piece is what a process has of a tensor. It can be sent as JSON.
type Piece struct {
	Name      string
	Optimizer bool // of its state, rather than a weight
	Type      onnx.DataType
	Shape     []int // of the whole tensor
	From      []int // where the piece begins along each axis
	Size      []int // of the piece
}

// Pieces lists what a process has.
func Pieces(weights, optimizer []Named) []Piece {
	var list []Piece
	for i, n := range slices.Concat(weights, optimizer) {
		p := Piece{Name: n.Name, Optimizer: i >= len(weights), Type: n.Type, Shape: n.Whole(), From: make([]int, len(n.Shape)), Size: n.Shape}
		if n.Part != nil {
			p.From = n.Part.From
		}
		list = append(list, p)
	}
	return list
}

// Plan is how several processes write the tensors of a checkpoint together:
// into the same shards, each what it has, so that no tensor is ever gathered.
// It can be sent as JSON. All processes [Plan.Write]; when all have, each calls
// [Plan.Sum]; and one commits what these returned.
type Plan struct {
	Path    string
	Shards  []Shard  // without checksums
	Writers [][]bool // by process: which of its pieces it writes
}

// Plan plans for processes with these pieces, and makes the files. Of pieces
// that several processes have, one writes each. It fails where a tensor has an
// element that nobody has.
func (w *Writer) Plan(processes [][]Piece) (*Plan, error) {
	plan := &Plan{Path: w.path, Writers: make([][]bool, len(processes))}
	var weights, optimizer []Named
	missing := map[string]int{} // elements
	key := func(p *Piece) string { return fmt.Sprint(p.Optimizer, " ", p.Name) }
	have := map[string]*Piece{}
	holders := map[string][]int{} // by piece: processes
	place := func(p *Piece) string { return fmt.Sprint(key(p), p.From, p.Size) }
	for rank, pieces := range processes {
		for i := range pieces {
			p := &pieces[i]
			first := have[key(p)]
			if first == nil {
				have[key(p)] = p
				missing[key(p)] = tensor.Count(p.Shape)
				whole := Named{Name: p.Name, Tensor: &tensor.Tensor{Type: p.Type, Shape: p.Shape}}
				if p.Optimizer {
					optimizer = append(optimizer, whole)
				} else {
					weights = append(weights, whole)
				}
			} else if first.Type != p.Type || !slices.Equal(first.Shape, p.Shape) {
				return nil, w.run.failed(w.step, fmt.Errorf("processes have the tensor %q as %s%v and as %s%v", p.Name, first.Type, first.Shape, p.Type, p.Shape))
			}
			if holders[place(p)] == nil {
				missing[key(p)] -= tensor.Count(p.Size)
			}
			holders[place(p)] = append(holders[place(p)], rank)
		}
	}
	for _, pieces := range processes {
		for i := range pieces {
			if n := missing[key(&pieces[i])]; n != 0 {
				return nil, w.run.failed(w.step, fmt.Errorf("of the tensor %q %d elements are with no process, or with several that divide it in other ways", pieces[i].Name, n))
			}
		}
	}
	plan.share(processes, func(p *Piece) []int { return holders[place(p)] })
	if err := w.lay(plan, weights, optimizer); err != nil {
		return nil, w.run.failed(w.step, err)
	}
	return plan, nil
}

// share lets the process with the fewest bytes so far write a piece.
func (p *Plan) share(processes [][]Piece, holders func(*Piece) []int) {
	bytes := make([]int, len(processes))
	for rank, pieces := range processes {
		p.Writers[rank] = make([]bool, len(pieces))
	}
	for rank, pieces := range processes {
		for i := range pieces {
			at := &pieces[i]
			others := holders(at)
			if others[0] != rank { // decided already
				continue
			}
			least := slices.MinFunc(others, func(a, b int) int { return bytes[a] - bytes[b] })
			bytes[least] += tensor.ByteSize(at.Type, tensor.Count(at.Size))
			j := slices.IndexFunc(processes[least], func(x Piece) bool {
				return x.Name == at.Name && x.Optimizer == at.Optimizer && slices.Equal(x.From, at.From) && slices.Equal(x.Size, at.Size)
			})
			p.Writers[least][j] = true
		}
	}
}

// lay places tensors in shards, and makes the files.
func (w *Writer) lay(plan *Plan, weights, optimizer []Named) error {
	for _, section := range []struct {
		tensors   []Named
		optimizer bool
	}{{weights, false}, {optimizer, true}} {
		for _, tensors := range split(section.tensors, w.run.options.shardBytes()) {
			s := Shard{Optimizer: section.optimizer}
			s.Name = fmt.Sprintf("shard-%05d-%05d", 0, len(plan.Shards))
			head, entries, err := safetensors.Layout(tensors, map[string]string{"format": "pt"})
			if err != nil {
				return err
			}
			s.Tensors = entries
			for _, e := range entries {
				s.Bytes = max(s.Bytes, e.Offset+e.Size)
			}
			f, err := w.run.files.Create(filepath.Join(w.path, s.Name))
			if err != nil {
				return err
			}
			_, err = f.Write(head)
			if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
				return err
			}
			plan.Shards = append(plan.Shards, s)
		}
	}
	return nil
}

// Write writes what the process of that number is to write of what it has,
// which is what it listed for the plan, and syncs it.
func (p *Plan) Write(rank int, weights, optimizer []Named, o Options) error {
	if rank >= len(p.Writers) || len(p.Writers[rank]) != len(weights)+len(optimizer) {
		return fmt.Errorf("the plan of the checkpoint in %s is for another process than %d with %d tensors", p.Path, rank, len(weights)+len(optimizer))
	}
	mine := map[string]Named{} // by section and name
	for i, n := range slices.Concat(weights, optimizer) {
		if p.Writers[rank][i] {
			mine[fmt.Sprint(i >= len(weights), " ", n.Name)] = n
		}
	}
	for _, s := range p.Shards {
		if err := s.write(p.Path, mine, o.fileSystem()); err != nil {
			return fmt.Errorf("%s: %w", filepath.Join(p.Path, s.Name), advise(err))
		}
	}
	return nil
}

// write writes those tensors that are in the shard.
func (s *Shard) write(dir string, mine map[string]Named, fs fileSystem) (err error) {
	var f file
	for _, e := range s.Tensors {
		n, ok := mine[fmt.Sprint(s.Optimizer, " ", e.Name)]
		if !ok {
			continue
		}
		if f == nil {
			if f, err = fs.Edit(filepath.Join(dir, s.Name)); err != nil {
				return err
			}
			defer func() { err = errors.Join(err, f.Close()) }()
		}
		err := n.Ranges(func(whole, part int64, bytes int) error {
			_, err := f.WriteAt(n.Data[part:part+int64(bytes)], e.Offset+whole)
			return err
		})
		if err != nil {
			return err
		}
	}
	if f == nil {
		return nil
	}
	return f.Sync()
}

// Sum returns the process's share of the shards, with checksums, which it reads
// from the files. All processes must have written.
func (p *Plan) Sum(rank int) ([]Shard, error) {
	var list []Shard
	buffer := make([]byte, 1<<20)
	for i := rank; i < len(p.Shards); i += len(p.Writers) {
		s := p.Shards[i]
		path := filepath.Join(p.Path, s.Name)
		info, err := os.Stat(path)
		if err == nil && info.Size() != s.Bytes {
			err = fmt.Errorf("%s has %d bytes, not %d", path, info.Size(), s.Bytes)
		}
		if err == nil {
			s.CRC32C, err = sumFile(path, buffer)
		}
		if err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, nil
}
