package runtime

import (
	"context"
	"time"
	"unsafe"

	"github.com/fmoe-go/fmoe/runtime/device"
)

// unit is a part of a plan's steps. When the plan has run twice in the same
// memory, a device records it and, from then on, plays it.
type unit struct {
	steps   []*step
	records bool
	play    func() error // nil while not recorded
}

// shortest is how many steps are worth a recording.
const shortest = 4

// divide makes the units of a plan.
func (p *plan) divide(s *Session) {
	if _, records := s.remote.(device.Recorder); !records || s.profile != nil {
		p.units = []unit{{steps: p.steps}}
		return
	}
	end := func(lo int, recordable bool) int {
		hi := lo
		for hi < len(p.steps) && p.steps[hi].recordable() == recordable {
			hi++
		}
		return hi
	}
	for lo := 0; lo < len(p.steps); {
		records := p.steps[lo].recordable()
		hi := end(lo, records)
		p.units = append(p.units, unit{steps: p.steps[lo:hi], records: records && hi-lo >= shortest})
		lo = hi
	}
}

// recordable reports whether a step does nothing but let a device compute.
func (st *step) recordable() bool {
	return st.remote && st.node != uploading && st.node != downloading
}

// steady reports whether the last run used the same memory on the device. If
// not, recordings are of no use any more.
func (p *plan) steady() bool {
	n, same := 0, true
	note := func(b []byte) {
		at := unsafe.SliceData(b)
		if n == len(p.given) {
			p.given = append(p.given, nil)
		}
		same = same && p.given[n] == at
		p.given[n] = at
		n++
	}
	for _, list := range [...][]*slot{p.inputs, p.outputs} {
		for _, s := range list {
			if s.remote {
				note(s.tensor.Data)
			}
		}
	}
	note(p.remote.bytes)
	if !same {
		for i := range p.units {
			p.units[i].play = nil
		}
	}
	return same
}

// run executes a unit, and tells the plan at which node it is.
func (u *unit) run(ctx context.Context, s *Session, p *plan) error {
	for _, st := range u.steps {
		if err := ctx.Err(); err != nil {
			return err
		}
		p.at = st.node
		if st.fetch != nil && s.profile == nil {
			wait, err := st.fetch()
			if err != nil {
				return err
			}
			p.fetched = append(p.fetched, wait)
			continue
		}
		if len(p.fetched) > 0 && !st.recordable() { // it may want what is on its way
			if err := p.settle(); err != nil {
				return err
			}
		}
		if err := st.timed(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// settle waits for what is on its way to the host.
func (p *plan) settle() error {
	var first error
	for _, wait := range p.fetched {
		if err := wait(); first == nil {
			first = err
		}
	}
	clear(p.fetched)
	p.fetched = p.fetched[:0]
	return first
}

// repeat executes a unit in the memory of its last run.
func (u *unit) repeat(ctx context.Context, s *Session, p *plan) error {
	if !u.records {
		return u.run(ctx, s, p)
	}
	if u.play == nil {
		play, err := s.remote.(device.Recorder).Record(func() error { return u.run(ctx, s, p) })
		if err != nil { // some library's function refuses: what else is wrong, a run tells
			u.records = false
			return u.run(ctx, s, p)
		}
		u.play = play
	}
	p.at = u.steps[0].node
	return u.play()
}

// timed executes a step, and notes its time if that is wanted.
func (st *step) timed(ctx context.Context, s *Session) error {
	if s.profile == nil {
		return st.execute(ctx, s)
	}
	start := time.Now()
	err := st.execute(ctx, s)
	if st.remote && err == nil {
		err = s.remote.Wait()
	}
	s.profile.add(st.node, time.Since(start))
	return err
}
