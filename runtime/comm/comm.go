// Package comm lets workers compute together: each is a rank of a
// [Communicator], whose collective calls all ranks make in the same order.
//
// [Local] has ranks that are goroutines of one process. Package mpi has those
// that mpirun or srun started. Both are a [Transport] below the same
// collectives. Package nccl has processes with a GPU each.
package comm

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// Communicator is one worker's end of a group of them.
//
// Calls start and return at once; their handles tell when they are done. Until
// then nobody may change what is sent, or read what is received. Any number of
// calls up to [Window] may be under way. Every rank of the group must make the
// same collective calls in the same order, and call with the counts of which
// the others know.
//
// A call ends with an error when its context is done, when [Options.Timeout]
// has passed, or when a rank that it needs has stopped. An error is final: the
// rank has then stopped, for all groups that it is in, and the calls that need
// it fail on other ranks too, with a [RankError]. What calls that failed were to
// receive must not be used until the communicator is closed.
//
// Counts are numbers of elements, by rank.
type Communicator interface {
	// Rank returns the number of this worker in the group, 0 … Size−1.
	Rank() int

	// Size returns the number of workers in the group.
	Size() int

	// AllToAll sends to each rank its part of send, one after the other, and
	// receives its part of receive from each.
	AllToAll(ctx context.Context, send Buffer, sendCounts []int, receive Buffer, receiveCounts []int) *Handle

	// AllReduce makes x the reduction of the x of all ranks. It has the same
	// bits on all ranks, and whenever the ranks have the same x.
	AllReduce(ctx context.Context, x Buffer, r Reduction) *Handle

	// AllGather receives what each rank sends, in the order of ranks. Without
	// counts all send the same number of elements. Send may be the rank's own
	// part of receive.
	AllGather(ctx context.Context, send, receive Buffer, counts []int) *Handle

	// ReduceScatter gives each rank its part of the reduction of what all send.
	// Without counts the parts are of the same size.
	ReduceScatter(ctx context.Context, send, receive Buffer, counts []int, r Reduction) *Handle

	// Broadcast gives the x of one rank to all.
	Broadcast(ctx context.Context, x Buffer, root int) *Handle

	// Barrier is done when all ranks have called it.
	Barrier(ctx context.Context) *Handle

	// Send and Receive move elements from one rank to another. Those between
	// the same two ranks are matched in the order of calls.
	Send(ctx context.Context, x Buffer, to int) *Handle
	Receive(ctx context.Context, x Buffer, from int) *Handle

	// Split divides the group: the ranks that give the same color form one,
	// ordered by key and, where it is the same, by rank. It returns nil for
	// ranks with a color below 0. It is a collective call, of which one at a
	// time may be under way.
	Split(ctx context.Context, color, key int) (Communicator, error)

	// Abort stops this rank: its calls, and those of others that need it, fail
	// with the error.
	Abort(err error)

	// Close stops this rank after its last call. Closing a group that Split
	// made does nothing.
	Close() error
}

// Buffer is elements in memory. They must be aligned for their type. Data may be
// memory of a GPU, which the host cannot read, for communicators of package
// nccl alone.
type Buffer struct {
	Type onnx.DataType
	Data []byte
}

// Of returns the elements of a tensor, which shares its memory.
func Of(t *tensor.Tensor) Buffer { return Buffer{t.Type, t.Data} }

// Slice returns the elements of a slice, which shares its memory.
func Slice[T tensor.Element](v []T) Buffer { return Of(tensor.FromSlice(v, len(v))) }

// size returns the number of bytes of an element, 0 where elements are not
// whole bytes.
func (b Buffer) size() int {
	if b.Type == onnx.String || tensor.ByteSize(b.Type, 8) != 8*tensor.ByteSize(b.Type, 1) {
		return 0
	}
	return tensor.ByteSize(b.Type, 1)
}

// Options hold for all calls of a communicator.
type Options struct {
	// Timeout is how long a call may take, waiting for other ranks included; 0
	// is ten minutes.
	Timeout time.Duration
}

func (o Options) timeout() time.Duration {
	if o.Timeout <= 0 {
		return 10 * time.Minute
	}
	return o.Timeout
}

// Handle is a call under way.
type Handle struct {
	done chan struct{}
	err  error
}

// NewHandle returns the handle of a call that is done, with an error or nil,
// when end is called for the first time.
func NewHandle() (h *Handle, end func(error)) {
	h = &Handle{done: make(chan struct{})}
	var once sync.Once
	return h, func(err error) {
		once.Do(func() {
			h.err = err
			close(h.done)
		})
	}
}

// Wait waits until the call is done, and returns its error.
func (h *Handle) Wait() error {
	<-h.done
	return h.err
}

// Wait waits for all of the handles, and returns the first error.
func Wait(handles ...*Handle) error {
	var first error
	for _, h := range handles {
		if err := h.Wait(); first == nil {
			first = err
		}
	}
	return first
}

// RankError says which ranks made a call fail, by their numbers in the group of
// all workers, and why.
type RankError struct {
	Ranks []int
	Err   error
}

func (e *RankError) Error() string {
	names := strings.Trim(strings.ReplaceAll(fmt.Sprint(e.Ranks), " ", ", "), "[]")
	if len(e.Ranks) == 1 {
		return fmt.Sprintf("rank %s %v", names, e.Err)
	}
	return fmt.Sprintf("ranks %s %v", names, e.Err)
}

func (e *RankError) Unwrap() error { return e.Err }
