package cpu

import (
	"unsafe"

	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// workspace lends each piece of a parallel loop memory of its own.
type workspace[T simd.Number] struct {
	scratch *device.Scratch
	memory  []T
	length  int
	free    chan int // the numbers of those not lent
}

// newWorkspace reserves scratch memory for as many pieces as run at a time,
// of the given number of elements each, behind what the kernel uses itself,
// also counted in elements.
func newWorkspace[T simd.Number](d *Device, scratch *device.Scratch, used, length int) *workspace[T] {
	const line = 64 // elements, so that no two pieces share a cache line
	length = (length + line - 1) / line * line
	w := &workspace[T]{scratch: scratch, length: length, free: make(chan int, d.pool.threads)}
	for i := range d.pool.threads {
		w.free <- i
	}
	reserve[T](scratch, used+length*d.pool.threads)
	return w
}

// open looks the memory up, before each loop, and returns what is the
// kernel's own.
func (w *workspace[T]) open() []T {
	all := lookUp[T](w.scratch)
	own := len(all) - w.length*cap(w.free)
	w.memory = all[own:]
	return all[:own]
}

// take lends one piece's memory until give.
func (w *workspace[T]) take() (number int, memory []T) {
	number = <-w.free
	return number, w.memory[number*w.length:][:w.length]
}

func (w *workspace[T]) give(number int) { w.free <- number }

// reserve states that a kernel needs n elements of scratch memory.
func reserve[T simd.Number](s *device.Scratch, n int) { s.Reserve(sizeOf[T](n)) }

// lookUp returns the scratch memory as elements.
func lookUp[T simd.Number](s *device.Scratch) []T {
	return tensor.Of[T](&tensor.Tensor{Data: s.Bytes()})
}

// scratchParts hands out parts of scratch memory one after the other, each on
// cache lines of its own. Without memory it only measures what they take.
type scratchParts struct {
	memory []byte
	used   int // bytes
}

// part returns the next n elements, nil while parts are measured.
func part[E tensor.Element](p *scratchParts, n int) []E {
	var zero E
	from, size := p.used, n*int(unsafe.Sizeof(zero))
	p.used = roundUp(from+size, 64)
	if p.memory == nil {
		return nil
	}
	return tensor.Of[E](&tensor.Tensor{Data: p.memory[from:][:size]})
}

// sizeOf returns how many bytes a number of elements is.
func sizeOf[T simd.Number](n int) int {
	var zero T
	return n * int(unsafe.Sizeof(zero))
}

// sizeIn returns how many elements a number of bytes, whole cache lines, is.
func sizeIn[T simd.Number](bytes int) int {
	var zero T
	return bytes / int(unsafe.Sizeof(zero))
}
