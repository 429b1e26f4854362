package runtime

import (
	"context"
	"fmt"
	goruntime "runtime"
	"slices"
	"sync"

	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// Runner runs a session's model again and again in memory that it keeps: a
// run for inputs of the same shapes as the last ones allocates nothing. One
// goroutine at a time may use it; a session may have several.
type Runner struct {
	session *Session
	bound   *boundProgram // nil before the first run, and after one that failed
	arena   []byte
	remote  []byte       // an arena in the device's own memory
	caches  *cacheLayout // nil without a state
}

// NewRunner returns a runner, which takes memory with its first run.
func (s *Session) NewRunner() *Runner { return &Runner{session: s} }

// Run computes the outputs of the model for the given inputs, both in the
// order in which the session lists them. The outputs are the runner's: they
// hold until its next run and must not be written to. It stops between nodes
// when ctx is done.
func (r *Runner) Run(ctx context.Context, inputs []*tensor.Tensor) ([]*tensor.Tensor, error) {
	if err := r.admits(inputs); err != nil {
		return nil, err
	}
	return r.run(ctx, r.session.main, inputs, nil)
}

// RunInto is Run for outputs that the caller has memory for: outputs has a
// tensor for each, of its type and shape. An output may have the memory of an
// input of which each element is read before that of the same place is written,
// and which no other node reads afterwards; this is not checked.
func (r *Runner) RunInto(ctx context.Context, inputs, outputs []*tensor.Tensor) error {
	if err := r.admits(inputs); err != nil {
		return err
	}
	plan, err := r.prepare(r.session.main, inputs, nil)
	if err != nil {
		return err
	}
	lent := make([][]byte, len(outputs))
	for i, s := range plan.outputs {
		to := outputs[i]
		if to.Type != s.fact.Type || !slices.Equal(to.Shape, s.tensor.Shape) {
			return fmt.Errorf("output %d is %s, memory for %s is given", i, s.tensor, to)
		}
		if plan.alone(s) {
			lent[i], s.tensor.Data = s.tensor.Data, to.Data
		}
	}
	err = plan.run(ctx, r.session, inputs, nil)
	for i, s := range plan.outputs {
		if lent[i] != nil {
			s.tensor.Data = lent[i]
		} else if err == nil {
			err = r.session.copy(outputs[i].Data, s)
		}
	}
	if err != nil {
		r.bound = nil
	}
	return err
}

// copy copies the content of an output.
func (s *Session) copy(to []byte, from *slot) error {
	if from.remote && len(to) > 0 {
		return s.entered(func() error { return s.remote.Copy(to, from.tensor.Data) })
	}
	copy(to, from.tensor.Data)
	return nil
}

// Close gives back the memory that the runner has on a device. Outputs that it
// returned must not be used any more.
func (r *Runner) Close() error {
	r.release()
	old := r.remote
	r.remote = nil
	if len(old) == 0 {
		return nil
	}
	r.session.plans.detach(old, true)
	return r.session.remote.Free(old)
}

func (r *Runner) admits(inputs []*tensor.Tensor) error {
	s := r.session
	if len(inputs) != len(s.inputs) {
		return fmt.Errorf("there are %d inputs, the model needs %s", len(inputs), s.inputNames())
	}
	for i, t := range inputs {
		if err := s.admits(i, t); err != nil {
			return err
		}
	}
	return nil
}

func (r *Runner) run(ctx context.Context, p *program, inputs, captures []*tensor.Tensor) ([]*tensor.Tensor, error) {
	plan, err := r.prepare(p, inputs, captures)
	if err != nil {
		return nil, err
	}
	if err := plan.run(ctx, r.session, inputs, captures); err != nil {
		r.bound = nil
		return nil, err
	}
	return plan.results, nil
}

// prepare gives the plan for inputs and captures its memory.
func (r *Runner) prepare(p *program, inputs, captures []*tensor.Tensor) (*plan, error) {
	if err := r.bind(p, inputs, captures); err != nil {
		return nil, err
	}
	plan := r.bound.plan
	r.reserve(plan.host.size())
	plan.attach(r.arena, false)
	if err := r.reserveRemote(plan.remote.size()); err != nil {
		return nil, err
	}
	plan.attach(r.remote, true)
	return plan, nil
}

// bind finds or makes the plan for inputs and captures.
func (r *Runner) bind(p *program, inputs, captures []*tensor.Tensor) (err error) {
	if r.bound.is(p, inputs, captures, r.caches) {
		return nil
	}
	r.release()
	r.bound, err = r.session.plans.take(r.session, p, inputs, captures, r.caches)
	return err
}

// reserve lets the arena have at least size bytes.
func (r *Runner) reserve(size int) {
	if len(r.arena) >= size {
		return
	}
	old := r.arena
	r.arena = nil
	r.session.plans.detach(old, false)
	if len(old) > 0 {
		size += size / arenaSpare // shapes that grow once are likely to grow again
	}
	if len(old) > collectorSlack {
		goruntime.GC()
	}
	r.arena = tensor.AlignedBytes(size)
}

// reserveRemote is reserve for the arena in the device's own memory.
func (r *Runner) reserveRemote(size int) error {
	if len(r.remote) >= size {
		return nil
	}
	old := r.remote
	r.remote = nil
	device := r.session.remote
	if len(old) > 0 {
		r.session.plans.detach(old, true)
		if err := device.Free(old); err != nil {
			return err
		}
		size += size / arenaSpare
	}
	var err error
	r.remote, err = device.Allocate(size)
	return err
}

// arenaSpare says which part of a plan's size an arena that has to grow gets
// beyond it.
const arenaSpare = 8

// release gives the plan back, for any runner to use.
func (r *Runner) release() {
	if r.bound != nil {
		r.session.plans.give(r.bound)
		r.bound = nil
	}
}

// boundProgram is a program with its plan for inputs and captures of certain
// types and shapes.
type boundProgram struct {
	program *program
	plan    *plan
}

func (b *boundProgram) is(p *program, inputs, captures []*tensor.Tensor, caches *cacheLayout) bool {
	return b != nil && b.program == p && b.plan.layout.equal(caches) && sameKinds(b.plan.inputs, inputs) && sameKinds(b.plan.captures, captures)
}

// sameKinds reports whether tensors have the types and shapes of slots.
func sameKinds(slots []*slot, list []*tensor.Tensor) bool {
	return slices.EqualFunc(slots, list, func(s *slot, t *tensor.Tensor) bool {
		return s.fact.Type == t.Type &&
			slices.EqualFunc(s.fact.Shape, t.Shape, func(d op.Dim, n int) bool { return int(d) == n })
	})
}

// maxIdlePlans bounds how many plans a session keeps for later runs.
const maxIdlePlans = 16

// planStore keeps plans that no runner uses, the most recently used last.
type planStore struct {
	mu   sync.Mutex
	idle []*boundProgram
}

// take finds or makes a plan.
func (ps *planStore) take(s *Session, p *program, inputs, captures []*tensor.Tensor, caches *cacheLayout) (*boundProgram, error) {
	ps.mu.Lock()
	for i, b := range ps.idle {
		if b.is(p, inputs, captures, caches) {
			ps.idle = slices.Delete(ps.idle, i, i+1)
			ps.mu.Unlock()
			return b, nil
		}
	}
	ps.mu.Unlock()
	plan, err := s.bind(p, inputs, captures, caches)
	if err != nil {
		return nil, err
	}
	return &boundProgram{program: p, plan: plan}, nil
}

func (ps *planStore) give(b *boundProgram) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if len(ps.idle) == maxIdlePlans {
		ps.idle = slices.Delete(ps.idle, 0, 1)
	}
	ps.idle = append(ps.idle, b)
}

// detach makes plans forget memory that is given up, which their values
// would otherwise keep in memory.
func (ps *planStore) detach(memory []byte, remote bool) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for _, b := range ps.idle {
		b.plan.detach(memory, remote)
	}
}

// runnerStore lends runners for single runs.
type runnerStore struct {
	mu   sync.Mutex
	idle []*Runner
}

func (rs *runnerStore) take(s *Session) *Runner {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	last := len(rs.idle) - 1
	if last < 0 {
		return s.NewRunner()
	}
	r := rs.idle[last]
	rs.idle = rs.idle[:last]
	return r
}

func (rs *runnerStore) give(r *Runner) {
	r.release()
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.idle = append(rs.idle, r)
}
