package runtime

import (
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// slot is a value of a plan.
type slot struct {
	fact   op.Fact
	tensor *tensor.Tensor

	// root is whose memory the slot uses: its own, or that of the slot that
	// it is a view of or took over from; see storage.
	root *slot

	// planned: the memory is a part of the arena. Everything else (inputs,
	// constants, what is computed by dynamic steps) has memory of its own.
	planned            bool
	first, last        int // the steps between which a root's memory is in use
	offset             int
	size               int
	nextStart, nextEnd *slot // in the lists of layOut
	needed             bool
	room               int  // of a cache that stays in place
	lasting            bool // a constant of the program
	remote             bool // the memory is the device's own, not the host's
}

// storage returns the slot that owns the memory.
func (s *slot) storage() *slot {
	for s.root != s {
		s = s.root
	}
	return s
}

// step is one operation of a plan.
type step struct {
	node     *node
	in, out  []*slot // nil where absent
	captured []*slot // what the node's subgraphs use
	dynamic  bool    // to be bound while the plan runs
	remote   bool    // computed where the device has memory of its own
	run      func() error
	fetch    func() (wait func() error, err error) // begins a copy to the host; nil for other steps
}

// isView reports whether output 0 has the elements of input 0.
func (st *step) isView() bool {
	o := st.node.op.Operator
	return o.View || o.ViewOfSame && !st.dynamic && st.out[0] != nil && slices.Equal(st.in[0].fact.Shape, st.out[0].fact.Shape)
}

// plan is a program bound to the types and shapes of its inputs. One run at a
// time may use it.
type plan struct {
	inputs, captures, outputs []*slot
	results                   []*tensor.Tensor // of outputs
	steps                     []*step
	slots                     []*slot
	host, remote              arena
	units                     []unit
	at                        *node          // that runs
	fetched                   []func() error // that wait for what is on its way to the host
	given                     []*byte        // where the last run had its memory on the device

	// Of a state's caches: which ones stay in place, and the greatest length
	// that one of those gets.
	layout      *cacheLayout
	inPlace     []bool
	cacheLength int
}

// bindFoldLimit bounds the bytes of a value that is computed once for a plan
// instead of at each run: shape arithmetic, position tables, masks.
const bindFoldLimit = 1 << 18

// binder makes a plan.
type binder struct {
	session   *Session
	plan      *plan
	symbols   op.Symbols
	inference op.Inference
	facts     []op.Fact // of a node's inputs

	// The memory of the plan's parts.
	slots   slab[slot]
	steps   slab[step]
	lists   slab[*slot]
	headers slab[tensor.Tensor]
	tensors slab[*tensor.Tensor]
	ints    slab[int]
	calls   slab[device.Call]
}

// slab hands out memory that is allocated for many at a time.
type slab[T any] struct{ free []T }

// slabSize is how many elements a slab allocates.
const slabSize = 64

func (s *slab[T]) take(n int) []T {
	if s.free == nil || len(s.free) < n { // never nil, which for a shape means unknown
		s.free = make([]T, max(n, slabSize))
	}
	taken := s.free[:n:n]
	s.free = s.free[n:]
	return taken
}

// bind plans a program for inputs and captured values of the given types and
// shapes.
func (s *Session) bind(p *program, inputs, captures []*tensor.Tensor, caches *cacheLayout) (*plan, error) {
	leave, err := s.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	b := &binder{session: s, plan: &plan{steps: make([]*step, 0, len(p.nodes)), slots: make([]*slot, 0, len(p.values))}}
	b.inference.Symbols = &b.symbols
	env := make([]*slot, len(p.values))
	for i, id := range p.inputs {
		env[id] = b.external(inputs[i])
		b.plan.inputs = append(b.plan.inputs, env[id])
	}
	for i, c := range p.captures {
		env[c.inner] = b.external(captures[i])
		b.plan.captures = append(b.plan.captures, env[c.inner])
	}
	if err := b.program(p, env); err != nil {
		return nil, err
	}
	for _, id := range p.outputs {
		b.plan.outputs = append(b.plan.outputs, b.value(p, env, id))
	}
	b.removeUnneeded()
	if err := b.place(p == s.main); err != nil {
		return nil, err
	}
	b.keepCaches(caches)
	if err := b.layOut(); err != nil {
		return nil, err
	}
	b.plan.results = b.tensorsOf(b.plan.outputs)
	if err := b.kernels(); err != nil {
		return nil, err
	}
	b.plan.divide(s)
	s.notePlan(b.plan.host.size() + b.plan.remote.size())
	return b.plan, nil
}

// external makes the slot of a tensor that each run supplies anew.
func (b *binder) external(t *tensor.Tensor) *slot {
	s := b.slot(op.Fact{Type: t.Type, Shape: op.Dims(t.Shape...)})
	s.tensor = &tensor.Tensor{Type: t.Type, Shape: slices.Clone(t.Shape)}
	return s
}

func (b *binder) slot(f op.Fact) *slot {
	s := &b.slots.take(1)[0]
	s.fact, s.root = f, s
	if f.Value != nil {
		s.tensor = f.Value
	}
	b.plan.slots = append(b.plan.slots, s)
	return s
}

// value returns the slot of a program's value, making that of a constant.
func (b *binder) value(p *program, env []*slot, id int) *slot {
	if id == absent {
		return nil
	}
	if env[id] == nil {
		env[id] = b.slot(p.values[id].fact)
		env[id].lasting = true
	}
	return env[id]
}

// program adds the steps of p, whose inputs and captures env holds already.
func (b *binder) program(p *program, env []*slot) error {
	for _, n := range p.nodes {
		err := guard(n.op.Node, func() error { return b.node(p, n, env) })
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *binder) node(p *program, n *node, env []*slot) error {
	st := &b.steps.take(1)[0]
	st.node, st.in, st.out = n, b.lists.take(len(n.in)), b.lists.take(len(n.out))
	facts := b.facts[:0]
	for i, id := range n.in {
		facts = append(facts, op.Fact{})
		if st.in[i] = b.value(p, env, id); st.in[i] != nil {
			facts[i] = st.in[i].fact
		}
	}
	b.facts = facts
	if n.control != nil {
		if branch := n.control.resolve(n, facts); branch != nil {
			return b.inline(p, n, branch, env)
		}
		for _, body := range n.bodies {
			for _, c := range body.captures {
				st.captured = append(st.captured, b.value(p, env, c.outer))
			}
		}
		st.dynamic = true
	}
	var outputs []op.Fact
	if st.dynamic {
		outputs = make([]op.Fact, len(n.out))
	} else {
		st.dynamic = !ready(n, facts)
		var err error
		if outputs, err = b.inference.Infer(n.op, facts); err != nil {
			return err
		}
		if !st.dynamic {
			if err := b.session.host.fold(n.op, n.folding(), facts, outputs, bindFoldLimit); err != nil {
				return err
			}
		}
	}
	folded := true
	for i, id := range n.out {
		if id == absent && (i > 0 || n.control != nil) {
			continue
		}
		st.out[i] = b.slot(outputs[i]) // kernels always have their first output
		if id != absent {
			env[id] = st.out[i]
		}
		folded = folded && outputs[i].Value != nil
		st.dynamic = st.dynamic || !outputs[i].Concrete()
	}
	if folded {
		return nil
	}
	for _, s := range st.out {
		if s != nil {
			if err := b.memory(s, st.dynamic); err != nil {
				return err
			}
		}
	}
	if st.isView() && st.out[0] != nil {
		st.out[0].root = st.in[0]
		st.out[0].planned = st.in[0].planned && !st.dynamic
	}
	b.plan.steps = append(b.plan.steps, st)
	return nil
}

// memory decides where the output of a step lies: in the arena, or in memory
// of its own where its size is not known yet or it holds strings.
func (b *binder) memory(s *slot, dynamic bool) error {
	if s.fact.Value != nil { // later steps may be bound to this content
		s.tensor = s.fact.Value.Clone()
		return nil
	}
	s.tensor = &b.headers.take(1)[0]
	s.tensor.Type = s.fact.Type
	if !s.fact.Concrete() {
		return nil
	}
	s.tensor.Shape = b.ints.take(len(s.fact.Shape))
	for i, d := range s.fact.Shape {
		s.tensor.Shape[i] = int(d)
	}
	if err := b.session.memory.admit(s.fact.Type, s.tensor.Shape); err != nil {
		return err
	}
	switch {
	case dynamic:
	case s.fact.Type == onnx.String:
		s.tensor = tensor.New(onnx.String, s.tensor.Shape...)
	default:
		s.planned = true
	}
	return nil
}

// ready reports whether a node can be bound: the shapes of its inputs are
// known, and the content of those that decide how it computes.
func ready(n *node, facts []op.Fact) bool {
	for i := range facts {
		if n.in[i] != absent && !facts[i].Concrete() {
			return false
		}
	}
	for _, i := range n.op.Operator.Parameters {
		if i < len(facts) && n.in[i] != absent && facts[i].Value == nil {
			return false
		}
	}
	return true
}

// inline adds the steps of the branch that an If is known to take.
func (b *binder) inline(p *program, n *node, branch *program, env []*slot) error {
	inner := make([]*slot, len(branch.values))
	for _, c := range branch.captures {
		inner[c.inner] = b.value(p, env, c.outer)
	}
	if err := b.program(branch, inner); err != nil {
		return err
	}
	for i, id := range n.out {
		if id != absent {
			env[id] = b.value(branch, inner, branch.outputs[i])
		}
	}
	return nil
}

// removeUnneeded drops steps whose outputs nobody reads: what fed only shape
// arithmetic that binding has done.
func (b *binder) removeUnneeded() {
	p := b.plan
	for _, s := range p.outputs {
		s.needed = true
	}
	kept := len(p.steps)
	for i := len(p.steps) - 1; i >= 0; i-- {
		st := p.steps[i]
		needed := false
		for _, s := range st.out {
			needed = needed || s != nil && s.needed
		}
		if !needed {
			continue
		}
		for i, s := range st.out {
			if s != nil && !s.needed && (i > 0 || st.node.control != nil) {
				st.out[i] = nil
			}
		}
		for _, s := range st.in {
			if s != nil {
				s.needed = true
			}
		}
		for _, s := range st.captured {
			s.needed = true
		}
		kept--
		p.steps[kept] = st
	}
	p.steps = p.steps[kept:]
}

// kernels binds every step that can be.
func (b *binder) kernels() error {
	for _, st := range b.plan.steps {
		n := st.node
		if st.dynamic || st.run != nil {
			continue
		}
		if st.isView() {
			st.run = view(st.in[0].tensor, st.out[0].tensor)
			continue
		}
		call := &b.calls.take(1)[0]
		*call = device.Call{In: b.tensorsOf(st.in), Out: b.tensorsOf(st.out), Rooms: rooms(st.in), Scratch: &b.plan.arena(st.remote).scratch}
		err := guard(n.op.Node, func() error {
			kernel, err := b.session.kernel(n, st.remote)
			if err == nil {
				st.run, err = kernel.Bind(call)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return b.session.memory.admitBytes(b.plan.host.size())
}

// view lets out show the memory of in, which may be another at each run.
func view(in, out *tensor.Tensor) func() error {
	return func() error {
		out.Data, out.Strings = in.Data, in.Strings
		return nil
	}
}

func (b *binder) tensorsOf(slots []*slot) []*tensor.Tensor {
	return fill(b.tensors.take(len(slots)), slots)
}

func tensors(slots []*slot) []*tensor.Tensor {
	return fill(make([]*tensor.Tensor, len(slots)), slots)
}

func fill(list []*tensor.Tensor, slots []*slot) []*tensor.Tensor {
	for i, s := range slots {
		if s != nil {
			list[i] = s.tensor
		}
	}
	return list
}
