//go:build fmoecuda

// Package driver has what gorgonia.org/cu lacks of CUDA's driver API, and says
// whether there is a driver at all.
package driver

/*
#cgo LDFLAGS: -lcuda -ldl
#include <cuda.h>
#include <stdlib.h>
#include <string.h>

extern int fmoe_cuda_status;

static CUresult launch(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned threads, unsigned shared, CUstream s, void *parameters, size_t size) {
	void *extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, parameters, CU_LAUNCH_PARAM_BUFFER_SIZE, &size, CU_LAUNCH_PARAM_END};
	return cuLaunchKernel(f, gx, gy, gz, threads, 1, 1, shared, s, NULL, extra);
}

// A parameter that lies at a multiple of more than 16 bytes does not begin where parameters do, which the driver alone knows.
static CUresult launch_aligned(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned threads, unsigned shared, CUstream s, void *parameters) {
	return cuLaunchKernel(f, gx, gy, gz, threads, 1, 1, shared, s, &parameters, NULL);
}

// Device memory as pointers of C, which Go's checks leave alone.
static CUresult allocate(void **p, size_t n) {
	CUdeviceptr d = 0;
	CUresult r = cuMemAlloc(&d, n);
	*p = (void*)d;
	return r;
}

static CUresult encode(void *to, int type, CUdeviceptr address, const cuuint64_t *dims, const cuuint64_t *strides, const cuuint32_t *box) {
	_Alignas(64) CUtensorMap map;
	cuuint32_t steps[3] = {1, 1, 1};
	CUresult r = cuTensorMapEncodeTiled(&map, (CUtensorMapDataType)type, 3, (void*)address, dims, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
		CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
	memcpy(to, &map, sizeof map);
	return r;
}
*/
import "C"

import (
	"errors"
	"fmt"
	"unsafe"

	"gorgonia.org/cu"
)

// cu's handles are structs of one pointer, which is what the driver wants.
var _ = [1]struct{}{}[unsafe.Sizeof(cu.Function{})+unsafe.Sizeof(cu.Stream{})-2*unsafe.Sizeof(uintptr(0))]

// Status returns nil if there is a driver with a GPU, or what is missing.
func Status() error {
	switch status := C.fmoe_cuda_status; status {
	case C.CUDA_SUCCESS:
		return nil
	case C.CUDA_ERROR_NOT_INITIALIZED:
		return errors.New("libcuda.so.1, a part of NVIDIA's driver, is not on this machine")
	case C.CUDA_ERROR_NO_DEVICE:
		return errors.New("NVIDIA's driver finds no GPU")
	default:
		return fmt.Errorf("NVIDIA's driver cannot start: %w", failure(C.CUresult(status)))
	}
}

// failure returns the driver's words for a result, nil for success.
func failure(r C.CUresult) error {
	if r == C.CUDA_SUCCESS {
		return nil
	}
	var text *C.char
	if C.cuGetErrorString(r, &text) != C.CUDA_SUCCESS || text == nil {
		return fmt.Errorf("CUDA error %d", int(r))
	}
	return fmt.Errorf("CUDA error %d, %s", int(r), C.GoString(text))
}

// Allocate returns n bytes of the device's memory, n > 0. Their addresses mean nothing to
// the host.
func Allocate(n int) ([]byte, error) {
	var p unsafe.Pointer
	if err := failure(C.allocate(&p, C.size_t(n))); err != nil {
		return nil, fmt.Errorf("%d bytes of memory on the GPU: %w", n, err)
	}
	return unsafe.Slice((*byte)(p), n), nil
}

// Free gives back what Allocate returned.
func Free(b []byte) error { return failure(C.cuMemFree(address(b))) }

// OnDevice reports whether memory is the device's.
func OnDevice(b []byte) bool {
	var kind C.uint
	code := C.cuPointerGetAttribute(unsafe.Pointer(&kind), C.CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address(b))
	return code == C.CUDA_SUCCESS && kind == C.CU_MEMORYTYPE_DEVICE
}

func address(b []byte) C.CUdeviceptr {
	return C.CUdeviceptr(uintptr(unsafe.Pointer(unsafe.SliceData(b))))
}

// AllocateHost returns n bytes of host memory, n > 0, that the GPU copies from and to
// without a detour.
func AllocateHost(n int) ([]byte, error) {
	var p unsafe.Pointer
	if err := failure(C.cuMemHostAlloc(&p, C.size_t(n), 0)); err != nil {
		return nil, fmt.Errorf("%d bytes of pinned memory: %w", n, err)
	}
	return unsafe.Slice((*byte)(p), n), nil
}

// FreeHost gives back what AllocateHost returned.
func FreeHost(b []byte) error { return failure(C.cuMemFreeHost(unsafe.Pointer(unsafe.SliceData(b)))) }

// Upload copies from host memory to the device when the stream gets there.
func Upload(to, from []byte, s cu.Stream) error {
	return failure(C.cuMemcpyHtoDAsync(address(to), unsafe.Pointer(unsafe.SliceData(from)), C.size_t(len(from)), stream(s)))
}

// Download copies from the device to host memory when the stream gets there.
func Download(to, from []byte, s cu.Stream) error {
	return failure(C.cuMemcpyDtoHAsync(unsafe.Pointer(unsafe.SliceData(to)), address(from), C.size_t(len(from)), stream(s)))
}

// Copy copies within the device when the stream gets there.
func Copy(to, from []byte, s cu.Stream) error {
	return failure(C.cuMemcpyDtoDAsync(address(to), address(from), C.size_t(len(from)), stream(s)))
}

// Clear fills memory of the device with zeros when the stream gets there.
func Clear(b []byte, s cu.Stream) error {
	return failure(C.cuMemsetD8Async(address(b), 0, C.size_t(len(b)), stream(s)))
}

func stream(s cu.Stream) C.CUstream { return C.CUstream(unsafe.Pointer(s.C())) }

// Launch starts a kernel on a grid of blocks of so many threads. parameters
// has the kernel's, laid out as C does; it holds no Go pointers.
func Launch[P any](f cu.Function, grid [3]int, threads, shared int, s cu.Stream, parameters *P) error {
	handle := *(*C.CUfunction)(unsafe.Pointer(&f))
	return failure(C.launch(handle, C.uint(grid[0]), C.uint(grid[1]), C.uint(grid[2]), C.uint(threads), C.uint(shared), stream(s),
		unsafe.Pointer(parameters), C.size_t(unsafe.Sizeof(*parameters))))
}

// Graph is work that a stream would have done, to be done any number of times.
type Graph struct {
	exec  C.CUgraphExec
	Nodes int
}

// Capture lets a stream note down the work that begin gives it, in place of
// doing it.
func Capture(s cu.Stream, begin func() error) (*Graph, error) {
	if err := failure(C.cuStreamBeginCapture(stream(s), C.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)); err != nil {
		return nil, err
	}
	err := begin()
	var graph C.CUgraph
	if err = errors.Join(err, failure(C.cuStreamEndCapture(stream(s), &graph))); err != nil {
		return nil, err
	}
	defer C.cuGraphDestroy(graph)
	g := &Graph{}
	var nodes C.size_t
	if err := failure(C.cuGraphGetNodes(graph, nil, &nodes)); err != nil {
		return nil, err
	}
	g.Nodes = int(nodes)
	return g, failure(C.cuGraphInstantiateWithFlags(&g.exec, graph, 0))
}

// Launch does the work when the stream gets there.
func (g *Graph) Launch(s cu.Stream) error { return failure(C.cuGraphLaunch(g.exec, stream(s))) }

// Free gives back the graph.
func (g *Graph) Free() error { return failure(C.cuGraphExecDestroy(g.exec)) }

// LaunchAligned is Launch for parameters that hold tensor maps.
func LaunchAligned[P any](f cu.Function, grid [3]int, threads, shared int, s cu.Stream, parameters *P) error {
	handle := *(*C.CUfunction)(unsafe.Pointer(&f))
	return failure(C.launch_aligned(handle, C.uint(grid[0]), C.uint(grid[1]), C.uint(grid[2]), C.uint(threads), C.uint(shared), stream(s), unsafe.Pointer(parameters)))
}

// AllowShared lets a kernel be launched with more than 48 KiB of shared memory.
func AllowShared(f cu.Function, bytes int) error {
	handle := *(*C.CUfunction)(unsafe.Pointer(&f))
	return failure(C.cuFuncSetAttribute(handle, C.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, C.int(bytes)))
}

// TensorMap tells Hopper's bulk copies of a tensor; kernels take it as a
// parameter that lies at a multiple of 64 bytes.
type TensorMap [128]byte

// Encode describes a dense tensor of three dimensions, the fastest first, of
// numbers of 16 bits, bfloat16 or float16, and the box of it that a copy
// brings. Rows of 64 numbers have their pieces of 16 bytes swapped.
func (m *TensorMap) Encode(bfloat16 bool, address uintptr, dims, box [3]int) error {
	kind := C.CU_TENSOR_MAP_DATA_TYPE_FLOAT16
	if bfloat16 {
		kind = C.CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
	}
	var sizes [3]C.cuuint64_t
	var boxes [3]C.cuuint32_t
	for i := range dims {
		sizes[i], boxes[i] = C.cuuint64_t(dims[i]), C.cuuint32_t(box[i])
	}
	strides := [2]C.cuuint64_t{2 * sizes[0], 2 * sizes[0] * sizes[1]}
	return failure(C.encode(unsafe.Pointer(m), C.int(kind), C.CUdeviceptr(address), &sizes[0], &strides[0], &boxes[0]))
}
