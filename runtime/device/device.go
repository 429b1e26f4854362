// Package device is the seam between the runtime, which decides what is
// computed when and where in memory, and the devices that compute it.
package device

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/comm"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// ErrUnsupported is wrapped by a device's refusal of an operator, or of an
// operator with certain types.
var ErrUnsupported = errors.New("not supported")

// Device computes nodes.
type Device interface {
	Name() string

	// Supports reports whether the device has a kernel for the operator.
	Supports(domain, opType string) bool

	// Compile makes the kernel of a node. constants has an entry for each
	// input: its content where that never changes, nil otherwise. What can be
	// prepared from constants (packed weights) is prepared here, once.
	Compile(n *op.Node, constants []*tensor.Tensor) (Kernel, error)

	// Close ends the device's threads and frees what it holds.
	Close() error
}

// Kernel computes one node for any shapes.
type Kernel interface {
	// Bind prepares the computation for the given tensors, whose types and
	// shapes are final, and returns the function that does it. Bind may read
	// the content of constants and of the operator's Parameters; the content
	// and the memory of every other tensor is to be looked up at each run
	// (t.Data may be another slice then). The returned function allocates
	// nothing and may be called any number of times.
	Bind(c *Call) (func() error, error)
}

// Remote is a device with memory of its own, where its kernels compute. The
// runtime keeps an arena there, copies what comes in, goes out or is wanted by
// the other side, and lets the CPU compute what the device does not take.
// Slices of remote memory have addresses that the host must not read. Kernels
// are bound, and run, between Enter and the call of what it returns, on that
// thread. They, uploads and downloads take effect in the order of their calls.
type Remote interface {
	Device

	// Takes reports whether a kernel can compute with tensors of the call's
	// types and shapes. Only its Parameters have content.
	Takes(k Kernel, c *Call) bool

	// Enter prepares the calling thread, to which the goroutine is tied until
	// it calls leave.
	Enter() (leave func(), err error)

	// Allocate returns n bytes of the device's memory, n > 0, aligned to a
	// cache line, and Free gives them back.
	Allocate(n int) ([]byte, error)
	Free(b []byte) error

	// Upload copies host memory to the device. from may change after it.
	Upload(to, from []byte) error
	// Download copies to host memory. It returns when that is done.
	Download(to, from []byte) error
	// Fetch begins to copy to host memory, behind what has begun. The function
	// that it returns waits for that, and is called once: for a few bytes, soon.
	Fetch(from []byte) (wait func(to []byte) error, err error)
	// Copy copies within the device, and Clear fills with zeros.
	Copy(to, from []byte) error
	Clear(b []byte) error
	// Wait returns when all is done that kernels have begun.
	Wait() error
}

// Recorder is a Remote that can do again what kernels did, for less than
// calling them again.
type Recorder interface {
	Remote

	// Record calls begin, which runs kernels; instead of computing, the device
	// notes down what they launch. The function that it returns does that, with
	// the same memory, any number of times.
	Record(begin func() error) (play func() error, err error)
}

// Counter is a Remote that counts what the host has it do.
type Counter interface {
	Counts() Counts
}

// Counts are numbers since the device was opened.
type Counts struct {
	Waits       int64 `json:"waits"`       // of the host for all that the device had to do
	Allocations int64 `json:"allocations"` // of device memory, and of pinned host memory
	Uploads     int64 `json:"uploads"`
	Downloads   int64 `json:"downloads"`
	BytesUp     int64 `json:"bytes_up"`
	BytesDown   int64 `json:"bytes_down"`
	Kernels     int64 `json:"kernels"` // launched one by one, library products among them
	Graphs      int64 `json:"graphs"`  // launched, each of which has any number of kernels
	GraphNodes  int64 `json:"graph_nodes"`
}

// Minus returns what was counted since c was b.
func (c Counts) Minus(b Counts) Counts {
	return Counts{c.Waits - b.Waits, c.Allocations - b.Allocations, c.Uploads - b.Uploads, c.Downloads - b.Downloads,
		c.BytesUp - b.BytesUp, c.BytesDown - b.BytesDown, c.Kernels - b.Kernels, c.Graphs - b.Graphs, c.GraphNodes - b.GraphNodes}
}

// Holder is a kernel that holds constants in a form of its own, such as packed
// weights.
type Holder interface {
	// Held returns the bytes of what the kernel holds in place of constant
	// input i, 0 where it reads the input itself. It does not read the content
	// of an input that it holds, whose Data may be nil when it is bound.
	Held(i int) int
}

// KernelFunc is a kernel that keeps nothing between shapes.
type KernelFunc func(c *Call) (func() error, error)

// Bind calls the function.
func (f KernelFunc) Bind(c *Call) (func() error, error) { return f(c) }

// Call is what a kernel is bound to.
type Call struct {
	// In has an entry for each input of the node, nil where it is absent. For
	// a kernel of a Remote device they are in its memory, but for the
	// operator's Parameters, which are in the host's.
	In []*tensor.Tensor

	// Out has an entry for each output, nil where nobody wants it. An output
	// whose shape depends on the content of inputs has a nil Shape: the
	// kernel gives it a shape and memory with Allocate when it runs.
	Out []*tensor.Tensor

	// Rooms has an entry for each input where one of them is a cache [batch,
	// heads, length, size] with room: the number of vectors between the
	// beginnings of two heads, not 0. Only inputs that the operator lists as
	// Caches have any. If it appends to a cache, the output lies where the
	// cache does.
	Rooms []int

	// Scratch is temporary memory that the steps of a plan share.
	Scratch *Scratch
}

// Room returns the room of input i, 0 where it is dense.
func (c *Call) Room(i int) int {
	if i >= len(c.Rooms) {
		return 0
	}
	return c.Rooms[i]
}

// Allocate gives output i a shape and zeroed memory, for operators whose
// output shape depends on content.
func (c *Call) Allocate(i int, shape ...int) *tensor.Tensor {
	t := c.Out[i]
	*t = *tensor.New(t.Type, shape...)
	return t
}

// Scratch is memory for the time of one step. A kernel reserves what it needs
// when it is bound and looks the memory up when it runs.
type Scratch struct {
	size  int
	bytes []byte
}

// Reserve states that a step needs n bytes.
func (s *Scratch) Reserve(n int) { s.size = max(s.size, n) }

// Bytes returns the memory: as many bytes as the largest reservation, aligned
// to a cache line, with any content.
func (s *Scratch) Bytes() []byte {
	if len(s.bytes) < s.size {
		s.bytes = tensor.AlignedBytes(s.size)
	}
	return s.bytes
}

// Attach lets the memory be b, which must be as large as the largest
// reservation.
func (s *Scratch) Attach(b []byte) { s.bytes = b }

// Size returns the largest reservation in bytes.
func (s *Scratch) Size() int { return s.size }

// Options configure a device.
type Options struct {
	// Threads is the number of CPU threads; 0 means one for each processor.
	Threads int
	// Worker is the number of this worker on its machine. Workers take the
	// GPUs of a machine in turn.
	Worker int
	// Release, where it is set, is told of parts of constants that a kernel
	// holds in a form of its own by now. They stay readable.
	Release func([]byte)
	// Workers are the groups of workers that compute layers together; nil for
	// one that is alone.
	Workers *comm.Groups
}

var (
	mu      sync.Mutex
	devices = map[string]func(Options) (Device, error){}
)

// Register makes a device known under a name; a device's package does so in
// its init function.
func Register(name string, open func(Options) (Device, error)) {
	mu.Lock()
	defer mu.Unlock()
	devices[name] = open
}

// Open starts a device by name.
func Open(name string, o Options) (Device, error) {
	mu.Lock()
	open := devices[name]
	names := make([]string, 0, len(devices))
	for n := range devices {
		names = append(names, n)
	}
	mu.Unlock()
	if open == nil {
		slices.Sort(names)
		return nil, fmt.Errorf("device %q is not known; there are %v", name, names)
	}
	return open(o)
}

// UnsupportedType is the error of a kernel that has no arithmetic for a type.
func UnsupportedType(t onnx.DataType) error {
	return fmt.Errorf("element type %s is %w", t, ErrUnsupported)
}
