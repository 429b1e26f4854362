//go:build fmoecuda

package nccl

/*
#cgo LDFLAGS: -ldl
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

// What is used of NCCL 2.18 or later: communicators and streams are pointers, types and reductions numbers.
typedef struct { char bytes[128]; } unique;

static struct {
	int (*version)(int *);
	const char *(*errorString)(int);
	const char *(*lastError)(void *);
	int (*uniqueID)(unique *);
	int (*initRank)(void **, int, unique, int);
	int (*split)(void *, int, int, void **, void *);
	int (*destroy)(void *);
	int (*abort)(void *);
	int (*asyncError)(void *, int *);
	int (*groupStart)(void);
	int (*groupEnd)(void);
	int (*send)(const void *, size_t, int, int, void *, void *);
	int (*receive)(void *, size_t, int, int, void *, void *);
	int (*allReduce)(const void *, void *, size_t, int, int, void *, void *);
	int (*reduce)(const void *, void *, size_t, int, int, int, void *, void *);
	int (*reduceScatter)(const void *, void *, size_t, int, int, void *, void *);
	int (*allGather)(const void *, void *, size_t, int, void *, void *);
	int (*broadcast)(const void *, void *, size_t, int, int, void *, void *);
} nccl;

static const char *load(const char *file) {
	void *library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
	if (library == NULL) return dlerror();
#define FIND(field, name) if ((*(void **)&nccl.field = dlsym(library, "nccl" name)) == NULL) return "nccl" name " is missing; NCCL 2.18 or later is needed";
	FIND(version, "GetVersion") FIND(errorString, "GetErrorString") FIND(lastError, "GetLastError") FIND(uniqueID, "GetUniqueId")
	FIND(initRank, "CommInitRank") FIND(split, "CommSplit") FIND(destroy, "CommDestroy") FIND(abort, "CommAbort")
	FIND(asyncError, "CommGetAsyncError") FIND(groupStart, "GroupStart") FIND(groupEnd, "GroupEnd") FIND(send, "Send") FIND(receive, "Recv")
	FIND(allReduce, "AllReduce") FIND(reduce, "Reduce") FIND(reduceScatter, "ReduceScatter") FIND(allGather, "AllGather")
	FIND(broadcast, "Broadcast")
	return NULL;
}

static int getVersion(int *v) { return nccl.version(v); }
static const char *errorString(int code) { return nccl.errorString(code); }
static const char *lastError(void) { return nccl.lastError(NULL); }
static int uniqueID(void *id) { return nccl.uniqueID(id); }
static int initRank(void **c, int n, void *id, int rank) { return nccl.initRank(c, n, *(unique *)id, rank); }
static int split(void *c, int color, int key, void **made) { return nccl.split(c, color, key, made, NULL); }
static int destroy(void *c) { return nccl.destroy(c); }
static int abortAll(void *c) { return nccl.abort(c); }
static int asyncError(void *c, int *code) { return nccl.asyncError(c, code); }
static int groupStart(void) { return nccl.groupStart(); }
static int groupEnd(void) { return nccl.groupEnd(); }

// Addresses are of the GPU.
static int sendTo(uintptr_t x, size_t n, int to, void *c, void *s) { return nccl.send((void *)x, n, 1, to, c, s); }
static int receiveFrom(uintptr_t x, size_t n, int from, void *c, void *s) { return nccl.receive((void *)x, n, 1, from, c, s); }
static int allReduce(uintptr_t x, uintptr_t y, size_t n, int type, int op, void *c, void *s) { return nccl.allReduce((void *)x, (void *)y, n, type, op, c, s); }
static int reduceTo(uintptr_t x, uintptr_t y, size_t n, int type, int op, int root, void *c, void *s) { return nccl.reduce((void *)x, (void *)y, n, type, op, root, c, s); }
static int reduceScatter(uintptr_t x, uintptr_t y, size_t n, int type, int op, void *c, void *s) { return nccl.reduceScatter((void *)x, (void *)y, n, type, op, c, s); }
static int allGather(uintptr_t x, uintptr_t y, size_t n, void *c, void *s) { return nccl.allGather((void *)x, (void *)y, n, 1, c, s); }
static int broadcast(uintptr_t x, size_t n, int root, void *c, void *s) { return nccl.broadcast((void *)x, (void *)x, n, 1, root, c, s); }
*/
import "C"

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"unsafe"

	"gorgonia.org/cu"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/comm"
)

// library opens NCCL, in the folders of FMOE_CUDA_LIBRARIES first.
var library = sync.OnceValue(func() error {
	var tried []string
	for _, dir := range append(filepath.SplitList(os.Getenv("FMOE_CUDA_LIBRARIES")), "", "/usr/local/cuda/lib64") {
		file := C.CString(filepath.Join(dir, "libnccl.so.2"))
		problem := C.load(file)
		C.free(unsafe.Pointer(file))
		if problem == nil {
			return nil
		}
		tried = append(tried, C.GoString(problem))
	}
	return fmt.Errorf("NCCL: %s; name its folder in FMOE_CUDA_LIBRARIES", strings.Join(tried, "; "))
})

// version returns that of the library, such as 22703 for 2.27.3.
func version() int {
	var v C.int
	C.getVersion(&v)
	return int(v)
}

func failure(what string, code C.int) error {
	if code == 0 {
		return nil
	}
	text := fmt.Sprintf("%s: NCCL error %d, %s", what, int(code), C.GoString(C.errorString(code)))
	if last := C.GoString(C.lastError()); last != "" {
		text += ": " + last
	}
	return errors.New(text)
}

// handle is a communicator of NCCL.
type handle struct{ p unsafe.Pointer }

const uniqueBytes = 128

func uniqueID() ([]byte, error) {
	id := make([]byte, uniqueBytes)
	return id, failure("ncclGetUniqueId", C.uniqueID(unsafe.Pointer(&id[0])))
}

// initialise makes a communicator, when all its ranks do.
func initialise(n int, id []byte, rank int) (h handle, err error) {
	if len(id) != uniqueBytes {
		return h, fmt.Errorf("a unique id of %d bytes", len(id))
	}
	err = failure("ncclCommInitRank", C.initRank(&h.p, C.int(n), unsafe.Pointer(&id[0]), C.int(rank)))
	return h, err
}

// split makes the communicator of a part; none for colors below 0.
func (h handle) split(color, key int) (part handle, err error) {
	err = failure("ncclCommSplit", C.split(h.p, C.int(max(color, -1)), C.int(key), &part.p))
	return part, err
}

func (h handle) destroy() error { return failure("ncclCommDestroy", C.destroy(h.p)) }
func (h handle) abort() error   { return failure("ncclCommAbort", C.abortAll(h.p)) }

// failed returns an error that a call met later.
func (h handle) failed() error {
	var code C.int
	if err := failure("ncclCommGetAsyncError", C.asyncError(h.p, &code)); err != nil {
		return err
	}
	return failure("NCCL", code)
}

// grouped lets calls be one.
func grouped(calls func() error) error {
	if err := failure("ncclGroupStart", C.groupStart()); err != nil {
		return err
	}
	err := calls()
	if end := failure("ncclGroupEnd", C.groupEnd()); err == nil {
		err = end
	}
	return err
}

// types are NCCL's numbers for those that can be reduced.
var types = map[onnx.DataType]C.int{onnx.Int64: 4, onnx.Float16: 6, onnx.Float32: 7, onnx.Float64: 8, onnx.BFloat16: 9}

var reductions = map[comm.Reduction]C.int{comm.Sum: 0, comm.Max: 2}

func at(b []byte) C.uintptr_t { return C.uintptr_t(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) }

func stream(s cu.Stream) unsafe.Pointer { return unsafe.Pointer(s.C()) }

func (h handle) send(x []byte, to int, s cu.Stream) error {
	return failure("ncclSend", C.sendTo(at(x), C.size_t(len(x)), C.int(to), h.p, stream(s)))
}

func (h handle) receive(x []byte, from int, s cu.Stream) error {
	return failure("ncclRecv", C.receiveFrom(at(x), C.size_t(len(x)), C.int(from), h.p, stream(s)))
}

func (h handle) allReduce(x comm.Buffer, n int, r comm.Reduction, s cu.Stream) error {
	return failure("ncclAllReduce", C.allReduce(at(x.Data), at(x.Data), C.size_t(n), types[x.Type], reductions[r], h.p, stream(s)))
}

func (h handle) reduce(x comm.Buffer, into []byte, n int, r comm.Reduction, root int, s cu.Stream) error {
	return failure("ncclReduce", C.reduceTo(at(x.Data), at(into), C.size_t(n), types[x.Type], reductions[r], C.int(root), h.p, stream(s)))
}

func (h handle) reduceScatter(x comm.Buffer, into []byte, n int, r comm.Reduction, s cu.Stream) error {
	return failure("ncclReduceScatter", C.reduceScatter(at(x.Data), at(into), C.size_t(n), types[x.Type], reductions[r], h.p, stream(s)))
}

func (h handle) allGather(x, into []byte, s cu.Stream) error {
	return failure("ncclAllGather", C.allGather(at(x), at(into), C.size_t(len(x)), h.p, stream(s)))
}

func (h handle) broadcast(x []byte, root int, s cu.Stream) error {
	return failure("ncclBroadcast", C.broadcast(at(x), C.size_t(len(x)), C.int(root), h.p, stream(s)))
}
