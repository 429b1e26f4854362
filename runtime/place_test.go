package runtime_test

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"sync"
	"testing"
	"unsafe"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/cpu"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/devicetest"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// faraway is a device with memory of its own that is made of the CPU: it
// computes two thirds of all operators, and finds fault with tensors that lie
// on the wrong side.
type faraway struct {
	device.Device
	mu      sync.Mutex
	memory  map[*byte]int // what is allocated
	entered int
}

func init() {
	device.Register("faraway", func(o device.Options) (device.Device, error) {
		return &faraway{Device: cpu.New(o), memory: map[*byte]int{}}, nil
	})
}

func (*faraway) Name() string { return "faraway" }

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
	return func() error {
		for i, t := range c.In {
			parameter := false
			for _, p := range k.node.Operator.Parameters {
				parameter = parameter || p == i
			}
			if t != nil && !parameter && !k.far.has(t.Data) {
				return fmt.Errorf("input %d is not in the device's memory", i)
			}
		}
		for i, t := range c.Out {
			if t != nil && !k.far.has(t.Data) {
				return fmt.Errorf("output %d is not in the device's memory", i)
			}
		}
		return compute()
	}, nil
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

func (f *faraway) Enter() (func(), error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.entered++
	return func() {}, nil
}

func (f *faraway) Allocate(n int) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b := tensor.AlignedBytes(n)
	f.memory[&b[0]] = n
	return b, nil
}

func (f *faraway) Free(b []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.memory, &b[0])
	return nil
}

func (f *faraway) Upload(to, from []byte) error   { return f.move(to, from, to) }
func (f *faraway) Download(to, from []byte) error { return f.move(to, from, from) }

func (f *faraway) move(to, from, far []byte) error {
	if len(to) != len(from) || !f.has(far) {
		return errors.New("a copy does not fit, or has the wrong sides")
	}
	copy(to, from)
	return nil
}

func (*faraway) Wait() error { return nil }

// TestRemoteONNXCases runs ONNX's operator cases partly on a device with memory
// of its own.
func TestRemoteONNXCases(t *testing.T) {
	for _, c := range devicetest.ONNXCases(t) {
		if devicetest.Exception(c) != "" {
			continue
		}
		if outcome, err := devicetest.Run(c, runtime.Options{Device: "faraway"}); outcome == devicetest.Failed {
			t.Errorf("%s: %v", c.Name, err)
		}
	}
}

// TestRemoteSamples expects of the sample models the bits that the CPU gives,
// whether its operators are fused or not, twice in memory that is kept, and
// for another shape.
func TestRemoteSamples(t *testing.T) {
	for _, sample := range []string{"bert", "gpt-megatron", "t5"} {
		t.Run(sample, func(t *testing.T) {
			path := "../models/" + sample + "/model.onnx"
			want, err := runtime.Open(path, runtime.Options{NoFusion: true})
			if err != nil {
				t.Skip(err)
			}
			defer want.Close()
			got, err := runtime.Open(path, runtime.Options{Device: "faraway", NoFusion: true})
			if err != nil {
				t.Fatal(err)
			}
			defer got.Close()
			runner := got.NewRunner()
			for _, length := range []int{4, 4, 9} {
				inputs := sampleInputs(t, want, length)
				expected, err := want.NewRunner().Run(context.Background(), inputs)
				if err != nil {
					t.Fatal(err)
				}
				out, err := runner.Run(context.Background(), inputs)
				if err != nil {
					t.Fatal(err)
				}
				for i := range expected {
					if string(out[i].Data) != string(expected[i].Data) {
						t.Errorf("output %d of length %d differs", i, length)
					}
				}
			}
		})
	}
}

// sampleInputs makes ones of the shapes that a model declares, with symbols
// for the batch 2 and others for the given length.
func sampleInputs(t *testing.T, s *runtime.Session, length int) (list []*tensor.Tensor) {
	for _, v := range s.Inputs() {
		var shape []int
		for i, d := range v.Type.Shape.Dims {
			switch {
			case d.Known:
				shape = append(shape, int(d.Value))
			case i == 0:
				shape = append(shape, 2)
			default:
				shape = append(shape, length)
			}
		}
		x := tensor.New(v.Type.ElemType, shape...)
		if v.Type.ElemType == onnx.Int64 {
			for i := range tensor.Of[int64](x) {
				tensor.Of[int64](x)[i] = int64(i % 2)
			}
		}
		list = append(list, x)
	}
	return list
}
