package runtime

import (
	"context"
	"fmt"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// Cache is an input that gets, in the next run, what an output gave in the
// last one, such as a decoder's past and present keys.
type Cache struct {
	Input, Output string
	First         *tensor.Tensor // what the first run gets
}

// State runs a model again and again, and carries caches from one run to the
// next. A cache [batch, heads, length, size] to which a run appends, and which
// only attention reads, stays in one place: a run writes what is new behind
// what is there. Others are copied. One goroutine at a time may use a state.
type State struct {
	runner *Runner
	layout cacheLayout
	caches []cacheMemory
}

// cacheLayout says which inputs and outputs of a program are caches, and how
// many vectors the heads of those that stay in place have room for.
type cacheLayout struct {
	inputs, outputs []int
	room            int
}

func (l *cacheLayout) equal(other *cacheLayout) bool {
	if l == nil || other == nil {
		return l == other
	}
	return l.room == other.room && slices.Equal(l.inputs, other.inputs) && slices.Equal(l.outputs, other.outputs)
}

// cacheMemory is what a cache holds. Heads lie room vectors apart, or one
// behind the other where room is 0.
type cacheMemory struct {
	tensor *tensor.Tensor
	room   int
}

// NewState returns a state whose caches have their first content. They have
// room for the given length, and are moved when they grow beyond it.
func (s *Session) NewState(room int, caches ...Cache) (*State, error) {
	st := &State{layout: cacheLayout{room: max(room, 1)}}
	named := func(list []*onnx.ValueInfo, name string) int {
		return slices.IndexFunc(list, func(v *onnx.ValueInfo) bool { return v.Name == name })
	}
	for _, c := range caches {
		input, output := named(s.Inputs(), c.Input), named(s.Outputs(), c.Output)
		switch {
		case input < 0:
			return nil, fmt.Errorf("there is no input %q; the model has %s", c.Input, s.inputNames())
		case output < 0:
			return nil, fmt.Errorf("there is no output %q for the cache of input %q", c.Output, c.Input)
		case slices.Contains(st.layout.inputs, input) || slices.Contains(st.layout.outputs, output):
			return nil, fmt.Errorf("input %q or output %q belongs to two caches", c.Input, c.Output)
		}
		if err := s.admits(input, c.First); err != nil {
			return nil, err
		}
		st.layout.inputs, st.layout.outputs = append(st.layout.inputs, input), append(st.layout.outputs, output)
		st.caches = append(st.caches, cacheMemory{tensor: c.First.Clone()})
	}
	st.runner = s.runners.take(s)
	st.runner.caches = &st.layout
	return st, nil
}

// Close lends the state's memory, but for that of its caches, to later runs of
// the session. The state must not be used any more, nor its last outputs.
func (st *State) Close() {
	r := st.runner
	r.release()
	r.caches = nil
	r.session.runners.give(r)
}

// Run is [Runner.Run], for which inputs and outputs that are caches are nil.
// After an error the caches are what they were before.
func (st *State) Run(ctx context.Context, inputs []*tensor.Tensor) ([]*tensor.Tensor, error) {
	r := st.runner
	list := slices.Clone(inputs)
	for i, input := range st.layout.inputs {
		if input < len(list) {
			list[input] = st.caches[i].tensor
		}
	}
	if err := r.admits(list); err != nil {
		return nil, err
	}
	plan, err := st.prepare(list)
	if err != nil {
		return nil, err
	}
	outputs, err := r.run(ctx, r.session.main, list, nil)
	if err != nil {
		return nil, err
	}
	outputs = slices.Clone(outputs)
	for i, output := range st.layout.outputs {
		st.caches[i].keep(outputs[output], plan.inPlace[i])
		outputs[output] = nil
	}
	return outputs, nil
}

// prepare binds the runner, and lets each cache lie in memory as the plan
// wants it.
func (st *State) prepare(inputs []*tensor.Tensor) (*plan, error) {
	r := st.runner
	for {
		if err := r.bind(r.session.main, inputs, nil); err != nil {
			return nil, err
		}
		plan := r.bound.plan
		if plan.cacheLength > st.layout.room {
			st.layout.room = max(plan.cacheLength, 2*st.layout.room)
			continue
		}
		return plan, st.place(plan)
	}
}

// place moves caches to where the plan wants them, as far as memory allows.
func (st *State) place(plan *plan) error {
	memory, total := st.runner.session.memory, plan.host.size()
	for i, kept := range plan.inPlace {
		room := 0
		if kept {
			room = st.layout.room
		}
		c := &st.caches[i]
		shape := c.shape(room)
		if err := memory.admit(c.tensor.Type, shape); err != nil {
			return err
		}
		total += tensor.ByteSize(c.tensor.Type, tensor.Count(shape))
		if err := memory.admitBytes(total); err != nil {
			return err
		}
	}
	for i, kept := range plan.inPlace {
		c := &st.caches[i]
		if !kept {
			c.move(0)
			continue
		}
		c.move(st.layout.room)
		plan.results[st.layout.outputs[i]].Data = c.tensor.Data
	}
	return nil
}

// shape returns the shape of the memory whose heads have room for so many
// vectors, or just for those that there are where room is 0.
func (c *cacheMemory) shape(room int) []int {
	shape := slices.Clone(c.tensor.Shape)
	if room > 0 {
		shape[2] = room
	}
	return shape
}

// move lets heads lie room vectors apart, or one behind the other for 0.
func (c *cacheMemory) move(room int) {
	if c.room == room {
		return
	}
	t, shape := c.tensor, c.shape(room)
	to := tensor.New(t.Type, shape...)
	vector := tensor.ByteSize(t.Type, t.Shape[3])
	length, from, into := t.Shape[2]*vector, t.Shape[2]*vector, shape[2]*vector
	if c.room > 0 {
		from = c.room * vector
	}
	for head := range t.Shape[0] * t.Shape[1] {
		copy(to.Data[head*into:][:length], t.Data[head*from:])
	}
	c.tensor, c.room = &tensor.Tensor{Type: t.Type, Shape: slices.Clone(t.Shape), Data: to.Data}, room
}

// keep remembers a run's output. If it was written in place only its shape is
// new.
func (c *cacheMemory) keep(t *tensor.Tensor, inPlace bool) {
	if !inPlace {
		c.tensor = t.Clone()
		return
	}
	c.tensor.Shape = slices.Clone(t.Shape)
}

// keepCaches finds out which caches can stay in place. Their slots have
// memory of the state's, with room.
func (b *binder) keepCaches(layout *cacheLayout) {
	if layout == nil {
		return
	}
	p := b.plan
	p.layout = &cacheLayout{inputs: layout.inputs, outputs: layout.outputs, room: layout.room}
	p.inPlace = make([]bool, len(layout.inputs))
	uses := b.usesOfCaches()
	for i := range layout.inputs {
		if b.session.remote != nil {
			continue // the state's memory is the host's
		}
		past, present := p.inputs[layout.inputs[i]], p.outputs[layout.outputs[i]]
		if !appends(past, present, uses[past], uses[present]) {
			continue
		}
		p.inPlace[i] = true
		p.cacheLength = max(p.cacheLength, present.tensor.Shape[2])
		past.room, present.room = layout.room, layout.room
		present.planned = false
	}
}

// cacheUse is what a plan does with the slot of a cache.
type cacheUse struct {
	maker   *step
	readers []*step
	inputs  []int // of the readers
	results int   // how often it is an output
	hidden  bool  // read by a subgraph
}

func (b *binder) usesOfCaches() map[*slot]*cacheUse {
	p := b.plan
	uses := map[*slot]*cacheUse{}
	for i := range p.layout.inputs {
		uses[p.inputs[p.layout.inputs[i]]] = &cacheUse{}
		uses[p.outputs[p.layout.outputs[i]]] = &cacheUse{}
	}
	for _, st := range p.steps {
		for i, s := range st.in {
			if u := uses[s]; u != nil {
				u.readers, u.inputs = append(u.readers, st), append(u.inputs, i)
			}
		}
		for _, s := range st.captured {
			if u := uses[s]; u != nil {
				u.hidden = true
			}
		}
		for _, s := range st.out {
			if u := uses[s]; u != nil {
				u.maker = st
			}
		}
	}
	for _, s := range p.outputs {
		if u := uses[s]; u != nil {
			u.results++
		}
	}
	return uses
}

// appends reports whether a plan does nothing with a past but append to it, and
// nothing with what it makes thereby but return it and let kernels read it that
// know of room between heads.
func appends(past, present *slot, ofPast, ofPresent *cacheUse) bool {
	st := ofPresent.maker
	if st == nil || st.dynamic || !present.planned || present.root != present || len(present.fact.Shape) != 4 ||
		ofPast.hidden || ofPresent.hidden || ofPast.results != 0 || ofPresent.results != 1 {
		return false
	}
	if t := present.fact.Type; t != onnx.Float32 && t != onnx.Float64 { // others are computed in float32
		return false
	}
	if len(ofPast.readers) != 1 || ofPast.readers[0] != st {
		return false
	}
	n := st.node.op
	if output, ok := n.Operator.Appends[ofPast.inputs[0]]; !ok || st.out[output] != present {
		return false
	}
	if n.OpType == "Concat" {
		if axis, err := op.Axis(n.Int("axis", 0), 4); err != nil || axis != 2 || len(st.in) != 2 {
			return false
		}
	}
	for i, reader := range ofPresent.readers {
		operator, input := reader.node.op.Operator, ofPresent.inputs[i]
		if _, appends := operator.Appends[input]; reader.dynamic || appends || !slices.Contains(operator.Caches, input) {
			return false
		}
	}
	return true
}

// rooms returns the room of each slot, nil where none has any.
func rooms(slots []*slot) []int {
	var list []int
	for i, s := range slots {
		if s != nil && s.room > 0 {
			if list == nil {
				list = make([]int, len(slots))
			}
			list[i] = s.room
		}
	}
	return list
}
