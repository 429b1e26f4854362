package runtime

import (
	"slices"
	"unsafe"

	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// arenaAlignment keeps every value of an arena on cache lines of its own.
const arenaAlignment = 64

// arena is the memory of a plan's values on one side, and behind them the
// scratch memory of the steps there.
type arena struct {
	used    int // bytes of values
	scratch device.Scratch
	bytes   []byte // lent by a runner
}

// size returns the bytes that the arena needs.
func (a *arena) size() int { return a.used + a.scratch.Size() }

// arena returns that of the host, or of the device's own memory.
func (p *plan) arena(remote bool) *arena {
	if remote {
		return &p.remote
	}
	return &p.host
}

// layOut gives each planned value its place in an arena: values whose
// lifetimes do not overlap share memory, and elementwise steps write over
// inputs that nobody reads afterwards.
func (b *binder) layOut() error {
	b.lifetimes()
	b.reuseInputs()
	b.lifetimes()
	if err := b.layOutSide(false); err != nil || b.session.remote == nil {
		return err
	}
	return b.layOutSide(true)
}

func (b *binder) layOutSide(remote bool) error {
	p := b.plan
	// Lists of the slots whose memory is first, and last, in use at each step.
	starts, ends := make([]*slot, len(p.steps)), make([]*slot, len(p.steps)+1)
	for _, s := range slices.Backward(p.slots) {
		if s.planned && s.root == s && s.first >= 0 && s.remote == remote {
			s.size = roundUp(tensor.ByteSize(s.fact.Type, s.tensor.Len()))
			s.nextStart, starts[s.first] = starts[s.first], s
			s.nextEnd, ends[s.last] = ends[s.last], s
		}
	}
	var free freeList
	live, most := 0, 0
	for i := range p.steps {
		for s := starts[i]; s != nil; s = s.nextStart {
			s.offset = free.take(s.size)
			live += s.size
			if err := b.session.memory.admitBytes(free.top); err != nil {
				return err
			}
		}
		most = max(most, live)
		for s := ends[i]; s != nil; s = s.nextEnd {
			free.give(s.offset, s.size)
			live -= s.size
		}
	}
	p.arena(remote).used = free.top
	if free.top > most+most/arenaWaste {
		p.layOutBySize(remote)
	}
	return nil
}

// Going through the steps in order is fast, and is tried first. If the arena
// is larger than what is in use at one time by more than one part in
// arenaWaste, values are placed by their sizes instead, unless they are more
// than maxBySize, as the time for that grows with their square.
const (
	arenaWaste = 32
	maxBySize  = 2000
)

// layOutBySize places values from the largest to the smallest, each in the
// smallest gap between those that are in use at the same time. It changes
// nothing if the arena does not become smaller.
func (p *plan) layOutBySize(remote bool) {
	var values []*slot
	for _, s := range p.slots {
		if s.planned && s.root == s && s.first >= 0 && s.size > 0 && s.remote == remote {
			values = append(values, s)
		}
	}
	if len(values) > maxBySize {
		return
	}
	slices.SortStableFunc(values, func(a, b *slot) int { return b.size - a.size })
	type place struct {
		offset int
		slot   *slot
	}
	placed := make([]place, 0, len(values)) // by offset
	top := 0
	for _, s := range values {
		best, gap, end := -1, 0, 0
		for _, other := range placed {
			if other.slot.first > s.last || other.slot.last < s.first {
				continue
			}
			if room := other.offset - end; room >= s.size && (best < 0 || room < gap) {
				best, gap = end, room
			}
			end = max(end, other.offset+other.slot.size)
		}
		if best < 0 {
			best = end
		}
		top = max(top, best+s.size)
		at, _ := slices.BinarySearchFunc(placed, best, func(x place, offset int) int { return x.offset - offset })
		placed = slices.Insert(placed, at, place{best, s})
	}
	a := p.arena(remote)
	if top >= a.used {
		return
	}
	a.used = top
	for _, x := range placed {
		x.slot.offset = x.offset
	}
}

// lifetimes finds the steps between which each root is in use. What leaves
// the plan stays in use to its end.
func (b *binder) lifetimes() {
	p := b.plan
	for _, s := range p.slots {
		s.first, s.last = -1, -1
	}
	touch := func(s *slot, i int) {
		if s == nil {
			return
		}
		r := s.storage()
		if r.first < 0 {
			r.first = i
		}
		r.last = max(r.last, i)
	}
	for i, st := range p.steps {
		for _, s := range st.in {
			touch(s, i)
		}
		for _, s := range st.captured {
			touch(s, i)
		}
		for _, s := range st.out {
			touch(s, i)
		}
	}
	for _, s := range p.outputs {
		if r := s.storage(); r.first >= 0 {
			r.last = len(p.steps)
		}
	}
}

// reuseInputs lets elementwise steps write over an input that dies with them.
func (b *binder) reuseInputs() {
	for i, st := range b.plan.steps {
		if st.dynamic || !st.node.op.Operator.Elementwise || st.out[0] == nil {
			continue
		}
		out := st.out[0]
		for _, in := range st.in {
			if in == nil || !in.planned || in.storage().last != i ||
				in.fact.Type != out.fact.Type || !slices.Equal(in.fact.Shape, out.fact.Shape) {
				continue
			}
			in.storage().last = max(in.storage().last, out.storage().last)
			out.root = in.storage()
			break
		}
	}
}

func roundUp(n int) int { return (n + arenaAlignment - 1) &^ (arenaAlignment - 1) }

// freeList allocates ranges of an arena that grows as needed: from the
// smallest hole that fits, else at the top.
type freeList struct {
	holes []hole // by offset, never adjacent
	top   int
}

type hole struct{ offset, size int }

func (f *freeList) take(size int) int {
	best := -1
	for i, h := range f.holes {
		if h.size >= size && (best < 0 || h.size < f.holes[best].size) {
			best = i
		}
	}
	if best < 0 {
		// A hole that touches the top is extended.
		if last := len(f.holes) - 1; last >= 0 && f.holes[last].offset+f.holes[last].size == f.top {
			offset := f.holes[last].offset
			f.holes = f.holes[:last]
			f.top = offset + size
			return offset
		}
		f.top += size
		return f.top - size
	}
	h := &f.holes[best]
	offset := h.offset
	h.offset += size
	h.size -= size
	if h.size == 0 {
		f.holes = slices.Delete(f.holes, best, best+1)
	}
	return offset
}

func (f *freeList) give(offset, size int) {
	if size == 0 {
		return
	}
	i, _ := slices.BinarySearchFunc(f.holes, offset, func(h hole, at int) int { return h.offset - at })
	f.holes = slices.Insert(f.holes, i, hole{offset, size})
	if i+1 < len(f.holes) && f.holes[i].offset+f.holes[i].size == f.holes[i+1].offset {
		f.holes[i].size += f.holes[i+1].size
		f.holes = slices.Delete(f.holes, i+1, i+2)
	}
	if i > 0 && f.holes[i-1].offset+f.holes[i-1].size == f.holes[i].offset {
		f.holes[i-1].size += f.holes[i].size
		f.holes = slices.Delete(f.holes, i, i+1)
	}
}

// attach lets the plan's values on one side lie in the given memory, which
// must be as large as the arena.
func (p *plan) attach(memory []byte, remote bool) {
	a := p.arena(remote)
	if unsafe.SliceData(memory) == unsafe.SliceData(a.bytes) {
		return
	}
	a.bytes = memory
	a.scratch.Attach(memory[a.used:])
	for _, s := range p.slots {
		if r := s.storage(); s.planned && s.remote == remote && r.first >= 0 {
			size := tensor.ByteSize(s.fact.Type, s.tensor.Len())
			s.tensor.Data = memory[r.offset : r.offset+size : r.offset+size]
		}
	}
}

// alone reports whether no other value uses the memory of one that lies in an
// arena.
func (p *plan) alone(s *slot) bool {
	return s.planned && s.root == s && s.first >= 0 && len(s.tensor.Data) > 0 &&
		!slices.ContainsFunc(p.slots, func(other *slot) bool { return other != s && other.storage() == s })
}

// detach forgets the memory of one side if it is the given one.
func (p *plan) detach(memory []byte, remote bool) {
	a := p.arena(remote)
	if a.bytes == nil || unsafe.SliceData(memory) != unsafe.SliceData(a.bytes) {
		return
	}
	a.bytes = nil
	a.scratch.Attach(nil)
	for _, s := range p.slots {
		if s.planned && s.remote == remote {
			s.tensor.Data = nil
		}
	}
}
