package moe

import "sync"

// spare keeps the memory that calls of Choose need while they run, one piece
// for each that runs at a time.
type spare[S any] struct {
	lock sync.Mutex
	free []*S
	make func() *S
}

func (s *spare[S]) take() *S {
	s.lock.Lock()
	defer s.lock.Unlock()
	n := len(s.free)
	if n == 0 {
		return s.make()
	}
	x := s.free[n-1]
	s.free = s.free[:n-1]
	return x
}

func (s *spare[S]) give(x *S) {
	s.lock.Lock()
	defer s.lock.Unlock()
	s.free = append(s.free, x)
}
