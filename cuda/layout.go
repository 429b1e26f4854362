//go:build fmoecuda

package cuda

// layout places what kernels compute on their way in scratch memory.
type layout struct{ size int }

// place is a place in scratch memory; the zero place is none.
type place int

// take places n bytes.
func (l *layout) take(n int) place {
	at := l.size
	l.size += (n + 255) &^ 255
	return place(at + 1)
}

// in returns the address of a place in scratch memory that begins at an
// address, 0 for none.
func (p place) in(scratch uintptr) uintptr {
	if p == 0 {
		return 0
	}
	return scratch + uintptr(p-1)
}
