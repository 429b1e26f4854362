package train

import (
	"context"
	"errors"
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// Where sessions compute on a device with memory of its own, parameters, their
// gradients and the states of the optimizer lie there for as long as the
// trainer lives. The host has copies for checkpoints alone.

// reside moves parameters and states to the device.
func (t *Trainer) reside() error {
	if !t.session.Remote() {
		return nil
	}
	if !t.options.Workers.Alone() {
		return errors.New("several workers train on the CPU only: leave out --workers and --parallel, or --device")
	}
	for _, p := range t.parameters {
		if p.master != nil {
			return fmt.Errorf("parameter %q is %s, and trained on the CPU only; store weights in float32 and train with --set precision=bfloat16", p.Name, p.Type)
		}
		var err error
		if p.weight, err = t.moved(p.weight); err != nil {
			return err
		}
		for i := range p.states {
			if p.states[i], err = t.moved(p.states[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// moved returns a copy on the device.
func (t *Trainer) moved(x *tensor.Tensor) (*tensor.Tensor, error) {
	far, err := t.session.NewTensor(x.Type, x.Shape...)
	if err != nil {
		return nil, err
	}
	return far, t.session.Upload(far, x)
}

// hosted returns a tensor of the trainer in the host's memory: itself, or a
// copy.
func (t *Trainer) hosted(x *tensor.Tensor) (*tensor.Tensor, error) {
	if !t.session.Remote() {
		return x, nil
	}
	near := tensor.New(x.Type, x.Shape...)
	return near, t.session.Download(near, x)
}

// squares returns the sums of squares of gradients, 0 for those that are nil.
func (t *Trainer) squares(ctx context.Context, gradients []*tensor.Tensor) ([]float64, error) {
	if !t.session.Remote() {
		return sumsOfSquares(gradients, t.threads()), nil
	}
	var given []*tensor.Tensor
	for _, g := range gradients {
		if g != nil {
			given = append(given, g)
		}
	}
	if t.squaring == nil {
		m, b := newGraph("squares")
		names := make([]string, len(given))
		for i, g := range given {
			names[i] = b.input(fmt.Sprintf("gradient_%d", i), g.Type, dimensions(g.Shape))
		}
		b.output(b.add(&onnx.Node{Domain: moe.Domain, OpType: "SumOfSquares"}, 1, names...)[0])
		var err error
		if t.squaring, err = t.beside(m, names); err != nil {
			return nil, err
		}
	}
	out, err := t.squaring.runner.Run(ctx, given)
	if err != nil {
		return nil, err
	}
	x, err := tensor.Float64s(out[0])
	if err != nil {
		return nil, err
	}
	sums := make([]float64, len(gradients))
	for i, g := range gradients {
		if g != nil {
			sums[i], x = x[0], x[1:]
		}
	}
	return sums, nil
}

// add adds a gradient to the sum of those of the batches before, which it
// becomes where it is the first.
func (t *Trainer) add(p *parameter, g *tensor.Tensor, first bool) (err error) {
	if !t.session.Remote() {
		g = inFloat32(g)
		switch {
		case p.sum == nil:
			p.sum = g.Clone()
		case first:
			copy(p.sum.Data, g.Data)
		default:
			addTo(p.sum, g)
		}
		return nil
	}
	if p.sum == nil {
		if p.sum, err = t.session.NewTensor(g.Type, p.Shape...); err != nil {
			return err
		}
	}
	if first {
		return t.session.Copy(p.sum, g)
	}
	if t.adding == nil {
		t.adding = map[onnx.DataType]*besideSession{}
	}
	if t.adding[g.Type] == nil {
		m, b := newGraph("sum")
		names := []string{b.input("a", g.Type, []int64{-1}), b.input("b", g.Type, []int64{-1})}
		b.output(b.op("Add", names...))
		if t.adding[g.Type], err = t.beside(m, append(names, m.Graph.Outputs[0].Name)); err != nil {
			return err
		}
	}
	flat := func(x *tensor.Tensor) *tensor.Tensor {
		return &tensor.Tensor{Type: x.Type, Shape: []int{x.Len()}, Data: x.Data}
	}
	return t.adding[g.Type].runner.RunInto(ctxOfUpdates, []*tensor.Tensor{flat(p.sum), flat(g)}, []*tensor.Tensor{flat(p.sum)})
}

// ctxOfUpdates is that of what is finished once it has begun.
var ctxOfUpdates = context.Background()

// besideSession computes on the device of the trainer's session.
type besideSession struct {
	session *runtime.Session
	runner  *runtime.Runner
}

// beside compiles a model whose inputs and outputs of the given names are
// resident.
func (t *Trainer) beside(m *onnx.Model, resident []string) (*besideSession, error) {
	o := t.options.Runtime
	o.Gradient, o.Beside, o.Resident = nil, t.session, resident
	s, err := runtime.New(m, o)
	if err != nil {
		return nil, err
	}
	return &besideSession{s, s.NewRunner()}, nil
}

func (b *besideSession) close() error {
	if b == nil {
		return nil
	}
	return errors.Join(b.runner.Close(), b.session.Close())
}

// newGraph returns a model to be filled.
func newGraph(name string) (*onnx.Model, *builder) {
	m := &onnx.Model{IRVersion: 10, OpsetImports: []onnx.OpsetImport{{Version: 23}, {Domain: "com.microsoft", Version: 1}}, Graph: &onnx.Graph{Name: name}}
	return m, newBuilder(m)
}

func dimensions(shape []int) []int64 {
	list := make([]int64, len(shape))
	for i, d := range shape {
		list[i] = int64(d)
	}
	return list
}
