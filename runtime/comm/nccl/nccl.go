//go:build fmoecuda

package nccl

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	goruntime "runtime"
	"slices"
	"sync"
	"time"

	"gorgonia.org/cu"

	"github.com/fmoe-go/fmoe/cuda/driver"
	"github.com/fmoe-go/fmoe/runtime/comm"
	"github.com/fmoe-go/fmoe/runtime/comm/rendezvous"
)

// Built says whether the program was built with CUDA.
const Built = true

// World returns the communicator of all processes that the environment tells
// of. A process can call it once.
func World(o comm.Options) (comm.Communicator, error) {
	place, err := rendezvous.FromEnvironment(os.Getenv)
	if err != nil {
		return nil, fmt.Errorf("NCCL: %w", err)
	}
	if err := errors.Join(driver.Status(), library()); err != nil {
		return nil, err
	}
	n, err := cu.NumDevices()
	if err != nil {
		return nil, err
	}
	if n == 1 { // what is visible to this process
		place.Local = 0
	}
	if place.Local >= n {
		return nil, fmt.Errorf("rank %d: LOCAL_RANK is %d, but this machine has %d GPUs; start as many processes on it", place.Rank, place.Local, n)
	}
	return open(place, o)
}

func open(place rendezvous.Place, o comm.Options) (comm.Communicator, error) {
	limit := cmp.Or(max(o.Timeout, 0), 10*time.Minute)
	w := &world{place: place, limit: max(limit, opening), gone: map[int]rendezvous.Notice{}, lines: map[string]*line{}}
	w.running, w.cancel = context.WithCancel(context.Background())
	device, err := cu.GetDevice(place.Local)
	if err != nil {
		return nil, err
	}
	if w.context, err = device.RetainPrimaryCtx(); err != nil {
		return nil, fmt.Errorf("GPU %d: %w", place.Local, err)
	}
	w.meeting, err = rendezvous.Join(w.running, place, rendezvous.Options{Timeout: w.limit, Beat: min(limit/4, 10*time.Second), Progress: w.progress, Stopped: w.told})
	if err != nil {
		return nil, err
	}
	if err := w.enter(); err != nil {
		return nil, err
	}
	err = w.memory.reserve()
	goruntime.UnlockOSThread()
	if err != nil {
		return nil, errors.Join(err, w.meeting.Close())
	}
	all := make([]int, place.Size)
	for i := range all {
		all[i] = i
	}
	l := w.line("world", all, place.Rank, func() (handle, error) { return w.meet("world", place.Size, place.Rank) })
	c := &Communicator{line: l}
	// The first call waits until NCCL has made the communicator. The second lets
	// CUDA load the kernel of messages, which it cannot do while another one waits.
	one, ones := comm.Slice(make([]int64, place.Size)), slices.Repeat([]int{1}, place.Size)
	if err := comm.Wait(c.Barrier(w.running), c.AllToAll(w.running, one, ones, comm.Slice(make([]int64, place.Size)), ones)); err != nil {
		return nil, errors.Join(fmt.Errorf("rank %d: %w", place.Rank, err), c.Close())
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.limit = limit
	return c, nil
}

// opening is how long the first call may take at least, since GPUs and NCCL take
// their time to start.
const opening = time.Minute

// world is what the groups of a rank share.
type world struct {
	place   rendezvous.Place
	limit   time.Duration
	context cu.CUContext
	meeting *rendezvous.Meeting
	running context.Context // until the rank stops
	cancel  context.CancelFunc
	calls   sync.WaitGroup
	threads sync.WaitGroup
	memory  memory

	mu     sync.Mutex
	lines  map[string]*line
	gone   map[int]rendezvous.Notice // the ranks that have stopped
	err    error                     // why this one has
	closed bool
}

// meet makes the communicator of some ranks, of which the first sets a key to
// NCCL's unique id. The others say that they know it, so that nobody waits
// within NCCL for one that does not come.
func (w *world) meet(key string, n, rank int) (handle, error) {
	known := func(rank int) string { return fmt.Sprintf("%s: %d knows", key, rank) }
	if rank > 0 {
		id, err := w.meeting.Get(w.running, key)
		if err == nil {
			err = w.meeting.Set(w.running, known(rank), nil)
		}
		if err != nil {
			return handle{}, err
		}
		return initialise(n, id, rank)
	}
	id, err := uniqueID()
	if err == nil {
		err = w.meeting.Set(w.running, key, id)
	}
	for i := 1; i < n && err == nil; i++ {
		_, err = w.meeting.Get(w.running, known(i))
	}
	if err != nil {
		return handle{}, err
	}
	return initialise(n, id, 0)
}

// progress returns how many calls of each line have started.
func (w *world) progress() map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := map[string]int{}
	for name, l := range w.lines {
		p[name] = l.started
	}
	return p
}

// needs returns why a call cannot be made without ranks that have stopped, nil
// if they made it before.
func (w *world) needs(c *call) error {
	for _, rank := range c.line.ranks {
		if n, gone := w.gone[rank]; gone && (!n.Closed || n.Progress[c.line.name] <= c.number) {
			return comm.Stopped(rank, n.Err())
		}
	}
	return nil
}

// told ends the calls that need a rank which has stopped.
func (w *world) told(n rendezvous.Notice) {
	w.mu.Lock()
	w.gone[n.Rank] = n
	var failed *call
	var err error
	for _, l := range w.lines {
		for c := range l.pending {
			if why := w.needs(c); why != nil {
				failed, err = c, why
			}
		}
	}
	w.mu.Unlock()
	if failed != nil {
		failed.finish(err)
	}
}

// stop stops the rank, if nothing did before: its calls end, and the others are
// told.
func (w *world) stop(err error) {
	w.mu.Lock()
	if w.err != nil {
		w.mu.Unlock()
		return
	}
	w.err = err
	var pending []*call
	lines := slices.Collect(maps.Values(w.lines))
	for _, l := range lines {
		pending = slices.AppendSeq(pending, maps.Keys(l.pending))
	}
	w.mu.Unlock()
	if len(pending) > 0 || !errors.Is(err, comm.ErrClosed) {
		w.cancel()
		for _, l := range lines {
			w.threads.Go(l.abort)
		}
	}
	for _, c := range pending {
		c.finish(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	_ = w.meeting.Stop(ctx, err, w.progress()) // where it cannot be told, the others notice
}

// grace is how long what is to be quick may take: others that are told of an
// error, threads that end.
const grace = 2 * time.Second

// close waits for the other ranks, and gives back what NCCL has.
func (w *world) close() error {
	w.mu.Lock()
	again := w.closed
	w.closed = true
	w.mu.Unlock()
	if again {
		return nil
	}
	w.stop(comm.ErrClosed)
	w.calls.Wait()
	limit := w.limit
	failed := !errors.Is(w.err, comm.ErrClosed)
	if failed {
		limit = min(limit, grace)
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), limit, fmt.Errorf("time-out of %v", limit))
	defer cancel()
	err := w.meeting.Stopped(ctx)
	w.cancel()
	w.mu.Lock()
	for _, l := range w.lines {
		close(l.queue)
	}
	w.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		w.threads.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(grace): // within NCCL: the end of the process ends it
	}
	return errors.Join(err, w.meeting.Close())
}

// Communicator is one worker's end of a group of processes with a GPU each.
type Communicator struct {
	*line
	splits int
}

// Rank implements [comm.Communicator].
func (g *Communicator) Rank() int { return g.line.rank }

// Size implements [comm.Communicator].
func (g *Communicator) Size() int { return len(g.ranks) }

// Abort implements [comm.Communicator].
func (g *Communicator) Abort(err error) { g.stop(err) }

// Close implements [comm.Communicator].
func (g *Communicator) Close() error {
	if g.name != "world" {
		return nil
	}
	return g.close()
}

// After lets the calls that are made from now on begin when a stream of this
// GPU has done all that it was given until now.
func (g *Communicator) After(s cu.Stream) error {
	event, err := record(s)
	if err != nil {
		return err
	}
	_, err = g.control(func() error {
		return errors.Join(g.line.stream.Wait(event, 0), cu.DestroyEvent(&event))
	})
	return err
}

// Before lets what a stream of this GPU is given from now on begin when the
// calls that were made until now are done.
func (g *Communicator) Before(s cu.Stream) error {
	var event cu.Event
	launched, err := g.control(func() (err error) {
		event, err = record(g.line.stream)
		return err
	})
	if err != nil {
		return err
	}
	if err := launched.Wait(); err != nil {
		return err
	}
	return errors.Join(s.Wait(event, 0), cu.DestroyEvent(&event))
}

// AllReduce implements [comm.Communicator].
func (g *Communicator) AllReduce(ctx context.Context, x comm.Buffer, r comm.Reduction) *comm.Handle {
	n, err := x.Elements("x")
	if err == nil {
		err = comm.CheckReduction(x.Type, r)
	}
	return g.start(ctx, "all-reduce", err, func(c *call) error {
		data, err := c.device(x.Data, in|out)
		if err != nil || n == 0 {
			return err
		}
		return g.handle.allReduce(comm.Buffer{Type: x.Type, Data: data}, n, r, g.stream)
	})
}

// ReduceScatter implements [comm.Communicator].
func (g *Communicator) ReduceScatter(ctx context.Context, send, receive comm.Buffer, counts []int, r comm.Reduction) *comm.Handle {
	err := comm.CheckReduction(send.Type, r)
	parts, second := comm.Parts("send", send, counts, len(g.ranks))
	if err == nil {
		err = second
	}
	if err == nil && (send.Type != receive.Type || len(receive.Data) != len(parts[g.line.rank])) {
		err = fmt.Errorf("rank %d receives %d bytes of %s where it sends %d of %s", g.line.rank, len(receive.Data), receive.Type, len(parts[g.line.rank]), send.Type)
	}
	return g.start(ctx, "reduce-scatter", err, func(c *call) error {
		from, err := c.device(send.Data, in)
		if err != nil || len(from) == 0 {
			return err
		}
		into, err := c.device(receive.Data, out)
		if err != nil {
			return err
		}
		size := len(send.Data) / elements(send)
		if same(parts) {
			return g.handle.reduceScatter(comm.Buffer{Type: send.Type, Data: from}, into, len(parts[0])/size, r, g.stream)
		}
		return grouped(func() error {
			begin := 0
			for root, p := range parts {
				part := comm.Buffer{Type: send.Type, Data: from[begin : begin+len(p)]}
				begin += len(p)
				if len(p) == 0 {
					continue
				}
				if err := g.handle.reduce(part, into, len(p)/size, r, root, g.stream); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

func elements(b comm.Buffer) int {
	n, _ := b.Elements("") // was asked before
	return n
}

// same reports whether parts are of one size.
func same(parts [][]byte) bool {
	return !slices.ContainsFunc(parts, func(p []byte) bool { return len(p) != len(parts[0]) })
}

// AllGather implements [comm.Communicator].
func (g *Communicator) AllGather(ctx context.Context, send, receive comm.Buffer, counts []int) *comm.Handle {
	parts, err := comm.Parts("receive", receive, counts, len(g.ranks))
	if err == nil && (send.Type != receive.Type || len(send.Data) != len(parts[g.line.rank])) {
		err = fmt.Errorf("rank %d sends %d bytes of %s where it receives %d of %s", g.line.rank, len(send.Data), send.Type, len(parts[g.line.rank]), receive.Type)
	}
	return g.start(ctx, "all-gather", err, func(c *call) error {
		into, err := c.device(receive.Data, out)
		if err != nil || len(into) == 0 {
			return err
		}
		from, err := c.device(send.Data, in)
		if err != nil {
			return err
		}
		if same(parts) {
			return g.handle.allGather(from, into, g.stream)
		}
		begin := 0
		for _, p := range parts[:g.line.rank] {
			begin += len(p)
		}
		if own := into[begin : begin+len(from)]; len(own) > 0 && &own[0] != &from[0] {
			if err := driver.Copy(own, from, g.stream); err != nil {
				return err
			}
		}
		return grouped(func() error {
			begin := 0
			for root, p := range parts {
				part := into[begin : begin+len(p)]
				begin += len(p)
				if len(p) == 0 {
					continue
				}
				if err := g.handle.broadcast(part, root, g.stream); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// AllToAll implements [comm.Communicator].
func (g *Communicator) AllToAll(ctx context.Context, send comm.Buffer, sendCounts []int, receive comm.Buffer, receiveCounts []int) *comm.Handle {
	from, err := comm.Parts("send", send, sendCounts, len(g.ranks))
	to, second := comm.Parts("receive", receive, receiveCounts, len(g.ranks))
	if err = errors.Join(err, second); err == nil {
		err = comm.CheckAllToAll(send, from, receive, to, g.line.rank)
	}
	return g.start(ctx, "all-to-all", err, func(c *call) error {
		x, err := c.device(send.Data, in)
		if err != nil {
			return err
		}
		y, err := c.device(receive.Data, out)
		if err != nil {
			return err
		}
		return grouped(func() error {
			for rank := range from {
				if n := len(from[rank]); n > 0 {
					if err := g.handle.send(x[:n], rank, g.stream); err != nil {
						return err
					}
					x = x[n:]
				}
				if n := len(to[rank]); n > 0 {
					if err := g.handle.receive(y[:n], rank, g.stream); err != nil {
						return err
					}
					y = y[n:]
				}
			}
			return nil
		})
	})
}

// Broadcast implements [comm.Communicator].
func (g *Communicator) Broadcast(ctx context.Context, x comm.Buffer, root int) *comm.Handle {
	_, err := x.Elements("x")
	if root < 0 || root >= len(g.ranks) {
		err = fmt.Errorf("root %d of %d ranks", root, len(g.ranks))
	}
	return g.start(ctx, "broadcast", err, func(c *call) error {
		way := out
		if g.line.rank == root {
			way = in
		}
		data, err := c.device(x.Data, way)
		if err != nil || len(data) == 0 {
			return err
		}
		return g.handle.broadcast(data, root, g.stream)
	})
}

// Barrier sums up nothing in particular.
func (g *Communicator) Barrier(ctx context.Context) *comm.Handle {
	return g.start(ctx, "barrier", nil, func(c *call) error {
		x := comm.Slice([]int64{1})
		var err error
		if x.Data, err = c.device(x.Data, in); err != nil {
			return err
		}
		return g.handle.allReduce(x, 1, comm.Sum, g.stream)
	})
}

// channel returns the line of messages from one rank to another, which has a
// communicator of its own: messages of different pairs do not wait for one
// another.
func (g *Communicator) channel(from, to int) *line {
	name := fmt.Sprintf("%s, %d to %d", g.name, from, to)
	rank := 0
	if g.line.rank == to {
		rank = 1
	}
	return g.world.line(name, []int{g.ranks[from], g.ranks[to]}, rank, func() (handle, error) { return g.meet(name, 2, rank) })
}

// peer fails where a message cannot be sent to a rank, or received.
func (g *Communicator) peer(x comm.Buffer, peer int) error {
	if peer < 0 || peer >= len(g.ranks) || peer == g.line.rank {
		return fmt.Errorf("rank %d of %d is not another one than %d", peer, len(g.ranks), g.line.rank)
	}
	_, err := x.Elements("x")
	return err
}

// Send sends the size of a message before it.
func (g *Communicator) Send(ctx context.Context, x comm.Buffer, to int) *comm.Handle {
	if err := g.peer(x, to); err != nil {
		return g.start(ctx, "send", err, nil)
	}
	l := g.channel(g.line.rank, to)
	return l.start(ctx, "send", nil, func(c *call) error {
		size, err := c.device(comm.Slice([]int64{int64(len(x.Data))}).Data, in)
		if err != nil {
			return err
		}
		data, err := c.device(x.Data, in)
		if err != nil {
			return err
		}
		if err := l.handle.send(size, 1, l.stream); err != nil || len(data) == 0 {
			return err
		}
		return l.handle.send(data, 1, l.stream)
	})
}

// Receive implements [comm.Communicator]. A message of another size than
// expected is noticed before it comes.
func (g *Communicator) Receive(ctx context.Context, x comm.Buffer, from int) *comm.Handle {
	if err := g.peer(x, from); err != nil {
		return g.start(ctx, "receive", err, nil)
	}
	l := g.channel(from, g.line.rank)
	return l.start(ctx, "receive", nil, func(c *call) error {
		sent := []int64{0}
		size, err := c.device(comm.Slice(sent).Data, out)
		if err != nil {
			return err
		}
		if err := l.handle.receive(size, 0, l.stream); err != nil {
			return err
		}
		err = c.then(func() error {
			if sent[0] != int64(len(x.Data)) {
				return comm.SizeMismatch(l.ranks[0], l.ranks[1], len(x.Data))
			}
			return nil
		})
		if err != nil {
			return err
		}
		data, err := c.device(x.Data, out)
		if err != nil || len(data) == 0 {
			return err
		}
		return l.handle.receive(data, 0, l.stream)
	})
}

// Split implements [comm.Communicator].
func (g *Communicator) Split(ctx context.Context, color, key int) (comm.Communicator, error) {
	own := []int64{int64(color), int64(key)}
	all := make([]int64, 2*len(g.ranks))
	if err := g.AllGather(ctx, comm.Slice(own), comm.Slice(all), nil).Wait(); err != nil {
		return nil, fmt.Errorf("split: %w", err)
	}
	var part handle
	g.splits++
	split := g.start(ctx, "split", nil, func(*call) (err error) {
		if err := g.stream.Synchronize(); err != nil { // NCCL wants no calls under way
			return err
		}
		part, err = g.handle.split(color, key)
		return err
	})
	if err := split.Wait(); err != nil {
		return nil, err
	}
	if color < 0 {
		return nil, nil
	}
	var members []int
	for i := range g.ranks {
		if all[2*i] == int64(color) {
			members = append(members, i)
		}
	}
	slices.SortStableFunc(members, func(a, b int) int { return cmp.Compare(all[2*a+1], all[2*b+1]) })
	ranks := make([]int, len(members))
	for i, m := range members {
		ranks[i] = g.ranks[m]
	}
	name := fmt.Sprintf("%s, split %d, color %d", g.name, g.splits, color)
	l := g.world.line(name, ranks, slices.Index(members, g.line.rank), func() (handle, error) { return part, nil })
	return &Communicator{line: l}, nil
}
