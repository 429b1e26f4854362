package runtime

import (
	"bytes"
	"context"
	"slices"
	"sync"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// execute runs a program: it finds or makes the plan for the shapes at hand,
// lends it memory, and returns the outputs in memory of their own.
func (s *Session) execute(ctx context.Context, p *program, inputs, captures []*tensor.Tensor) ([]*tensor.Tensor, error) {
	plan, err := s.plans.take(s, p, inputs, captures)
	if err != nil {
		return nil, err
	}
	arena := s.arenas.take(plan.plan.size())
	plan.plan.attach(arena)
	err = plan.plan.run(ctx, s, inputs, captures)
	var outputs []*tensor.Tensor
	if err == nil {
		outputs = make([]*tensor.Tensor, len(plan.plan.outputs))
		for i, o := range plan.plan.outputs {
			outputs[i] = o.tensor.Clone()
		}
		s.plans.give(plan)
	}
	s.arenas.give(arena)
	return outputs, err
}

func (p *plan) run(ctx context.Context, s *Session, inputs, captures []*tensor.Tensor) error {
	lend := func(slots []*slot, list []*tensor.Tensor) {
		for i, t := range list {
			slots[i].tensor.Data, slots[i].tensor.Strings = t.Data, t.Strings
		}
	}
	lend(p.inputs, inputs)
	lend(p.captures, captures)
	for _, st := range p.steps {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := st.execute(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

func (st *step) execute(ctx context.Context, s *Session) (err error) {
	return guard(st.node.op.Node, func() error {
		if st.dynamic {
			return st.bindAndRun(ctx, s)
		}
		return st.run()
	})
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
			out, err = s.evaluator.run(n.op, n.kernel, in, outputs)
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

// maxIdlePlans bounds how many plans a session keeps for later runs.
const maxIdlePlans = 16

// planStore keeps plans that no run uses, the most recently used last.
type planStore struct {
	mu   sync.Mutex
	idle []*storedPlan
	key  []byte
}

type storedPlan struct {
	program *program
	key     []byte
	plan    *plan
}

func (ps *planStore) take(s *Session, p *program, inputs, captures []*tensor.Tensor) (*storedPlan, error) {
	ps.mu.Lock()
	ps.key = signature(ps.key[:0], inputs, captures)
	for i, c := range ps.idle {
		if c.program == p && bytes.Equal(c.key, ps.key) {
			ps.idle = slices.Delete(ps.idle, i, i+1)
			ps.mu.Unlock()
			return c, nil
		}
	}
	key := slices.Clone(ps.key)
	ps.mu.Unlock()
	plan, err := s.bind(p, inputs, captures)
	return &storedPlan{program: p, key: key, plan: plan}, err
}

func (ps *planStore) give(p *storedPlan) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if len(ps.idle) == maxIdlePlans {
		ps.idle = slices.Delete(ps.idle, 0, 1)
	}
	ps.idle = append(ps.idle, p)
}

// arenaStore lends memory to plans, so that plans for many shapes share it.
type arenaStore struct {
	mu   sync.Mutex
	idle [][]byte
}

func (as *arenaStore) take(size int) []byte {
	as.mu.Lock()
	defer as.mu.Unlock()
	if last := len(as.idle) - 1; last >= 0 {
		arena := as.idle[last]
		as.idle = as.idle[:last]
		if len(arena) >= size {
			return arena
		}
	}
	return tensor.AlignedBytes(size)
}

func (as *arenaStore) give(arena []byte) {
	as.mu.Lock()
	defer as.mu.Unlock()
	as.idle = append(as.idle, arena)
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
