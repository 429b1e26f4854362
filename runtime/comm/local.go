package comm

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
)

// Local returns the communicators of n ranks in one process, which share
// memory. Each is for a goroutine of its own, which must close it.
func Local(n int, o Options) []Communicator {
	list := make([]Communicator, n)
	for i, t := range LocalTransports(n) {
		list[i] = New(t, o)
	}
	return list
}

// LocalTransports returns the transports of n ranks in one process.
func LocalTransports(n int) []Transport {
	w := &local{waiting: map[route][]*parcel{}, stopped: make([]error, n)}
	list := make([]Transport, n)
	for i := range list {
		list[i] = &localRank{w, i}
	}
	return list
}

// Run runs a function as one rank, and closes its communicator. If it returns an
// error or panics, the other ranks fail.
func Run(ctx context.Context, c Communicator, f func(ctx context.Context, c Communicator) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
		if err != nil {
			c.Abort(err)
		}
		if closing := c.Close(); err == nil {
			err = closing
		}
	}()
	return f(ctx, c)
}

// RunLocal runs a function as each of n ranks, and returns when all have. A
// rank that returns an error or panics makes the others fail. The error is that
// of the ranks that failed by themselves, each text once.
func RunLocal(ctx context.Context, n int, o Options, f func(ctx context.Context, c Communicator) error) error {
	return RunAll(ctx, Local(n, o), f)
}

// RunAll is RunLocal for communicators that there are.
func RunAll(ctx context.Context, list []Communicator, f func(ctx context.Context, c Communicator) error) error {
	n := len(list)
	errs := make([]error, n)
	var ranks sync.WaitGroup
	for i, c := range list {
		ranks.Go(func() { errs[i] = Run(ctx, c, f) })
	}
	ranks.Wait()
	var consequence *RankError
	isCause := func(err error) bool { return err != nil && !errors.As(err, &consequence) }
	caused := slices.ContainsFunc(errs, isCause)
	var causes []error
	seen := map[string]bool{}
	for i, err := range errs {
		if err == nil || caused && !isCause(err) || seen[err.Error()] {
			continue
		}
		seen[err.Error()] = true
		if n > 1 {
			err = fmt.Errorf("rank %d: %w", i, err)
		}
		causes = append(causes, err)
	}
	return errors.Join(causes...)
}

// local is a transport in shared memory: a sender and a receiver meet, and who
// comes second copies.
type local struct {
	mu      sync.Mutex
	waiting map[route][]*parcel // what nobody has met: only sends, or only receives
	stopped []error             // by rank: why
}

// route is what a sender and a receiver have in common.
type route struct {
	from, to int
	tag      Tag
}

// parcel is a message that waits for its other side.
type parcel struct {
	Message
	sent bool
	of   *meeting
}

// meeting is an Exchange under way.
type meeting struct {
	mu     sync.Mutex
	left   int           // parcels
	err    error         // the first
	failed chan struct{} // closed with it
	done   chan struct{} // closed when no parcel is left
}

func (m *meeting) finish(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err == nil && err != nil {
		m.err = err
		close(m.failed)
	}
	if m.left--; m.left == 0 {
		close(m.done)
	}
}

type localRank struct {
	*local
	rank int
}

func (l *localRank) Rank() int { return l.rank }

func (l *localRank) Size() int { return len(l.stopped) }

func (l *localRank) route(p *parcel, tag Tag) route {
	if p.sent {
		return route{l.rank, p.Rank, tag}
	}
	return route{p.Rank, l.rank, tag}
}

func (l *localRank) Exchange(ctx context.Context, tag Tag, sends, receives []Message) error {
	m := &meeting{left: len(sends) + len(receives), failed: make(chan struct{}), done: make(chan struct{})}
	parcels := make([]*parcel, 0, m.left)
	for _, s := range sends {
		parcels = append(parcels, &parcel{s, true, m})
	}
	for _, r := range receives {
		parcels = append(parcels, &parcel{r, false, m})
	}
	for _, p := range parcels {
		l.meet(p, tag)
	}
	select {
	case <-m.done:
		return m.err
	case <-m.failed:
	case <-ctx.Done():
	}
	missing := l.withdraw(parcels, tag)
	<-m.done // others may still be copying
	if m.err == nil && len(missing) > 0 {
		return Missing(ctx, l.rank, missing)
	}
	return m.err
}

// meet hands a parcel over, or lets it wait.
func (l *localRank) meet(p *parcel, tag Tag) {
	r := l.route(p, tag)
	l.mu.Lock()
	queue := l.waiting[r]
	switch {
	case l.stopped[l.rank] != nil:
		l.mu.Unlock()
		p.of.finish(l.stopped[l.rank])
	case len(queue) > 0 && queue[0].sent != p.sent:
		l.set(r, queue[1:])
		l.mu.Unlock()
		send, receive := queue[0], p
		if p.sent {
			send, receive = p, queue[0]
		}
		var err error
		if len(send.Data) != len(receive.Data) {
			err = SizeMismatch(r.from, r.to, len(receive.Data))
		}
		copy(receive.Data, send.Data)
		send.of.finish(err)
		receive.of.finish(err)
	case l.stopped[p.Rank] != nil:
		l.mu.Unlock()
		p.of.finish(Stopped(p.Rank, l.stopped[p.Rank]))
	default:
		l.waiting[r] = append(queue, p)
		l.mu.Unlock()
	}
}

// set changes the queue of a route.
func (l *local) set(r route, queue []*parcel) {
	if len(queue) == 0 {
		delete(l.waiting, r)
		return
	}
	l.waiting[r] = queue
}

// withdraw takes back the parcels that wait, and returns the ranks that they
// are to meet.
func (l *localRank) withdraw(parcels []*parcel, tag Tag) (missing []int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range parcels {
		r := l.route(p, tag)
		queue := l.waiting[r]
		if at := slices.Index(queue, p); at >= 0 {
			l.set(r, slices.Delete(queue, at, at+1))
			missing = append(missing, p.Rank)
			p.of.finish(nil)
		}
	}
	slices.Sort(missing)
	return slices.Compact(missing)
}

func (l *localRank) Stop(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped[l.rank] != nil {
		return
	}
	l.stopped[l.rank] = err
	for r, queue := range l.waiting {
		if r.from != l.rank && r.to != l.rank {
			continue
		}
		for _, p := range queue {
			if own := p.Rank != l.rank; own {
				p.of.finish(err)
			} else {
				p.of.finish(Stopped(l.rank, err))
			}
		}
		delete(l.waiting, r)
	}
}

func (l *localRank) Close() error { return nil }
