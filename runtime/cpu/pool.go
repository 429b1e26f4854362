package cpu

import (
	"sync"
	"sync/atomic"
)

// pool splits loops over a fixed number of threads. There is one level of
// parallelism: a loop's body must not start another loop on the same pool.
type pool struct {
	threads int
	wake    chan struct{}
	done    sync.WaitGroup

	// The loop in progress; mu admits one at a time.
	mu     sync.Mutex
	body   func(lo, hi int)
	n      int
	chunk  int
	next   atomic.Int64
	failed atomic.Pointer[any] // the first panic of a body
}

func newPool(threads int) *pool {
	p := &pool{threads: threads, wake: make(chan struct{}, threads)}
	for range threads - 1 {
		go func() {
			for range p.wake {
				p.work()
				p.done.Done()
			}
		}()
	}
	return p
}

func (p *pool) close() { close(p.wake) }

// run calls body for pieces that cover 0 … n−1, in parallel where n exceeds
// grain, the number of iterations that is worth a thread. The pieces differ
// with the number of threads, so results must not depend on them.
func (p *pool) run(n, grain int, body func(lo, hi int)) {
	if n <= 0 {
		return
	}
	if p.threads == 1 || n <= grain {
		body(0, n)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.body, p.n = body, n
	// Several pieces a thread, so that a late thread does not hold up the rest.
	p.chunk = max(grain, (n+4*p.threads-1)/(4*p.threads), 1)
	p.next.Store(0)
	helpers := min(p.threads, (n+p.chunk-1)/p.chunk) - 1
	p.done.Add(helpers)
	for range helpers {
		p.wake <- struct{}{}
	}
	p.work()
	p.done.Wait()
	p.body = nil
	if failure := p.failed.Swap(nil); failure != nil {
		panic(*failure)
	}
}

func (p *pool) work() {
	defer func() {
		if r := recover(); r != nil {
			failure := r // its own variable, or every call would allocate one
			p.failed.CompareAndSwap(nil, &failure)
		}
	}()
	for {
		hi := int(p.next.Add(int64(p.chunk)))
		lo := hi - p.chunk
		if lo >= p.n {
			return
		}
		p.body(lo, min(hi, p.n))
	}
}
