package devicetest

import (
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"sync"
	"unsafe"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/cpu"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// Faraway is the name of a device with memory of its own that is made of the
// CPU: it computes two thirds of all operators, records what it computes, and
// finds fault with tensors that lie on the wrong side.
const Faraway = "faraway"

type faraway struct {
	device.Device
	mu     sync.Mutex
	memory map[*byte]int // what is allocated
	counts device.Counts
	noting bool           // a recording is made
	noted  []func() error // what kernels do then
}

func init() {
	device.Register(Faraway, func(o device.Options) (device.Device, error) {
		return &faraway{Device: cpu.New(o), memory: map[*byte]int{}}, nil
	})
}

func (*faraway) Name() string { return Faraway }

func (f *faraway) Supports(domain, opType string) bool {
	h := fnv.New32a()
	fmt.Fprint(h, domain, opType)
	return h.Sum32()%3 != 0 && f.Device.Supports(domain, opType)
}

func (f *faraway) Compile(n *op.Node, constants []*tensor.Tensor) (device.Kernel, error) {
	k, err := f.Device.Compile(n, make([]*tensor.Tensor, len(constants)))
	return farKernel{k, n, f}, err
}

type farKernel struct {
	device.Kernel
	node *op.Node
	far  *faraway
}

func (k farKernel) Bind(c *device.Call) (func() error, error) {
	compute, err := k.Kernel.Bind(c)
	if err != nil {
		return nil, err
	}
	check := func() error {
		for i, t := range c.In {
			if t != nil && !slices.Contains(k.node.Operator.Parameters, i) && !k.far.has(t.Data) {
				return fmt.Errorf("input %d is not in the device's memory", i)
			}
		}
		for i, t := range c.Out {
			if t != nil && !k.far.has(t.Data) {
				return fmt.Errorf("output %d is not in the device's memory", i)
			}
		}
		return compute()
	}
	return func() error {
		if !k.far.noting {
			k.far.count(func(c *device.Counts) { c.Kernels++ })
			return check()
		}
		noted := addresses(c)
		k.far.noted = append(k.far.noted, func() error {
			if !slices.Equal(noted, addresses(c)) {
				return errors.New("a recording is played for other memory")
			}
			return check()
		})
		return nil
	}, nil
}

// addresses returns where the tensors of a call lie.
func addresses(c *device.Call) (list []*byte) {
	for _, t := range slices.Concat(c.In, c.Out) {
		if t != nil {
			list = append(list, unsafe.SliceData(t.Data))
		}
	}
	return list
}

func (f *faraway) Record(begin func() error) (func() error, error) {
	f.noting, f.noted = true, nil
	err := begin()
	f.noting = false
	kernels := f.noted
	return func() error {
		f.count(func(c *device.Counts) { c.Graphs++; c.GraphNodes += int64(len(kernels)) })
		for _, k := range kernels {
			if err := k(); err != nil {
				return err
			}
		}
		return nil
	}, err
}

func (f *faraway) Counts() device.Counts {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.counts
}

func (f *faraway) count(add func(*device.Counts)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	add(&f.counts)
}

func (f *faraway) has(b []byte) bool {
	if len(b) == 0 {
		return true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	at := uintptr(unsafe.Pointer(&b[0]))
	for p, n := range f.memory {
		if from := uintptr(unsafe.Pointer(p)); at >= from && at+uintptr(len(b)) <= from+uintptr(n) {
			return true
		}
	}
	return false
}

func (f *faraway) Takes(_ device.Kernel, c *device.Call) bool { return c.Out[0].Type != onnx.Int32 }

func (*faraway) Enter() (func(), error) { return func() {}, nil }

func (f *faraway) Allocate(n int) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b := tensor.AlignedBytes(n)
	for i := range b {
		b[i] = 0xa5 // no device's memory is zero by itself
	}
	f.memory[&b[0]] = n
	f.counts.Allocations++
	return b, nil
}

func (f *faraway) Free(b []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.memory, &b[0])
	return nil
}

func (f *faraway) Upload(to, from []byte) error {
	f.count(func(c *device.Counts) { c.Uploads++; c.BytesUp += int64(len(to)) })
	return f.move(to, from, to)
}

func (f *faraway) Download(to, from []byte) error {
	f.count(func(c *device.Counts) { c.Waits++; c.Downloads++; c.BytesDown += int64(len(to)) })
	return f.move(to, from, from)
}

func (f *faraway) Fetch(from []byte) (func([]byte) error, error) {
	f.count(func(c *device.Counts) { c.Downloads++; c.BytesDown += int64(len(from)) })
	arrived := make([]byte, len(from))
	err := f.move(arrived, from, from)
	return func(to []byte) error {
		copy(to, arrived)
		return nil
	}, err
}

func (f *faraway) Copy(to, from []byte) error {
	if err := f.move(to, from, to); err != nil {
		return err
	}
	return f.move(to, from, from)
}

func (f *faraway) Clear(b []byte) error {
	clear(b)
	return f.move(b, b, b)
}

func (f *faraway) move(to, from, far []byte) error {
	if f.noting || len(to) != len(from) || !f.has(far) {
		return errors.New("a copy does not fit, has the wrong sides, or is recorded")
	}
	copy(to, from)
	return nil
}

func (f *faraway) Wait() error {
	f.count(func(c *device.Counts) { c.Waits++ })
	return nil
}
