//go:build fmoecuda

package driver

/*
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

// What is used of cuBLASLt, whose ABI is the same in versions 12 and 13: handles are pointers, and numbers stand for
// attributes. An algorithm is 8 words, a heuristic's result 96 bytes that begin with one.
typedef struct { uint64_t words[8]; } algorithm;
typedef struct { algorithm algo; size_t workspace; int state; float waves; int reserved[4]; } heuristic;

static struct {
	int (*create)(void **);
	int (*destroy)(void *);
	int (*descriptionCreate)(void **, int, int);
	int (*descriptionDestroy)(void *);
	int (*descriptionSet)(void *, int, const void *, size_t);
	int (*layoutCreate)(void **, int, uint64_t, uint64_t, int64_t);
	int (*layoutDestroy)(void *);
	int (*layoutSet)(void *, int, const void *, size_t);
	int (*preferenceCreate)(void **);
	int (*preferenceDestroy)(void *);
	int (*preferenceSet)(void *, int, const void *, size_t);
	int (*choose)(void *, void *, void *, void *, void *, void *, void *, int, heuristic *, int *);
	int (*multiply)(void *, void *, const void *, const void *, void *, const void *, void *, const void *, const void *, void *, void *, void *,
		const algorithm *, void *, size_t, void *);
} lt;

static int load(const char *file) {
	void *library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
	if (library == NULL) return 0;
#define FIND(field, name) if ((*(void **)&lt.field = dlsym(library, "cublasLt" name)) == NULL) return 0;
	FIND(create, "Create") FIND(destroy, "Destroy")
	FIND(descriptionCreate, "MatmulDescCreate") FIND(descriptionDestroy, "MatmulDescDestroy") FIND(descriptionSet, "MatmulDescSetAttribute")
	FIND(layoutCreate, "MatrixLayoutCreate") FIND(layoutDestroy, "MatrixLayoutDestroy") FIND(layoutSet, "MatrixLayoutSetAttribute")
	FIND(preferenceCreate, "MatmulPreferenceCreate") FIND(preferenceDestroy, "MatmulPreferenceDestroy") FIND(preferenceSet, "MatmulPreferenceSetAttribute")
	FIND(choose, "MatmulAlgoGetHeuristic") FIND(multiply, "Matmul")
	return 1;
}

typedef struct { void *description, *a, *b, *c; algorithm algo; size_t workspace; } product;

static int newLayout(void **layout, int type, uint64_t rows, uint64_t columns, int64_t ld, int batch, int64_t stride) {
	int status = lt.layoutCreate(layout, type, rows, columns, ld);
	if (!status) status = lt.layoutSet(*layout, 5, &batch, sizeof batch);
	if (!status) status = lt.layoutSet(*layout, 6, &stride, sizeof stride);
	return status;
}

static void freeProduct(product *p) {
	if (p->description) lt.descriptionDestroy(p->description);
	if (p->a) lt.layoutDestroy(p->a);
	if (p->b) lt.layoutDestroy(p->b);
	if (p->c) lt.layoutDestroy(p->c);
	free(p);
}

// newProduct plans C = A·B of column-major matrices, m × n and k deep.
static int newProduct(void *handle, product **made, int compute, int type, int typeC, int transA, int transB, uint64_t m, uint64_t n, uint64_t k,
		int64_t lda, int64_t ldb, int64_t ldc, int batch, int64_t strideA, int64_t strideB, int64_t strideC, size_t workspace) {
	product *p = calloc(1, sizeof *p);
	void *preference = NULL;
	heuristic found;
	int count = 0;
	int status = lt.descriptionCreate(&p->description, compute, 0);
	if (!status) status = lt.descriptionSet(p->description, 3, &transA, sizeof transA);
	if (!status) status = lt.descriptionSet(p->description, 4, &transB, sizeof transB);
	if (!status) status = newLayout(&p->a, type, transA ? k : m, transA ? m : k, lda, batch, strideA);
	if (!status) status = newLayout(&p->b, type, transB ? n : k, transB ? k : n, ldb, batch, strideB);
	if (!status) status = newLayout(&p->c, typeC, m, n, ldc, batch, strideC);
	if (!status) status = lt.preferenceCreate(&preference);
	if (!status) status = lt.preferenceSet(preference, 1, &workspace, sizeof workspace);
	if (!status) status = lt.choose(handle, p->description, p->a, p->b, p->c, p->c, preference, 1, &found, &count);
	if (!status && count == 0) status = 15; // not supported
	if (preference) lt.preferenceDestroy(preference);
	if (status) {
		freeProduct(p);
		return status;
	}
	p->algo = found.algo;
	p->workspace = found.workspace;
	*made = p;
	return 0;
}

static int multiply(void *handle, product *p, float alpha, uintptr_t a, uintptr_t b, float beta, uintptr_t c, uintptr_t workspace, size_t size, void *stream) {
	return lt.multiply(handle, p->description, &alpha, (void *)a, p->a, (void *)b, p->b, &beta, (void *)c, p->c, (void *)c, p->c,
		&p->algo, (void *)workspace, size, stream);
}

static int create(void **handle) { return lt.create(handle); }
static void destroy(void *handle) { lt.destroy(handle); }
*/
import "C"

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"unsafe"

	"gorgonia.org/cu"
)

// BLAS is a handle of cuBLASLt.
type BLAS struct{ handle unsafe.Pointer }

// libraryFiles lists where a library of any of the names may be, in the order
// in which to look.
func libraryFiles(names ...string) (files []string) {
	for _, dir := range append(filepath.SplitList(os.Getenv("FMOE_CUDA_LIBRARIES")), "", filepath.Join(os.Getenv("CUDA_HOME"), "lib64"), "/usr/local/cuda/lib64", "/usr/local/cuda/targets/x86_64-linux/lib") {
		for _, name := range names {
			files = append(files, filepath.Join(dir, name))
		}
	}
	return files
}

var blasLibrary = sync.OnceValue(func() error {
	for _, f := range libraryFiles("libcublasLt.so.13", "libcublasLt.so.12") {
		name := C.CString(f)
		loaded := C.load(name)
		C.free(unsafe.Pointer(name))
		if loaded != 0 {
			return nil
		}
	}
	return errors.New("libcublasLt.so.13 or .12 is not found; install CUDA's libraries or name their folder in FMOE_CUDA_LIBRARIES")
})

// OpenBLAS finds cuBLASLt and makes a handle for the current context.
func OpenBLAS() (*BLAS, error) {
	if err := blasLibrary(); err != nil {
		return nil, err
	}
	b := &BLAS{}
	return b, blasFailure(C.create(&b.handle))
}

// Close gives the handle back.
func (b *BLAS) Close() { C.destroy(b.handle) }

func blasFailure(status C.int) error {
	if status == 0 {
		return nil
	}
	return fmt.Errorf("cuBLASLt error %d", int(status))
}

// Number is an element type of products, by CUDA's number for it.
type Number int

// The element types, and how products of them are computed.
const (
	Float32  Number = 0
	Float16  Number = 2
	BFloat16 Number = 14

	computeFloat32 = 68
	computeTF32    = 77
)

// ProductForm describes a batch of products C = A·B of column-major matrices:
// C is M × N, A M × K, or K × M where it is transposed, B K × N or N × K.
// Matrices of a batch lie strides apart.
type ProductForm struct {
	Type, TypeC               Number // of A and B, and of C
	TF32                      bool   // rounds float32 to 10 bits of mantissa, for speed
	TransA, TransB            bool
	M, N, K                   int
	LeadA, LeadB, LeadC       int
	Batch                     int
	StrideA, StrideB, StrideC int
}

// Product is a form with the algorithm for it.
type Product struct{ p *C.product }

// Plan chooses the algorithm for a form, which may use so many bytes of
// workspace.
func (b *BLAS) Plan(f ProductForm, workspace int) (Product, error) {
	compute := computeFloat32
	if f.TF32 && f.Type == Float32 {
		compute = computeTF32
	}
	var p Product
	err := blasFailure(C.newProduct(b.handle, &p.p, C.int(compute), C.int(f.Type), C.int(f.TypeC), truth(f.TransA), truth(f.TransB),
		C.uint64_t(f.M), C.uint64_t(f.N), C.uint64_t(f.K), C.int64_t(f.LeadA), C.int64_t(f.LeadB), C.int64_t(f.LeadC),
		C.int(f.Batch), C.int64_t(f.StrideA), C.int64_t(f.StrideB), C.int64_t(f.StrideC), C.size_t(workspace)))
	return p, err
}

// Free gives the form back.
func (p Product) Free() { C.freeProduct(p.p) }

func truth(b bool) C.int {
	if b {
		return 1
	}
	return 0
}

// Multiply computes C = alpha·A·B + beta·C for matrices at addresses of the
// device.
func (b *BLAS) Multiply(p Product, alpha float32, a, bb uintptr, beta float32, c uintptr, workspace []byte, s cu.Stream) error {
	return blasFailure(C.multiply(b.handle, p.p, C.float(alpha), C.uintptr_t(a), C.uintptr_t(bb), C.float(beta), C.uintptr_t(c),
		C.uintptr_t(address(workspace)), C.size_t(len(workspace)), unsafe.Pointer(stream(s))))
}
