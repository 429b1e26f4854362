//go:build mpi

package mpi

/*
#include <mpi.h>

static int start(int *rank, int *size, int *tags) {
	int level, found, *bound, e = MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &level);
	if (e == MPI_SUCCESS) e = MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
	if (e == MPI_SUCCESS) e = MPI_Comm_rank(MPI_COMM_WORLD, rank);
	if (e == MPI_SUCCESS) e = MPI_Comm_size(MPI_COMM_WORLD, size);
	if (e == MPI_SUCCESS) e = MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_TAG_UB, &bound, &found);
	*tags = e == MPI_SUCCESS && found ? *bound : 32767;
	return e;
}

// A synchronous send is done when it has met its receiver.
static int begin_send(void *data, int n, int to, int tag, MPI_Request *r) {
	return MPI_Issend(data, n, MPI_BYTE, to, tag, MPI_COMM_WORLD, r);
}

// A negative source is any.
static int begin_receive(void *data, int n, int from, int tag, MPI_Request *r) {
	return MPI_Irecv(data, n, MPI_BYTE, from < 0 ? MPI_ANY_SOURCE : from, tag, MPI_COMM_WORLD, r);
}

// some tells which requests are done, from whom, with how many bytes; of those
// that failed with -1.
static int some(int n, MPI_Request *requests, int *done, int *which, int *sources, int *sizes, MPI_Status *statuses) {
	int e = MPI_Testsome(n, requests, done, which, statuses);
	if (e != MPI_SUCCESS && e != MPI_ERR_IN_STATUS) return e;
	if (*done == MPI_UNDEFINED) *done = 0;
	for (int i = 0; i < *done; i++) {
		sources[i] = statuses[i].MPI_SOURCE;
		MPI_Get_count(&statuses[i], MPI_BYTE, &sizes[i]);
		if (e == MPI_ERR_IN_STATUS && statuses[i].MPI_ERROR != MPI_SUCCESS) sizes[i] = -1;
	}
	return MPI_SUCCESS;
}

static int cancel(MPI_Request *r) { return MPI_Cancel(r); }
*/
import "C"

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"
	"unsafe"

	"github.com/fmoe-go/fmoe/runtime/comm"
)

// Built says whether the program was built with MPI.
const Built = true

// World returns the communicator of all ranks of MPI_COMM_WORLD. A process can
// call it once.
func World(o comm.Options) (comm.Communicator, error) {
	t := &transport{commands: make(chan func()), ended: make(chan struct{}), limit: 10 * time.Minute}
	if o.Timeout > 0 {
		t.limit = o.Timeout
	}
	started := make(chan error)
	go t.serve(started)
	if err := <-started; err != nil {
		return nil, err
	}
	return comm.New(t, o), nil
}

// transport is served by one thread, which alone calls MPI.
type transport struct {
	rank, size int
	limit      time.Duration
	commands   chan func() // for the thread
	ended      chan struct{}

	// Of the thread:
	groups   int // that tags have room for
	requests []C.MPI_Request
	pieces   []*piece // of requests
	stopped  []error  // by rank: why
	notice   []byte   // of the next rank that stops
	closing  bool
}

// operation is an Exchange under way.
type operation struct {
	pieces map[*piece]bool
	err    error
	done   chan struct{}
}

// piece is a request to MPI, of which a large message takes several.
type piece struct {
	of   *operation // nil of notices, and of operations that have ended
	rank int
	data []byte
	sent bool
	pin  runtime.Pinner
}

// canceled is why a rank stopped that was told to.
type canceled string

func (c canceled) Error() string { return string(c) }

// Is makes it a [context.Canceled] like that of the rank's own process.
func (c canceled) Is(err error) bool { return err == context.Canceled }

// pieceBytes is within C's int.
const pieceBytes = 1 << 30

// noticeBytes is the room for the reason why a rank stopped.
const noticeBytes = 4 << 10

// notice tells other ranks that one has stopped.
type notice struct {
	Closed   bool   `json:"closed"`
	Canceled bool   `json:"canceled"` // somebody told the rank to stop
	Ranks    []int  `json:"ranks"`    // who made it stop, if others did
	Reason   string `json:"reason"`
}

func (t *transport) Rank() int { return t.rank }

func (t *transport) Size() int { return t.size }

// do lets the thread run a function, unless it has ended.
func (t *transport) do(f func()) {
	select {
	case t.commands <- f:
	case <-t.ended:
	}
}

// serve is the thread.
func (t *transport) serve(started chan<- error) {
	runtime.LockOSThread()
	defer close(t.ended)
	var rank, size, tags C.int
	if e := C.start(&rank, &size, &tags); e != C.MPI_SUCCESS {
		started <- fmt.Errorf("MPI_Init_thread: %w", code(e))
		return
	}
	t.rank, t.size, t.groups = int(rank), int(size), (int(tags)+1)/comm.Window-1
	t.stopped = make([]error, t.size)
	if t.size > 1 {
		t.listen()
	}
	started <- nil
	wait := time.Duration(0)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for !t.closing {
		idle := true
		for _, p := range t.pieces {
			idle = idle && p.of == nil && !p.sent
		}
		if idle {
			(<-t.commands)()
			wait = 0
			continue
		}
		if t.poll() {
			wait = 0
		} else {
			wait = min(max(2*wait, 5*time.Microsecond), time.Millisecond)
		}
		// MPI advances only when it is asked; between, other threads compute.
		timer.Reset(wait)
		select {
		case f := <-t.commands:
			f()
			wait = 0
		case <-timer.C:
		}
	}
	t.finish()
}

// code is the error of a call to MPI.
func code(e C.int) error {
	var text [C.MPI_MAX_ERROR_STRING]C.char
	var n C.int
	C.MPI_Error_string(e, &text[0], &n)
	return errors.New(C.GoStringN(&text[0], n))
}

// begin starts a request.
func (t *transport) begin(p *piece, tag int) error {
	var r C.MPI_Request
	start := unsafe.Pointer(unsafe.SliceData(p.data))
	p.pin.Pin(start)
	var e C.int
	if p.sent {
		e = C.begin_send(start, C.int(len(p.data)), C.int(p.rank), C.int(tag), &r)
	} else {
		e = C.begin_receive(start, C.int(len(p.data)), C.int(p.rank), C.int(tag), &r)
	}
	if e != C.MPI_SUCCESS {
		p.pin.Unpin()
		return code(e)
	}
	t.requests, t.pieces = append(t.requests, r), append(t.pieces, p)
	if p.of != nil {
		p.of.pieces[p] = true
	}
	return nil
}

// listen waits for the next notice.
func (t *transport) listen() {
	t.notice = make([]byte, noticeBytes)
	// Without notices, time-outs still end what waits for a rank.
	_ = t.begin(&piece{rank: -1, data: t.notice}, t.groups*comm.Window)
}

// poll handles the requests that are done, notices last: what a rank sent
// before it stopped counts.
func (t *transport) poll() (progress bool) {
	n := len(t.requests)
	which, sources, sizes := make([]C.int, n), make([]C.int, n), make([]C.int, n)
	statuses := make([]C.MPI_Status, n)
	var done C.int
	if e := C.some(C.int(n), &t.requests[0], &done, &which[0], &sources[0], &sizes[0], &statuses[0]); e != C.MPI_SUCCESS {
		t.stop(t.rank, fmt.Errorf("MPI_Testsome: %w", code(e)))
		return false
	}
	var told func()
	for i, at := range which[:done] {
		p := t.pieces[at]
		t.pieces[at] = nil
		p.pin.Unpin()
		switch size := int(sizes[i]); {
		case p.of != nil && !p.sent && size != len(p.data):
			t.end(p.of, comm.SizeMismatch(p.rank, t.rank, len(p.data)))
		case p.of != nil:
			if delete(p.of.pieces, p); len(p.of.pieces) == 0 {
				t.end(p.of, nil)
			}
		case p.rank < 0 && size >= 0:
			told = func() { t.told(int(sources[i]), t.notice[:size]) }
		}
	}
	left := 0
	for i, p := range t.pieces {
		if p != nil {
			t.pieces[left], t.requests[left] = p, t.requests[i]
			left++
		}
	}
	clear(t.pieces[left:])
	t.pieces, t.requests = t.pieces[:left], t.requests[:left]
	if told != nil {
		told()
	}
	return done > 0
}

// told handles a notice.
func (t *transport) told(rank int, text []byte) {
	var n notice
	err := json.Unmarshal(text, &n)
	switch {
	case err != nil:
		err = errors.New("has stopped")
	case n.Closed:
		err = comm.ErrClosed
	case n.Canceled:
		err = canceled(n.Reason)
	default:
		err = errors.New(n.Reason)
	}
	if len(n.Ranks) > 0 {
		err = &comm.RankError{Ranks: n.Ranks, Err: err}
	}
	t.stop(rank, err)
	if slices.Contains(t.stopped, nil) {
		t.listen()
	}
}

// stop ends the operations that need a rank.
func (t *transport) stop(rank int, err error) {
	if t.stopped[rank] != nil {
		return
	}
	t.stopped[rank] = err
	for _, p := range slices.Clone(t.pieces) {
		switch {
		case p == nil || p.of == nil:
		case rank == t.rank:
			t.end(p.of, err)
		case p.rank == rank:
			t.end(p.of, comm.Stopped(rank, err))
		}
	}
}

// end ends an operation. Requests that are still under way are left alone.
func (t *transport) end(o *operation, err error) {
	o.err = err
	close(o.done)
	for p := range o.pieces {
		p.of = nil
		if at := slices.Index(t.pieces, p); at >= 0 && !p.sent {
			C.cancel(&t.requests[at])
		}
	}
}

func (t *transport) Exchange(ctx context.Context, tag comm.Tag, sends, receives []comm.Message) error {
	o := &operation{pieces: map[*piece]bool{}, done: make(chan struct{})}
	t.do(func() { t.exchange(o, tag, sends, receives) })
	select {
	case <-o.done:
		return o.err
	case <-t.ended:
		return comm.ErrClosed
	case <-ctx.Done():
	}
	t.do(func() {
		select {
		case <-o.done:
			return
		default:
		}
		var missing []int
		for p := range o.pieces {
			missing = append(missing, p.rank)
		}
		slices.Sort(missing)
		t.end(o, comm.Missing(ctx, t.rank, slices.Compact(missing)))
	})
	<-o.done
	return o.err
}

// exchange starts an operation.
func (t *transport) exchange(o *operation, tag comm.Tag, sends, receives []comm.Message) {
	if t.stopped[t.rank] != nil {
		t.end(o, t.stopped[t.rank])
		return
	}
	if tag.Group >= t.groups {
		t.end(o, fmt.Errorf("this MPI has tags for %d groups only; split less often", t.groups/2))
		return
	}
	begin := func(m comm.Message, sent bool) error {
		if err := t.stopped[m.Rank]; err != nil && sent {
			return comm.Stopped(m.Rank, err)
		}
		for data := m.Data; len(data) > 0; {
			n := min(len(data), pieceBytes)
			if err := t.begin(&piece{of: o, rank: m.Rank, data: data[:n:n], sent: sent}, tag.Group*comm.Window+tag.Sequence%comm.Window); err != nil {
				return fmt.Errorf("rank %d: %w", m.Rank, err)
			}
			data = data[n:]
		}
		if err := t.stopped[m.Rank]; err != nil {
			return comm.Stopped(m.Rank, err)
		}
		return nil
	}
	for _, m := range receives {
		if err := begin(m, false); err != nil {
			t.end(o, err)
			return
		}
	}
	for _, m := range sends {
		if err := begin(m, true); err != nil {
			t.end(o, err)
			return
		}
	}
}

// Stop sends every other rank a notice.
func (t *transport) Stop(err error) {
	t.do(func() {
		if t.stopped[t.rank] != nil {
			return
		}
		t.stop(t.rank, err)
		n := notice{Closed: errors.Is(err, comm.ErrClosed), Canceled: errors.Is(err, context.Canceled), Reason: err.Error()}
		var cause *comm.RankError
		if errors.As(err, &cause) {
			n.Ranks, n.Reason = cause.Ranks, cause.Err.Error()
		}
		text, _ := json.Marshal(n) // cannot fail
		if len(text) > noticeBytes {
			n.Ranks, n.Reason = nil, n.Reason[:min(len(n.Reason), noticeBytes/8)] // a byte may take six
			text, _ = json.Marshal(n)
		}
		for rank := range t.size {
			if rank != t.rank {
				// Where it cannot be sent, the other rank has a time-out.
				_ = t.begin(&piece{rank: rank, data: slices.Clone(text), sent: true}, t.groups*comm.Window)
			}
		}
	})
}

// Close waits until every rank has stopped, which ends MPI.
func (t *transport) Close() error {
	t.do(func() { t.closing = true })
	<-t.ended
	var missing []int
	for rank, err := range t.stopped {
		if err == nil {
			missing = append(missing, rank)
		}
	}
	if len(missing) > 0 {
		return &comm.RankError{Ranks: missing, Err: fmt.Errorf("did not close within %v", t.limit)}
	}
	return nil
}

// grace is how long a rank that failed waits for the others to say so too.
const grace = 2 * time.Second

// finish ends MPI when all ranks have told that they stopped. If one does not,
// MPI stays open, and the launcher ends the other processes when this one ends.
func (t *transport) finish() {
	if !errors.Is(t.stopped[t.rank], comm.ErrClosed) {
		t.limit = min(t.limit, grace)
	}
	pollWhile := func(limit time.Duration, condition func() bool) {
		for deadline := time.Now().Add(limit); condition() && time.Now().Before(deadline); {
			if len(t.requests) == 0 || !t.poll() {
				<-time.After(100 * time.Microsecond)
			}
		}
	}
	absent := func() bool { return slices.Contains(t.stopped, nil) }
	if pollWhile(t.limit, absent); absent() {
		return
	}
	// The own notices arrive, but what was sent in calls that failed may not.
	pollWhile(min(t.limit, time.Second), func() bool {
		return slices.ContainsFunc(t.pieces, func(p *piece) bool { return p.sent })
	})
	C.MPI_Finalize()
}
