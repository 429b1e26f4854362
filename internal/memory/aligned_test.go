package memory

import (
	"testing"
	"unsafe"
)

func TestAligned(t *testing.T) {
	for _, n := range []int{0, 1, 63, 64, 4097, hugePage - 1, hugePage, 3*hugePage + 5} {
		b := Aligned(n)
		if len(b) != n || cap(b) != n {
			t.Fatalf("%d bytes: length %d, capacity %d", n, len(b), cap(b))
		}
		if n > 0 && uintptr(unsafe.Pointer(unsafe.SliceData(b)))%line != 0 {
			t.Errorf("%d bytes do not start on a cache line", n)
		}
		for i := range b {
			if b[i] != 0 {
				t.Fatalf("%d bytes: byte %d is not zero", n, i)
			}
			b[i] = 1
		}
	}
}
