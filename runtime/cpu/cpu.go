// Package cpu is the device that every machine has: Go kernels on a pool of
// threads. A file holds the kernels of the operator family that the file of
// the same name in runtime/op describes.
package cpu

import (
	"fmt"
	goruntime "runtime"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/comm"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// Name is the name under which the device registers.
const Name = "cpu"

func init() {
	device.Register(Name, func(o device.Options) (device.Device, error) { return New(o), nil })
}

// Device runs kernels on the threads of one pool.
type Device struct {
	pool    *pool
	release func([]byte) // see [device.Options]
	workers *comm.Groups // nil for one that is alone
	memory  memoryPool
	kept    keptRows
	meter   meter
}

// New starts a device.
func New(o device.Options) *Device {
	threads := o.Threads
	if threads <= 0 {
		threads = goruntime.GOMAXPROCS(0)
	}
	d := &Device{pool: newPool(threads), release: o.Release, workers: o.Workers}
	if d.release == nil {
		d.release = func([]byte) {}
	}
	return d
}

// Name returns "cpu".
func (d *Device) Name() string { return Name }

// Close ends the threads.
func (d *Device) Close() error {
	d.pool.close()
	return nil
}

// A constructor makes the kernel of a node; see [device.Device.Compile].
type constructor func(d *Device, n *op.Node, constants []*tensor.Tensor) (device.Kernel, error)

type kernelEntry struct {
	make constructor
	// anyType: the kernel takes every element type as it is. The others
	// compute float16 and bfloat16 in float32; see half.go.
	anyType bool
	// stored are constant inputs of float16 and bfloat16 that it takes as they
	// are, if only to hold them.
	stored []int
}

type kernelKey struct{ domain, opType string }

var kernels = map[kernelKey]kernelEntry{}

// register gives an operator its kernel. The kernel need not know float16 and
// bfloat16: it sees float32 in their place.
func register(domain, opType string, make constructor) {
	addKernel(domain, opType, kernelEntry{make: make})
}

// registerWeight is register for a kernel that holds a constant input as it is
// stored, in float16 or bfloat16 too.
func registerWeight(domain, opType string, input int, make constructor) {
	addKernel(domain, opType, kernelEntry{make: make, stored: []int{input}})
}

// registerAnyType gives an operator a kernel that handles every element type
// itself, as those that only move elements do.
func registerAnyType(domain, opType string, make constructor) {
	addKernel(domain, opType, kernelEntry{make: make, anyType: true})
}

func addKernel(domain, opType string, e kernelEntry) {
	k := kernelKey{domain, opType}
	if _, dup := kernels[k]; dup {
		panic("cpu: " + domain + "::" + opType + " is registered twice")
	}
	kernels[k] = e
}

// Supports reports whether there is a kernel for the operator.
func (d *Device) Supports(domain, opType string) bool {
	_, ok := kernels[kernelKey{onnx.CanonicalDomain(domain), opType}]
	return ok
}

// Compile makes the kernel of a node.
func (d *Device) Compile(n *op.Node, constants []*tensor.Tensor) (device.Kernel, error) {
	e, ok := kernels[kernelKey{onnx.CanonicalDomain(n.Domain), n.OpType}]
	if !ok {
		return nil, fmt.Errorf("operator %s::%s is %w on the CPU", n.Domain, n.OpType, device.ErrUnsupported)
	}
	if e.anyType {
		return e.make(d, n, constants)
	}
	return newWidened(d, n, constants, e)
}
