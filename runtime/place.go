package runtime

import (
	goruntime "runtime"
	"slices"
	"sync"
	"unsafe"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// A device with memory of its own computes the steps that it takes, and the CPU
// the others: what the device has no kernel for, what is bound while the plan
// runs, and control flow. A value lies on the side that computes it, and is
// copied once to the other where it is wanted there. Inputs and outputs of a
// plan are on the host, unless they are resident.

// place decides for each step which side computes it, and adds the copies.
// Only those of the main program can be resident.
func (b *binder) place(main bool) error {
	if b.session.remote == nil {
		return nil
	}
	p := b.plan
	m := &mover{binder: b, copies: map[*slot]*slot{}, given: map[*slot]bool{}}
	for i, s := range p.inputs {
		s.remote = main && slices.Contains(b.session.staying, b.session.inputs[i].Name)
		m.given[s] = true
	}
	for _, s := range p.captures {
		m.given[s] = true
	}
	steps := p.steps
	p.steps = make([]*step, 0, 2*len(steps))
	for _, st := range steps {
		st.remote = b.takes(st)
		if !st.remote && st.isView() && !st.dynamic && m.given[st.in[0]] {
			m.given[st.out[0]] = true
			m.first = append(m.first, st)
			continue
		}
		for i, s := range st.in {
			if s == nil || st.remote && slices.Contains(st.node.op.Operator.Parameters, i) {
				continue
			}
			if err := m.move(&st.in[i], st.remote); err != nil {
				return err
			}
		}
		for i := range st.captured {
			if err := m.move(&st.captured[i], false); err != nil {
				return err
			}
		}
		for _, s := range st.out {
			if s != nil {
				s.remote = st.remote
			}
		}
		p.steps = append(p.steps, st)
	}
	for i := range p.outputs {
		resident := main && slices.Contains(b.session.staying, b.session.outputs[i].Name)
		if err := m.move(&p.outputs[i], resident); err != nil {
			return err
		}
	}
	p.steps = append(m.first, p.steps...)
	return nil
}

// takes reports whether the device computes a step. Views are where what they
// show is.
func (b *binder) takes(st *step) bool {
	if st.dynamic || st.node.control != nil {
		return false
	}
	if st.isView() {
		return st.in[0].remote
	}
	if !st.node.remote {
		return false
	}
	for _, s := range st.out {
		if s != nil && !s.planned {
			return false
		}
	}
	for _, s := range st.in {
		if s != nil && s.fact.Type == onnx.String {
			return false
		}
	}
	return b.session.remote.Takes(st.node.kernel, &device.Call{In: tensors(st.in), Out: tensors(st.out)})
}

// mover adds the copies of values that are wanted on the other side.
type mover struct {
	*binder
	copies map[*slot]*slot
	// What a run is given is copied first of all, so that nothing stands
	// between the steps that the device takes.
	given map[*slot]bool
	first []*step
}

// move puts in the place of a slot the one that has its value on a side.
func (m *mover) move(at **slot, remote bool) error {
	s := *at
	if s.remote == remote {
		return nil
	}
	c := m.copies[s]
	if c == nil {
		c = m.slot(s.fact)
		c.remote = remote
		m.copies[s] = c
		if s.fact.Value != nil { // a constant, or what binding has computed
			var err error
			if c.tensor, err = m.session.resident(s.fact.Value, s.lasting); err != nil {
				return err
			}
		} else {
			c.planned = true
			c.tensor = &tensor.Tensor{Type: s.tensor.Type, Shape: s.tensor.Shape}
			if copying := m.session.copying(s, c); m.given[s] {
				m.first = append(m.first, copying)
			} else {
				m.plan.steps = append(m.plan.steps, copying)
			}
		}
	}
	*at = c
	return nil
}

// copying returns the step that copies a value to the other side.
func (s *Session) copying(from, to *slot) *step {
	n, transfer := downloading, s.remote.Download
	if to.remote {
		n, transfer = uploading, s.remote.Upload
	}
	a, b := from.tensor, to.tensor
	st := &step{node: n, in: []*slot{from}, out: []*slot{to}, remote: true, run: func() error {
		if len(a.Data) == 0 {
			return nil
		}
		return transfer(b.Data, a.Data)
	}}
	if !to.remote {
		st.fetch = func() (func() error, error) {
			if len(a.Data) == 0 {
				return func() error { return nil }, nil
			}
			wait, err := s.remote.Fetch(a.Data)
			return func() error { return wait(b.Data) }, err
		}
	}
	return st
}

// residents are constants that the device has in its own memory, once for all
// plans, by where they begin in the host's.
type residents struct {
	mu    sync.Mutex
	bytes map[*byte][]byte
}

// resident returns a constant in the device's memory. That of one that does
// not last is given back with the tensor.
func (s *Session) resident(t *tensor.Tensor, lasting bool) (*tensor.Tensor, error) {
	r := &tensor.Tensor{Type: t.Type, Shape: t.Shape}
	if len(t.Data) == 0 {
		return r, nil
	}
	upload := func() ([]byte, error) {
		b, err := s.remote.Allocate(len(t.Data))
		if err != nil {
			return nil, err
		}
		return b, s.remote.Upload(b, t.Data)
	}
	var err error
	if !lasting {
		if r.Data, err = upload(); err == nil {
			goruntime.AddCleanup(r, func(b []byte) { _ = s.remote.Free(b) }, r.Data)
		}
		return r, err
	}
	s.residents.mu.Lock()
	defer s.residents.mu.Unlock()
	at := unsafe.SliceData(t.Data)
	if len(s.residents.bytes[at]) < len(t.Data) {
		b, err := upload()
		if err != nil {
			return nil, err
		}
		if s.residents.bytes == nil {
			s.residents.bytes = map[*byte][]byte{}
		}
		s.residents.bytes[at] = b
	}
	r.Data = s.residents.bytes[at][:len(t.Data)]
	return r, nil
}

// enter prepares the calling thread for what the device does; leave ends it.
func (s *Session) enter() (leave func(), err error) {
	if s.remote == nil {
		return func() {}, nil
	}
	return s.remote.Enter()
}

// spareKernel is the CPU's kernel of a node that the device computes, made
// when it is first needed.
type spareKernel struct {
	once   sync.Once
	kernel device.Kernel
	err    error
}

// kernel returns the kernel of a node, the CPU's unless it is to be a remote one.
func (s *Session) kernel(n *node, remote bool) (device.Kernel, error) {
	if n.remote == remote {
		return n.kernel, nil
	}
	n.spare.once.Do(func() {
		n.spare.kernel, n.spare.err = s.host.device.Compile(n.op, make([]*tensor.Tensor, len(n.in)))
	})
	return n.spare.kernel, n.spare.err
}

// folding returns the kernel with which a node is folded, nil where the CPU's
// is still to be made.
func (n *node) folding() device.Kernel {
	if n.remote {
		return nil
	}
	return n.kernel
}

// The nodes of copies, which profiles show.
var uploading, downloading = transfer("Upload"), transfer("Download")

func transfer(name string) *node {
	return &node{op: &op.Node{Node: &onnx.Node{OpType: name}, Operator: &op.Operator{Name: name}}}
}
