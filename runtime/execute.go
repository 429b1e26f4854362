package runtime

import (
	"context"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// execute runs a program: it finds or makes the plan for the shapes at hand,
// lends it memory, and returns the outputs in memory of their own.
func (s *Session) execute(ctx context.Context, p *program, inputs, captures []*tensor.Tensor) ([]*tensor.Tensor, error) {
	r := s.runners.take(s)
	defer s.runners.give(r)
	lent, err := r.run(ctx, p, inputs, captures)
	if err != nil {
		return nil, err
	}
	outputs := make([]*tensor.Tensor, len(lent))
	for i, t := range lent {
		if !r.bound.plan.outputs[i].remote {
			outputs[i] = t.Clone()
			continue
		}
		outputs[i] = tensor.New(t.Type, t.Shape...)
		if err := s.Download(outputs[i], t); err != nil {
			return nil, err
		}
	}
	return outputs, nil
}

// run executes the steps. An error or a panic is told of the step's node.
func (p *plan) run(ctx context.Context, s *Session, inputs, captures []*tensor.Tensor) (err error) {
	leave, err := s.enter()
	if err != nil {
		return err
	}
	defer leave()
	lend(p.inputs, inputs)
	lend(p.captures, captures)
	defer func() {
		if r := recover(); r != nil {
			err = panicked(p.at.op.Node, r)
		}
	}()
	steady := s.remote != nil && p.steady()
	for i := range p.units {
		if steady {
			err = p.units[i].repeat(ctx, s, p)
		} else {
			err = p.units[i].run(ctx, s, p)
		}
		if err != nil {
			if err == ctx.Err() {
				return err
			}
			_ = p.settle() // nobody reads what arrives
			return failed(p.at.op.Node, err)
		}
	}
	if len(p.fetched) == 0 {
		return nil
	}
	return p.settle()
}

// lend lets slots have the content of the caller's tensors.
func lend(slots []*slot, list []*tensor.Tensor) {
	for i, t := range list {
		slots[i].tensor.Data, slots[i].tensor.Strings = t.Data, t.Strings
	}
}

func (st *step) execute(ctx context.Context, s *Session) error {
	if st.dynamic {
		return st.bindAndRun(ctx, s)
	}
	return st.run()
}

// bindAndRun computes a step whose binding had to wait for its inputs.
func (st *step) bindAndRun(ctx context.Context, s *Session) error {
	n := st.node
	in := tensors(st.in)
	var out []*tensor.Tensor
	var err error
	switch {
	case n.control != nil:
		out, err = n.control.run(ctx, s, n, in, tensors(st.captured))
	default:
		facts := make([]op.Fact, len(in))
		for i, t := range in {
			if t != nil {
				facts[i] = op.FactOf(t)
			}
		}
		var outputs []op.Fact
		if outputs, err = op.Infer(n.op, facts, &op.Symbols{}); err != nil {
			return err
		}
		if n.op.Operator.View && outputs[0].Concrete() {
			out = []*tensor.Tensor{{Type: outputs[0].Type, Shape: outputs[0].Ints(), Data: in[0].Data, Strings: in[0].Strings}}
		} else {
			var kernel device.Kernel
			if kernel, err = s.kernel(n, false); err == nil {
				out, err = s.host.run(n.op, kernel, in, outputs)
			}
		}
	}
	if err != nil {
		return err
	}
	for i, o := range st.out {
		if o != nil {
			*o.tensor = *out[i]
		}
	}
	return nil
}

// fits reports whether a tensor is one that the graph declares.
func fits(v *onnx.ValueInfo, t *tensor.Tensor) bool {
	if v.Type == nil || v.Type.Kind != onnx.KindTensor {
		return true
	}
	if v.Type.ElemType != onnx.Undefined && v.Type.ElemType != t.Type {
		return false
	}
	if v.Type.Shape == nil {
		return true
	}
	if len(v.Type.Shape.Dims) != len(t.Shape) {
		return false
	}
	for i, d := range v.Type.Shape.Dims {
		if d.Known && d.Value >= 0 && d.Value != int64(t.Shape[i]) {
			return false
		}
	}
	return true
}
