package cpu

// spares keeps what threads need for themselves while they work on a piece of
// a loop, so that a run need not allocate it.
type spares[T any] struct {
	free chan *T
	make func() *T
}

func newSpares[T any](d *Device, create func() *T) *spares[T] {
	s := &spares[T]{free: make(chan *T, d.pool.threads), make: create}
	for range d.pool.threads {
		s.free <- create()
	}
	return s
}

func (s *spares[T]) take() *T {
	select {
	case x := <-s.free:
		return x
	default: // one was lost to a panic
		return s.make()
	}
}

func (s *spares[T]) give(x *T) {
	select {
	case s.free <- x:
	default:
	}
}

// newBuffers keeps a piece's elements for each thread.
func newBuffers[T any](d *Device) *spares[[elementwiseChunk]T] {
	return newSpares(d, func() *[elementwiseChunk]T { return new([elementwiseChunk]T) })
}
