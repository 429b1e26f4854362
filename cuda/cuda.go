//go:build fmoecuda

package cuda

import (
	"errors"
	"fmt"
	goruntime "runtime"
	"sync"
	"unsafe"

	"gorgonia.org/cu"

	"github.com/fmoe-go/fmoe/cuda/driver"
	"github.com/fmoe-go/fmoe/cuda/kernels"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	device.Register(Name, func(o device.Options) (device.Device, error) { return OpenFor(o.Worker) })
}

// Device is what a session has of a GPU. Kernels and copies run in the order of
// their calls, on one stream.
type Device struct {
	*gpu
	stream cu.Stream
	fault  []byte // an int32 in pinned memory that kernels set where they meet an index outside its axis
	blas   *blas

	// What is fetched lies in pinned memory until somebody waits for it.
	staging          []byte
	staged, fetching int
	waits            int64

	mu        sync.Mutex
	allocated map[*byte][]byte // nil when closed
	counts    device.Counts
	graphs    map[*driver.Graph]bool
}

// gpu is what all devices share of a GPU, as long as the program runs.
type gpu struct {
	context cu.CUContext
	modules []cu.Module
	target  string // of code that is compiled while the program runs
	about   GPU

	mu        sync.Mutex
	functions map[string]cu.Function
}

var (
	gpusMutex sync.Mutex
	gpus      = map[int]*gpu{}
)

// openGPU makes the primary context of a GPU and loads the kernels into it.
func openGPU(number int) (*gpu, error) {
	gpusMutex.Lock()
	defer gpusMutex.Unlock()
	if g := gpus[number]; g != nil {
		return g, nil
	}
	d, err := cu.GetDevice(number)
	if err != nil {
		return nil, err
	}
	about, err := describe(d)
	if err != nil {
		return nil, err
	}
	images, err := kernels.Images(about.Major, about.Minor)
	if err != nil {
		return nil, err
	}
	g := &gpu{functions: map[string]cu.Function{}, target: fmt.Sprintf("sm_%d%d", about.Major, about.Minor), about: about}
	if g.context, err = d.RetainPrimaryCtx(); err != nil {
		return nil, err
	}
	leave, err := g.Enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	for name, image := range images {
		m, err := cu.LoadData(image)
		if err != nil {
			return nil, fmt.Errorf("kernels %s: %w", name, err)
		}
		g.modules = append(g.modules, m)
	}
	gpus[number] = g
	return g, nil
}

// OpenFor starts the GPU of a worker, of which each gets another one until all
// have some.
func OpenFor(worker int) (*Device, error) {
	if err := driver.Status(); err != nil {
		return nil, fmt.Errorf("device %s: %w", Name, err)
	}
	n, err := cu.NumDevices()
	if err != nil {
		return nil, err
	}
	return Open(worker % max(n, 1))
}

// Open starts the GPU of the given number.
func Open(number int) (*Device, error) {
	if err := driver.Status(); err != nil {
		return nil, fmt.Errorf("device %s: %w", Name, err)
	}
	g, err := openGPU(number)
	if err != nil {
		return nil, fmt.Errorf("GPU %d: %w", number, err)
	}
	d := &Device{gpu: g, allocated: map[*byte][]byte{}, graphs: map[*driver.Graph]bool{}}
	if err := d.start(); err != nil {
		return nil, errors.Join(fmt.Errorf("GPU %d: %w", number, err), d.Close())
	}
	return d, nil
}

func (d *Device) start() error {
	leave, err := d.Enter()
	if err != nil {
		return err
	}
	defer leave()
	if d.stream, err = cu.MakeStream(cu.NonBlocking); err != nil {
		return err
	}
	if d.fault, err = driver.AllocateHost(4); err != nil {
		return err
	}
	clear(d.fault)
	if d.staging, err = driver.AllocateHost(stagingBytes); err != nil {
		return err
	}
	d.blas, err = newBLAS(d)
	return err
}

// Name returns "cuda".
func (d *Device) Name() string { return Name }

// Close gives back the device's memory.
func (d *Device) Close() error {
	leave, err := d.Enter()
	if err != nil {
		return err
	}
	defer leave()
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	if d.stream != cu.NoStream {
		errs = append(errs, d.stream.Synchronize())
	}
	for g := range d.graphs {
		errs = append(errs, g.Free())
	}
	d.graphs = nil
	for _, b := range d.allocated {
		errs = append(errs, driver.Free(b))
	}
	d.allocated = nil
	if d.blas != nil {
		d.blas.close()
	}
	for _, b := range [][]byte{d.fault, d.staging} {
		if b != nil {
			errs = append(errs, driver.FreeHost(b))
		}
	}
	if d.stream != cu.NoStream {
		errs = append(errs, d.stream.Destroy())
	}
	d.fault, d.staging, d.blas, d.stream = nil, nil, nil, cu.NoStream
	return errors.Join(errs...)
}

// Enter implements [device.Remote].
func (g *gpu) Enter() (leave func(), err error) {
	goruntime.LockOSThread()
	if err := cu.SetCurrentContext(g.context); err != nil {
		goruntime.UnlockOSThread()
		return nil, err
	}
	return goruntime.UnlockOSThread, nil
}

// Allocate implements [device.Remote].
func (d *Device) Allocate(n int) ([]byte, error) {
	leave, err := d.Enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	b, err := driver.Allocate(n)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.counts.Allocations++
	d.allocated[unsafe.SliceData(b)] = b
	return b, nil
}

// Free implements [device.Remote].
func (d *Device) Free(b []byte) error {
	d.mu.Lock()
	at := unsafe.SliceData(b)
	_, known := d.allocated[at]
	delete(d.allocated, at)
	d.mu.Unlock()
	if !known {
		return nil // closing has given it back
	}
	leave, err := d.Enter()
	if err != nil {
		return err
	}
	defer leave()
	return driver.Free(b) // waits for what is going on
}

// Upload implements [device.Remote].
func (d *Device) Upload(to, from []byte) error {
	leave, err := d.Enter()
	if err != nil {
		return err
	}
	defer leave()
	d.count(func(c *device.Counts) { c.Uploads, c.BytesUp = c.Uploads+1, c.BytesUp+int64(len(from)) })
	// From memory that is not pinned, this returns when from has been read.
	return driver.Upload(to, from, d.stream)
}

// Download implements [device.Remote].
func (d *Device) Download(to, from []byte) error {
	leave, err := d.Enter()
	if err != nil {
		return err
	}
	defer leave()
	d.count(func(c *device.Counts) { c.Downloads, c.BytesDown = c.Downloads+1, c.BytesDown+int64(len(from)) })
	if err := driver.Download(to, from, d.stream); err != nil {
		return err
	}
	return d.Wait()
}

// stagingBytes is the pinned memory through which Fetch copies.
const stagingBytes = 4 << 20

// Fetch implements [device.Remote]. One wait serves all that was fetched before
// it.
func (d *Device) Fetch(from []byte) (func(to []byte) error, error) {
	if d.fetching == 0 {
		d.staged = 0
	}
	if len(from) > len(d.staging)-d.staged {
		return func(to []byte) error { return d.Download(to, from) }, nil
	}
	b := d.staging[d.staged:][:len(from)]
	d.staged += (len(from) + 63) &^ 63
	d.fetching++
	d.count(func(c *device.Counts) { c.Downloads, c.BytesDown = c.Downloads+1, c.BytesDown+int64(len(from)) })
	err, waits := driver.Download(b, from, d.stream), d.waits
	return func(to []byte) error {
		d.fetching--
		if d.waits == waits {
			if err := d.Wait(); err != nil {
				return err
			}
		}
		copy(to, b)
		return nil
	}, err
}

// Copy implements [device.Remote].
func (d *Device) Copy(to, from []byte) error { return driver.Copy(to, from, d.stream) }

// Clear implements [device.Remote].
func (d *Device) Clear(b []byte) error { return driver.Clear(b, d.stream) }

// Wait implements [device.Remote]. It fails where a kernel met an index that is
// outside its axis.
func (d *Device) Wait() error {
	d.count(func(c *device.Counts) { c.Waits++ })
	d.waits++
	if err := d.stream.Synchronize(); err != nil {
		return err
	}
	if fault := (*int32)(unsafe.Pointer(unsafe.SliceData(d.fault))); *fault != 0 {
		*fault = 0
		return errors.New("an index is outside its axis")
	}
	return nil
}

// Record implements [device.Recorder] by a CUDA graph.
func (d *Device) Record(begin func() error) (func() error, error) {
	g, err := driver.Capture(d.stream, begin)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.graphs[g] = true
	recording := &recorded{d, g}
	goruntime.AddCleanup(recording, func(g *driver.Graph) { d.forget(g) }, g)
	return recording.play, nil
}

// recorded is a graph as long as somebody may play it.
type recorded struct {
	device *Device
	graph  *driver.Graph
}

func (r *recorded) play() error {
	r.device.count(func(c *device.Counts) { c.Graphs, c.GraphNodes = c.Graphs+1, c.GraphNodes+int64(r.graph.Nodes) })
	return r.graph.Launch(r.device.stream)
}

// forget gives back a graph, unless closing has.
func (d *Device) forget(g *driver.Graph) {
	leave, err := d.Enter()
	if err != nil {
		return
	}
	defer leave()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.graphs[g] {
		delete(d.graphs, g)
		_ = g.Free() // nothing depends on it
	}
}

// count notes what the host has the device do.
func (d *Device) count(note func(c *device.Counts)) {
	d.mu.Lock()
	note(&d.counts)
	d.mu.Unlock()
}

// Counts implements [device.Counter].
func (d *Device) Counts() device.Counts {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.counts
}

// A binder binds a node to tensors in the device's memory. It fails with
// [device.ErrUnsupported] where the device has no kernel for their types and
// shapes.
type binder func(d *Device, n *op.Node, c *device.Call) (func() error, error)

type kernelKey struct{ domain, opType string }

var binders = map[kernelKey]binder{}

func register(domain string, b binder, opTypes ...string) {
	for _, t := range opTypes {
		binders[kernelKey{domain, t}] = b
	}
}

// Supports reports whether there is a kernel for the operator.
func (d *Device) Supports(domain, opType string) bool {
	return binders[kernelKey{onnx.CanonicalDomain(domain), opType}] != nil
}

// kernel is a node that is to be bound.
type kernel struct {
	device *Device
	node   *op.Node
	bind   binder
}

// Compile makes the kernel of a node.
func (d *Device) Compile(n *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
	b := binders[kernelKey{onnx.CanonicalDomain(n.Domain), n.OpType}]
	if b == nil {
		return nil, fmt.Errorf("operator %s::%s is %w by CUDA", n.Domain, n.OpType, device.ErrUnsupported)
	}
	return &kernel{d, n, b}, nil
}

// Bind implements [device.Kernel].
func (k *kernel) Bind(c *device.Call) (func() error, error) { return k.bind(k.device, k.node, c) }

// Takes implements [device.Remote].
func (d *Device) Takes(k device.Kernel, c *device.Call) bool {
	attempt := *c
	attempt.Scratch = &device.Scratch{}
	_, err := k.Bind(&attempt)
	return err == nil // what else is wrong, the CPU tells
}

// errForm refuses types and shapes.
var errForm = fmt.Errorf("types or shapes are %w by CUDA", device.ErrUnsupported)

// launch is a kernel with its grid and its parameters, of which some are
// looked up at each run.
type launch[P any] struct {
	device   *Device
	function cu.Function
	grid     [3]int
	threads  int
	shared   int  // bytes of memory that a block has beside what the kernel declares
	aligned  bool // the parameters hold tensor maps
	p        *P   // an object of its own, as cgo wants what C gets to see
}

func newLaunch[P any](d *Device, name string, threads int, grid ...int) (*launch[P], error) {
	f, err := d.function(name)
	if err != nil {
		return nil, err
	}
	l := &launch[P]{device: d, function: f, threads: threads, grid: [3]int{1, 1, 1}, p: new(P)}
	copy(l.grid[:], grid)
	if l.grid[1] > 65535 || l.grid[2] > 65535 {
		return nil, errForm
	}
	return l, nil
}

// share gives blocks shared memory.
func (l *launch[P]) share(bytes int) error {
	if l.shared = bytes; bytes == 0 {
		return nil
	}
	return driver.AllowShared(l.function, bytes)
}

// run starts the kernel, unless there is nothing to do.
func (l *launch[P]) run() error {
	if l.grid[0] == 0 || l.grid[1] == 0 || l.grid[2] == 0 {
		return nil
	}
	l.device.count(func(c *device.Counts) { c.Kernels++ })
	if l.aligned {
		return driver.LaunchAligned(l.function, l.grid, l.threads, l.shared, l.device.stream, l.p)
	}
	return driver.Launch(l.function, l.grid, l.threads, l.shared, l.device.stream, l.p)
}

// function finds a kernel by name.
func (g *gpu) function(name string) (cu.Function, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if f, ok := g.functions[name]; ok {
		return f, nil
	}
	for _, m := range g.modules {
		if f, err := m.Function(name); err == nil {
			g.functions[name] = f
			return f, nil
		}
	}
	return cu.Function{}, fmt.Errorf("kernel %s is %w", name, device.ErrUnsupported)
}

// has reports whether there is a kernel of the given name for this GPU.
func (g *gpu) has(name string) bool {
	_, err := g.function(name)
	return err == nil
}

const blockThreads = 256

// blocks returns the blocks of a kernel whose threads go through n elements.
func blocks(n int) int { return min((n+blockThreads-1)/blockThreads, 1<<14) }

// address returns where a tensor lies, 0 for none.
func address(t *tensor.Tensor) uintptr {
	if t == nil || len(t.Data) == 0 {
		return 0
	}
	return uintptr(unsafe.Pointer(unsafe.SliceData(t.Data)))
}

// ending returns the ending of the names of kernels for numbers of a type.
func ending(t onnx.DataType) (string, error) {
	switch t {
	case onnx.Float32:
		return "_f32", nil
	case onnx.Float16:
		return "_f16", nil
	case onnx.BFloat16:
		return "_bf16", nil
	}
	return "", device.UnsupportedType(t)
}

// endingOfAll is ending for tensors that must be of one type; some may be nil.
func endingOfAll(list ...*tensor.Tensor) (string, error) {
	for _, t := range list {
		if t != nil && t.Type != list[0].Type {
			return "", errForm
		}
	}
	return ending(list[0].Type)
}

func at(list []*tensor.Tensor, i int) *tensor.Tensor {
	if i >= len(list) {
		return nil
	}
	return list[i]
}

// wantsOnly reports whether a call wants no output behind the first n.
func wantsOnly(c *device.Call, n int) bool {
	for _, t := range c.Out[min(n, len(c.Out)):] {
		if t != nil {
			return false
		}
	}
	return true
}

func content(c *device.Call) op.Content {
	return func(i int) ([]int64, bool) {
		if at(c.In, i) == nil {
			return nil, false
		}
		list, err := c.In[i].Ints()
		return list, err == nil
	}
}

func ceilDiv(a, b int) int { return (a + b - 1) / b }
