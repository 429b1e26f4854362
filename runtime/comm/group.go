package comm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// New returns the communicator of all ranks of a transport. It closes the
// transport when it is closed.
func New(t Transport, o Options) Communicator {
	ranks := make([]int, t.Size())
	for i := range ranks {
		ranks[i] = i
	}
	w := &worker{transport: t, options: o, next: 1}
	return newGroup(w, 0, ranks, t.Rank())
}

// worker is what the groups of a rank share.
type worker struct {
	transport Transport
	options   Options
	calls     sync.WaitGroup

	mu     sync.Mutex
	next   int   // the number of the next group
	err    error // why the rank has stopped
	closed bool
}

// stop stops the rank, if nothing did before.
func (w *worker) stop(err error) {
	w.mu.Lock()
	if w.err == nil {
		w.err = err
	}
	w.mu.Unlock()
	w.transport.Stop(err)
}

// group is the collectives over a transport.
type group struct {
	*worker
	id    int
	ranks []int // of the transport
	rank  int   // the own one in the group

	mu       sync.Mutex
	together sequence
	to, from []sequence
}

// sequence numbers calls, of which Window may be under way.
type sequence struct {
	next int
	busy map[int]bool
}

func newGroup(w *worker, id int, ranks []int, rank int) *group {
	return &group{worker: w, id: id, ranks: ranks, rank: rank, to: make([]sequence, len(ranks)), from: make([]sequence, len(ranks))}
}

func (g *group) Rank() int { return g.rank }

func (g *group) Size() int { return len(g.ranks) }

func (g *group) Abort(err error) { g.stop(err) }

func (g *group) Close() error {
	if g.id != 0 {
		return nil
	}
	g.worker.mu.Lock()
	again := g.closed
	g.closed = true
	g.worker.mu.Unlock()
	if again {
		return nil
	}
	g.stop(ErrClosed)
	g.calls.Wait()
	return g.transport.Close()
}

// call starts a call of the group, whose arguments are right if err is nil.
func (g *group) call(ctx context.Context, name string, err error, f func(x *exchange) error) *Handle {
	return g.start(ctx, name, &g.together, Tag{Group: 2 * g.id}, err, f)
}

// start starts a call: it takes the next number of a sequence, and runs f.
func (g *group) start(ctx context.Context, name string, s *sequence, tag Tag, err error, f func(x *exchange) error) *Handle {
	h := &Handle{done: make(chan struct{})}
	end := func(err error) {
		if err != nil {
			h.err = fmt.Errorf("%s: %w", name, err)
			g.stop(h.err)
		}
		close(h.done)
	}
	g.worker.mu.Lock()
	if g.closed {
		err = errors.New("the communicator is closed")
	} else if g.err != nil {
		err = g.err
	}
	if err == nil {
		g.calls.Add(1)
	}
	g.worker.mu.Unlock()
	if err != nil {
		end(err)
		return h
	}
	g.mu.Lock()
	tag.Sequence = s.next
	slot := s.next % Window
	if s.busy[slot] {
		err = fmt.Errorf("more than %d calls are under way; wait for some", Window)
	} else {
		if s.busy == nil {
			s.busy = map[int]bool{}
		}
		s.busy[slot] = true
		s.next++
	}
	g.mu.Unlock()
	if err != nil {
		end(err)
		g.calls.Done()
		return h
	}
	go func() {
		defer g.calls.Done()
		limit := g.options.timeout()
		ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("%w of %v", errTimeout, limit))
		defer cancel()
		err := f(&exchange{group: g, ctx: ctx, tag: tag})
		g.mu.Lock()
		delete(s.busy, slot)
		g.mu.Unlock()
		end(err)
	}()
	return h
}

var errTimeout = fmt.Errorf("%w: time-out", context.DeadlineExceeded)

// exchange is a call under way.
type exchange struct {
	group *group
	ctx   context.Context
	tag   Tag
}

// do sends to each rank, and receives from each, what the functions return for
// it, unless that is empty.
func (x *exchange) do(send, receive func(rank int) []byte) error {
	if err := context.Cause(x.ctx); err != nil {
		return err
	}
	g := x.group
	var sends, receives []Message
	for i := range g.ranks {
		// Each rank begins with another one, so that not all wait for the first.
		i = (g.rank + i) % len(g.ranks)
		from, to := send(i), receive(i)
		if i == g.rank {
			if len(to) > 0 && &to[0] != &from[0] { // others may be reading what a rank keeps
				copy(to, from)
			}
			continue
		}
		if len(from) > 0 {
			sends = append(sends, Message{g.ranks[i], from})
		}
		if len(to) > 0 {
			receives = append(receives, Message{g.ranks[i], to})
		}
	}
	if len(sends)+len(receives) == 0 {
		return nil
	}
	return g.transport.Exchange(x.ctx, x.tag, sends, receives)
}

// parts divides bytes, by rank.
type parts [][]byte

func (p parts) at(rank int) []byte { return p[rank] }

// Elements returns how many a buffer has. It fails where they are not whole
// bytes.
func (b Buffer) Elements(what string) (int, error) {
	size := b.size()
	if size == 0 {
		return 0, fmt.Errorf("%s is of %s, whose elements are not whole bytes", what, b.Type)
	}
	if len(b.Data)%size != 0 {
		return 0, fmt.Errorf("%s has %d bytes, which are no elements of %s", what, len(b.Data), b.Type)
	}
	return len(b.Data) / size, nil
}

// Parts divides a buffer among ranks by counts, which must be all of it; without
// counts the parts are of the same size. It is for communicators to check what
// they are called with.
func Parts(what string, b Buffer, counts []int, ranks int) ([][]byte, error) {
	n, err := b.Elements(what)
	if err != nil {
		return nil, err
	}
	if counts == nil {
		if n%ranks != 0 {
			return nil, fmt.Errorf("%s has %d elements, which %d ranks do not divide; give counts", what, n, ranks)
		}
		counts = slices.Repeat([]int{n / ranks}, ranks)
	}
	if len(counts) != ranks {
		return nil, fmt.Errorf("%s has %d counts for %d ranks", what, len(counts), ranks)
	}
	p, left := make([][]byte, ranks), b.Data
	for i, count := range counts {
		if count < 0 || count > len(left)/b.size() {
			return nil, fmt.Errorf("%s has counts %v, but %d elements", what, counts, n)
		}
		p[i], left = left[:count*b.size():count*b.size()], left[count*b.size():]
	}
	if len(left) > 0 {
		return nil, fmt.Errorf("%s has counts %v, but %d elements", what, counts, n)
	}
	return p, nil
}

// CheckAllToAll fails where the parts that a rank sends and receives do not fit
// together.
func CheckAllToAll(send Buffer, from [][]byte, receive Buffer, to [][]byte, rank int) error {
	if send.Type != receive.Type {
		return fmt.Errorf("%s is sent and %s received", send.Type, receive.Type)
	}
	if len(from[rank]) != len(to[rank]) {
		return fmt.Errorf("rank %d sends %d elements to itself and receives %d", rank, len(from[rank])/send.size(), len(to[rank])/send.size())
	}
	return nil
}

// divide is Parts among the ranks of the group.
func (g *group) divide(what string, b Buffer, counts []int) (parts, error) {
	return Parts(what, b, counts, len(g.ranks))
}

// spread returns counts as nearly the same as possible.
func (g *group) spread(b Buffer) []int {
	n, size := len(b.Data)/max(b.size(), 1), len(g.ranks)
	counts := make([]int, size)
	for i := range counts {
		counts[i] = (i+1)*n/size - i*n/size
	}
	return counts
}

func (g *group) AllToAll(ctx context.Context, send Buffer, sendCounts []int, receive Buffer, receiveCounts []int) *Handle {
	from, err := g.divide("send", send, sendCounts)
	to, second := g.divide("receive", receive, receiveCounts)
	if err = errors.Join(err, second); err == nil {
		err = CheckAllToAll(send, from, receive, to, g.rank)
	}
	return g.call(ctx, "all-to-all", err, func(x *exchange) error { return x.do(from.at, to.at) })
}

func (g *group) AllGather(ctx context.Context, send, receive Buffer, counts []int) *Handle {
	to, err := g.divide("receive", receive, counts)
	if err == nil && (send.Type != receive.Type || len(send.Data) != len(to.at(g.rank))) {
		err = fmt.Errorf("rank %d sends %d bytes of %s where it receives %d of %s", g.rank, len(send.Data), send.Type, len(to.at(g.rank)), receive.Type)
	}
	return g.call(ctx, "all-gather", err, func(x *exchange) error { return x.gather(send.Data, to) })
}

func (x *exchange) gather(own []byte, to parts) error {
	return x.do(func(int) []byte { return own }, to.at)
}

func (g *group) ReduceScatter(ctx context.Context, send, receive Buffer, counts []int, r Reduction) *Handle {
	err := CheckReduction(send.Type, r)
	from, second := g.divide("send", send, counts)
	if err == nil {
		err = second
	}
	if err == nil && (send.Type != receive.Type || len(receive.Data) != len(from.at(g.rank))) {
		err = fmt.Errorf("rank %d receives %d bytes of %s where it sends %d of %s", g.rank, len(receive.Data), receive.Type, len(from.at(g.rank)), send.Type)
	}
	return g.call(ctx, "reduce-scatter", err, func(x *exchange) error { return x.reduce(receive, from, r) })
}

// reduce puts into a buffer the reduction of the own parts of all ranks.
func (x *exchange) reduce(into Buffer, from parts, r Reduction) error {
	g := x.group
	received := make([][]byte, len(g.ranks))
	for i := range received {
		if i != g.rank {
			received[i] = tensor.AlignedBytes(len(into.Data))
		}
	}
	if err := x.do(from.at, func(rank int) []byte { return received[rank] }); err != nil {
		return err
	}
	received[g.rank] = from.at(g.rank)
	reduce(into.Data, into.Type, received, r)
	return nil
}

// AllReduce gives each rank a part to reduce, and gathers the parts: each sends
// about twice the buffer, however many ranks there are.
func (g *group) AllReduce(ctx context.Context, b Buffer, r Reduction) *Handle {
	all, err := g.divide("x", b, g.spread(b))
	if err == nil {
		err = CheckReduction(b.Type, r)
	}
	return g.call(ctx, "all-reduce", err, func(x *exchange) error {
		own := Buffer{b.Type, all.at(g.rank)}
		if err := x.reduce(own, all, r); err != nil {
			return err
		}
		return x.gather(own.Data, all)
	})
}

// direct is up to how many bytes the root of a broadcast sends to each rank
// itself.
const direct = 1 << 16

// Broadcast sends each rank a part of a large buffer, and gathers the parts.
func (g *group) Broadcast(ctx context.Context, b Buffer, root int) *Handle {
	all, err := g.divide("x", b, g.spread(b))
	if root < 0 || root >= len(g.ranks) {
		err = fmt.Errorf("root %d of %d ranks", root, len(g.ranks))
	}
	return g.call(ctx, "broadcast", err, func(x *exchange) error {
		part := all.at
		if len(b.Data) <= direct {
			part = func(int) []byte { return b.Data }
		}
		nothing := func(int) []byte { return nil }
		send, receive := nothing, nothing
		if g.rank == root {
			send = part
		} else {
			receive = func(rank int) []byte {
				if rank != root {
					return nil
				}
				return part(g.rank)
			}
		}
		if err := x.do(send, receive); err != nil || len(b.Data) <= direct {
			return err
		}
		// The root, which others may be reading, gets nothing back.
		return x.do(func(rank int) []byte {
			if rank == root {
				return nil
			}
			return all.at(g.rank)
		}, func(rank int) []byte {
			if g.rank == root {
				return nil
			}
			return all.at(rank)
		})
	})
}

// Barrier sends a byte to everyone, so that everyone knows who is missing.
func (g *group) Barrier(ctx context.Context) *Handle {
	return g.call(ctx, "barrier", nil, func(x *exchange) error {
		bytes := make([]byte, 1+len(g.ranks))
		return x.do(func(int) []byte { return bytes[:1] }, func(rank int) []byte { return bytes[1+rank : 2+rank] })
	})
}

func (g *group) Send(ctx context.Context, b Buffer, to int) *Handle {
	return g.point(ctx, "send", b, to, g.to, func(x *exchange) error {
		return g.transport.Exchange(x.ctx, x.tag, []Message{{g.ranks[to], b.Data}}, nil)
	})
}

func (g *group) Receive(ctx context.Context, b Buffer, from int) *Handle {
	return g.point(ctx, "receive", b, from, g.from, func(x *exchange) error {
		return g.transport.Exchange(x.ctx, x.tag, nil, []Message{{g.ranks[from], b.Data}})
	})
}

func (g *group) point(ctx context.Context, name string, b Buffer, peer int, s []sequence, f func(x *exchange) error) *Handle {
	var err error
	switch {
	case peer < 0 || peer >= len(g.ranks) || peer == g.rank:
		err = fmt.Errorf("rank %d of %d is not another one than %d", peer, len(g.ranks), g.rank)
		peer = 0
	case b.size() == 0:
		err = fmt.Errorf("elements of %s are not whole bytes", b.Type)
	}
	return g.start(ctx, name, &s[peer], Tag{Group: 2*g.id + 1}, err, func(x *exchange) error {
		if err := context.Cause(x.ctx); err != nil || len(b.Data) == 0 {
			return err
		}
		return f(x)
	})
}

// Split agrees on a number for the new groups, which no two ranks have used
// between them. Groups of the same split have the same one.
func (g *group) Split(ctx context.Context, color, key int) (Communicator, error) {
	g.worker.mu.Lock()
	own := []int64{int64(color), int64(key), int64(g.next)}
	g.worker.mu.Unlock()
	all := make([]int64, 3*len(g.ranks))
	if err := g.AllGather(ctx, Slice(own), Slice(all), nil).Wait(); err != nil {
		return nil, fmt.Errorf("split: %w", err)
	}
	id, members := 0, []int{}
	for i := range g.ranks {
		id = max(id, int(all[3*i+2]))
		if all[3*i] == int64(color) {
			members = append(members, i)
		}
	}
	g.worker.mu.Lock()
	g.next = id + 1
	g.worker.mu.Unlock()
	if color < 0 {
		return nil, nil
	}
	slices.SortStableFunc(members, func(a, b int) int { return cmp.Compare(all[3*a+1], all[3*b+1]) })
	ranks := make([]int, len(members))
	for i, m := range members {
		ranks[i] = g.ranks[m]
	}
	return newGroup(g.worker, id, ranks, slices.Index(members, g.rank)), nil
}
