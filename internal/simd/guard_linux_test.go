package simd

import (
	"os"
	"syscall"
	"testing"
	"unsafe"
)

// beforeGuard returns n elements with nothing behind them but memory that must
// not be touched.
func beforeGuard[T any](t *testing.T, n int) []T {
	page := os.Getpagesize()
	memory, err := syscall.Mmap(-1, 0, 2*page, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Skip("no memory of our own:", err)
	}
	t.Cleanup(func() { _ = syscall.Munmap(memory) })
	if err := syscall.Mprotect(memory[page:], syscall.PROT_NONE); err != nil {
		t.Skip("memory cannot be protected:", err)
	}
	all := unsafe.Slice((*T)(unsafe.Pointer(&memory[0])), page/int(unsafe.Sizeof(*new(T))))
	return all[len(all)-n:]
}

// TestNothingBehindSlices: the last elements of a slice are not read together
// with what lies behind it; this would end the test with a segmentation fault.
func TestNothingBehindSlices(t *testing.T) {
	const most = 70
	a, b, c, out := beforeGuard[float32](t, most), beforeGuard[float32](t, most), beforeGuard[float32](t, most), beforeGuard[float32](t, most)
	half := beforeGuard[uint16](t, most)
	for n := range most + 1 {
		a, b, c, out, half := a[most-n:], b[most-n:], c[most-n:], out[most-n:], half[most-n:]
		for _, f := range elementwise {
			f.apply(out, a, b, c)
		}
		for _, apply := range fused {
			apply(out, a, b, c)
		}
		Softmax(out, a)
		Moments(a)
		Sum(a)
		Dot(a, b)
		for _, f := range halfFormats {
			f.narrow(half, a)
			f.widen(out, half)
		}
	}
}

// TestProductsStayInside: products read and write nothing behind their
// operands, which would end the test with a segmentation fault, and nothing
// between the rows of their results.
func TestProductsStayInside(t *testing.T) {
	const m, k, stride, most = 25, 9, 41, 40
	a := RowMajor(beforeGuard[float32](t, m*k), m, k)
	work := make([]float32, WorkLenPacked[float32](m, k))
	for n := 1; n <= most; n++ {
		b := Pack(RowMajor(random[float32](k*n), k, n))
		c, bias := beforeGuard[float32](t, (m-1)*stride+n), beforeGuard[float32](t, n)
		for i := range c {
			c[i] = 77
		}
		MultiplyPacked(c, stride, a, b, 0, n, bias, work)
		for i, x := range c {
			if outside := i%stride >= n; outside != (x == 77) {
				t.Fatalf("%d columns: element %d of row %d is %v", n, i%stride, i/stride, x)
			}
		}
	}
}
