package cpu

import (
	goruntime "runtime"
	"sync"
	"sync/atomic"

	"github.com/fmoe-go/fmoe/internal/simd"
)

// pool splits loops over a fixed number of threads. There is one level of
// parallelism: a loop's body must not start another loop on the same pool.
//
// A run of a model is thousands of short loops, and waking a sleeping thread
// takes longer than many of them. So helpers that have finished a loop watch
// for the next one for a while before they go to sleep, and the caller watches
// for the helpers' end.
type pool struct {
	threads int
	helpers []helper
	spins   int // how often to look before sleeping

	// The loop in progress; mu admits one at a time.
	mu     sync.Mutex
	body   func(lo, hi int)
	n      int
	grain  int
	next   atomic.Int64
	failed atomic.Pointer[any] // the first panic of a body

	// state numbers the loops, in its upper bits, and says in the lower ones
	// how many helpers the newest has. working counts those that are not done.
	state   atomic.Uint64
	working atomic.Int64
	caller  sleeper // until the helpers are done
	closed  atomic.Bool
}

// helper is one of the threads beside the caller.
type helper struct {
	sleeper
	_ [64]byte // helpers watch their own fields only
}

const helperBits = 16

func newPool(threads int) *pool {
	threads = min(threads, 1<<helperBits)
	p := &pool{threads: threads, helpers: make([]helper, threads-1), caller: newSleeper()}
	if goruntime.GOMAXPROCS(0) >= threads { // else watching would keep others from working
		p.spins = 2000 // about 50 µs
	}
	for i := range p.helpers {
		p.helpers[i].sleeper = newSleeper()
		go p.help(i)
	}
	return p
}

func (p *pool) close() {
	p.closed.Store(true)
	for i := range p.helpers {
		p.helpers[i].wake()
	}
}

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
	p.body, p.n, p.grain = body, n, max(grain, 1)
	p.next.Store(0)
	helpers := min(p.threads, (n+p.grain-1)/p.grain) - 1
	p.working.Store(int64(helpers))
	p.state.Store((p.state.Load()>>helperBits+1)<<helperBits | uint64(helpers))
	for i := range helpers {
		p.helpers[i].wake()
	}
	p.work()
	p.caller.sleepUntil(p.spins, func() bool { return p.working.Load() == 0 })
	p.body = nil
	if failure := p.failed.Swap(nil); failure != nil {
		panic(*failure)
	}
}

// help takes part in every loop that wants helper i.
func (p *pool) help(i int) {
	seen := uint64(0)
	for {
		p.helpers[i].sleepUntil(p.spins, func() bool { return p.state.Load()>>helperBits != seen || p.closed.Load() })
		if p.closed.Load() {
			return
		}
		state := p.state.Load()
		seen = state >> helperBits
		if i >= int(state&(1<<helperBits-1)) {
			continue
		}
		p.work()
		if p.working.Add(-1) == 0 {
			p.caller.wake()
		}
	}
}

// work takes pieces of the loop until none is left. They become smaller
// towards the end, so that no thread waits long for another.
func (p *pool) work() {
	defer func() {
		if r := recover(); r != nil {
			failure := r // its own variable, or every call would allocate one
			p.failed.CompareAndSwap(nil, &failure)
		}
	}()
	for {
		lo := int(p.next.Load())
		if lo >= p.n {
			return
		}
		hi := min(p.n, lo+max(p.grain, (p.n-lo)/(2*p.threads)))
		if p.next.CompareAndSwap(int64(lo), int64(hi)) {
			p.body(lo, hi)
		}
	}
}

// sleeper lets a thread wait for a condition that others make true before
// they call wake.
type sleeper struct {
	asleep atomic.Bool
	signal chan struct{}
}

func newSleeper() sleeper { return sleeper{signal: make(chan struct{}, 1)} }

// sleepUntil returns when the condition holds. It looks for it a number of
// times before it gives up the processor.
func (s *sleeper) sleepUntil(spins int, condition func() bool) {
	for range spins {
		if condition() {
			return
		}
		simd.Pause()
	}
	for !condition() {
		s.asleep.Store(true)
		// Who made the condition true meanwhile may not have seen it asleep.
		if condition() && s.asleep.CompareAndSwap(true, false) {
			return
		}
		<-s.signal
	}
}

// wake ends the sleep of a thread, if it sleeps.
func (s *sleeper) wake() {
	if s.asleep.Load() && s.asleep.CompareAndSwap(true, false) {
		s.signal <- struct{}{}
	}
}
