//go:build fmoecuda

package nccl

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	goruntime "runtime"
	"sync"
	"time"

	"gorgonia.org/cu"

	"github.com/fmoe-go/fmoe/cuda/driver"
	"github.com/fmoe-go/fmoe/runtime/comm"
)

// line is calls that follow one another on a stream of their own: those of a
// group, or the messages from one rank to another. One thread starts them, and
// one waits for them.
type line struct {
	*world
	name   string // the same for all of its ranks
	ranks  []int  // of the world
	rank   int    // the own one among them
	queue  chan func()
	steps  chan step
	stream cu.Stream

	// busy is held while handle is used.
	busy    sync.Mutex
	handle  handle
	aborted bool

	// Of the world's mutex:
	started int
	pending map[*call]bool
}

// step is what the waiting thread does when the stream has come to an event.
type step struct {
	event cu.Event
	do    func(error)
}

// queued is how many calls may wait for being started before the caller does.
const queued = 2 * comm.Window

// line returns the one of a name, which is opened by its thread if it is new.
func (w *world) line(name string, ranks []int, rank int, open func() (handle, error)) *line {
	w.mu.Lock()
	defer w.mu.Unlock()
	if l := w.lines[name]; l != nil {
		return l
	}
	l := &line{world: w, name: name, ranks: ranks, rank: rank, queue: make(chan func(), queued), steps: make(chan step, queued), pending: map[*call]bool{}}
	if w.closed {
		close(l.queue) // start refuses calls
	} else {
		w.lines[name] = l
	}
	w.threads.Go(func() { l.serve(open) })
	w.threads.Go(l.wait)
	return l
}

// enter ties the goroutine to a thread that uses the GPU.
func (w *world) enter() error {
	goruntime.LockOSThread()
	return cu.SetCurrentContext(w.context)
}

// serve is the thread that starts calls.
func (l *line) serve(open func() (handle, error)) {
	defer close(l.steps)
	err := l.enter()
	defer goruntime.UnlockOSThread()
	if err == nil {
		l.stream, err = cu.MakeStream(cu.NonBlocking)
	}
	var h handle
	if err == nil {
		h, err = open()
	}
	l.busy.Lock()
	l.handle = h
	l.busy.Unlock()
	if err != nil && l.running.Err() == nil {
		l.stop(fmt.Errorf("%s: %w", l.name, err))
	}
	for f := range l.queue {
		f()
	}
	l.busy.Lock()
	defer l.busy.Unlock()
	if l.handle.p != nil && !l.aborted {
		_ = l.handle.destroy() // of no use any more
	}
	l.aborted = true
}

// wait is the thread that waits for calls.
func (l *line) wait() {
	err := l.enter()
	defer goruntime.UnlockOSThread()
	for s := range l.steps {
		if err == nil {
			err = s.event.Synchronize()
		}
		_ = cu.DestroyEvent(&s.event) // of no use any more
		s.do(err)
	}
}

// abort ends what the GPU does for the line.
func (l *line) abort() {
	if l.enter() != nil {
		return
	}
	defer goruntime.UnlockOSThread()
	// A thread that is within NCCL leaves soon, or waits for what is aborted here.
	free := false
	for deadline := time.Now().Add(grace / 2); !free && time.Now().Before(deadline); {
		if free = l.busy.TryLock(); !free {
			<-time.After(time.Millisecond)
		}
	}
	if free {
		defer l.busy.Unlock()
	}
	if l.handle.p != nil && !l.aborted {
		l.aborted = true
		_ = l.handle.abort() // the rank has failed already
	}
}

// record returns an event that comes when a stream has done all until now.
func record(s cu.Stream) (cu.Event, error) {
	event, err := cu.MakeEvent(cu.BlockingSyncEvent | cu.DisableTiming)
	if err != nil {
		return event, err
	}
	return event, event.Record(s)
}

// control lets the line's thread do something between calls.
func (l *line) control(f func() error) (*comm.Handle, error) {
	h, end := comm.NewHandle()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return nil, l.err
	}
	l.queue <- func() { end(l.within(f)) }
	return h, nil
}

// within does something with the handle, unless the rank has stopped.
func (l *line) within(f func() error) error {
	l.busy.Lock()
	defer l.busy.Unlock()
	l.mu.Lock()
	err := l.err
	l.mu.Unlock()
	if err != nil {
		return err
	}
	return f()
}

// call is one under way.
type call struct {
	line   *line
	name   string
	number int
	end    func(error)
	once   sync.Once
	timer  func() bool // stops the time-out
	cancel context.CancelFunc
	blocks []*block
	into   []copying
}

// copying is from pinned memory to where the caller wants it.
type copying struct {
	to    []byte
	block *block
}

// start starts a call, whose arguments are right if err is nil.
func (l *line) start(ctx context.Context, name string, err error, launch func(*call) error) *comm.Handle {
	h, end := comm.NewHandle()
	c := &call{line: l, name: name, end: end}
	if err == nil {
		err = context.Cause(ctx)
	}
	l.mu.Lock()
	limited, cancel := context.WithTimeoutCause(ctx, l.limit, fmt.Errorf("%w: time-out of %v", context.DeadlineExceeded, l.limit))
	c.cancel = cancel
	switch {
	case l.closed:
		err = errors.New("the communicator is closed")
	case l.err != nil:
		err = l.err
	}
	c.number = l.started
	if err == nil {
		err = l.needs(c)
	}
	if err != nil {
		l.mu.Unlock()
		cancel()
		err = fmt.Errorf("%s: %w", name, err)
		l.stop(err)
		end(err)
		return h
	}
	l.started++
	l.pending[c] = true
	l.calls.Add(1)
	c.timer = context.AfterFunc(limited, func() { c.finish(c.missing(limited)) })
	l.queue <- func() { c.begin(launch) }
	l.mu.Unlock()
	return h
}

// begin runs on the line's thread.
func (c *call) begin(launch func(*call) error) {
	err := c.line.within(func() error {
		if err := launch(c); err != nil {
			return err
		}
		return c.then(nil)
	})
	if err != nil {
		c.finish(err)
	}
}

// then lets the waiting thread do something when the stream has done what it
// was given until now and host memory has what it is to receive; at last, with
// nil, end the call.
func (c *call) then(do func() error) error {
	into := c.into
	c.into = nil
	for _, x := range into {
		if err := driver.Download(x.block.host[:len(x.to)], x.block.device[:len(x.to)], c.line.stream); err != nil {
			return err
		}
	}
	event, err := record(c.line.stream)
	if err != nil {
		return err
	}
	c.line.steps <- step{event, func(err error) {
		if err == nil {
			for _, x := range into {
				copy(x.to, x.block.host)
			}
		}
		if err == nil && do != nil {
			err = do()
		}
		if do == nil {
			c.line.memory.give(c.blocks)
		}
		if err != nil || do == nil {
			c.finish(err)
		}
	}}
	return nil
}

// missing returns the error of a call whose time is up.
func (c *call) missing(ctx context.Context) error {
	if errors.Is(context.Cause(ctx), context.Canceled) {
		return context.Cause(ctx)
	}
	l := c.line
	var others []int
	for i, r := range l.ranks {
		if i != l.rank {
			others = append(others, r)
		}
	}
	asking, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if late, err := l.meeting.Behind(asking, l.name, c.number+1, others); err == nil && len(late) > 0 {
		others = late
	}
	if len(others) == 0 {
		return context.Cause(ctx)
	}
	return comm.Missing(ctx, l.place.Rank, others)
}

// finish ends the call, if nothing did before.
func (c *call) finish(err error) {
	c.once.Do(func() {
		l := c.line
		l.mu.Lock() // which start has until the call is made
		delete(l.pending, c)
		l.mu.Unlock()
		c.timer()
		c.cancel()
		if err != nil {
			err = fmt.Errorf("%s: %w", c.name, err)
			l.stop(err)
		}
		c.end(err)
		l.calls.Done()
	})
}

// Which way host memory is copied.
const (
	in = 1 << iota
	out
)

// device returns memory of the GPU for a call's buffer: the buffer itself, or a
// block that is copied from it before the call, to it afterwards, or both.
func (c *call) device(b []byte, way int) ([]byte, error) {
	if len(b) == 0 || driver.OnDevice(b) {
		return b, nil
	}
	block, err := c.line.memory.take(len(b))
	if err != nil {
		return nil, err
	}
	c.blocks = append(c.blocks, block)
	if way&out != 0 {
		c.into = append(c.into, copying{b, block})
	}
	d := block.device[:len(b)]
	if way&in != 0 {
		copy(block.host, b)
		return d, driver.Upload(d, block.host[:len(b)], c.line.stream)
	}
	return d, nil
}

// memory keeps blocks for copies of host memory, as long as the process runs.
type memory struct {
	mu   sync.Mutex
	free map[int][]*block // by the logarithm of their size
}

// block is pinned memory, and as much of the GPU's.
type block struct {
	class        int
	host, device []byte
}

const (
	smallest = 12
	reserved = 1024 // of the smallest blocks
)

// reserve makes small blocks ahead: allocating may wait for what the GPU does,
// which may wait for another rank.
func (m *memory) reserve() error {
	host, err := driver.AllocateHost(reserved << smallest)
	if err != nil {
		return err
	}
	device, err := driver.Allocate(reserved << smallest)
	if err != nil {
		return err
	}
	var list []*block
	for at := 0; at < len(host); at += 1 << smallest {
		list = append(list, &block{smallest, host[at : at+1<<smallest], device[at : at+1<<smallest]})
	}
	m.give(list)
	return nil
}

func (m *memory) take(n int) (*block, error) {
	class := max(bits.Len(uint(n-1)), smallest)
	m.mu.Lock()
	if list := m.free[class]; len(list) > 0 {
		m.free[class] = list[:len(list)-1]
		m.mu.Unlock()
		return list[len(list)-1], nil
	}
	m.mu.Unlock()
	b := &block{class: class}
	var err error
	if b.host, err = driver.AllocateHost(1 << class); err != nil {
		return nil, err
	}
	b.device, err = driver.Allocate(1 << class)
	return b, err
}

func (m *memory) give(list []*block) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.free == nil {
		m.free = map[int][]*block{}
	}
	for _, b := range list {
		m.free[b.class] = append(m.free[b.class], b)
	}
}
