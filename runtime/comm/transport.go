package comm

import (
	"context"
	"errors"
	"fmt"
)

// Window is how many calls of a group, and between two ranks of it, may be
// under way.
const Window = 1 << 11

// Transport moves bytes between ranks: all that collectives need of an engine.
// Goroutines may call it at the same time.
type Transport interface {
	Rank() int
	Size() int

	// Exchange sends to and receives from other ranks, all at once, and returns
	// when that is done; if it fails, the memory of the messages may be in use
	// until Close. A message is received
	// by the Exchange with the same tag; those with the same tag between the
	// same ranks, in order. It fails with a [RankError] for ranks that have
	// stopped, for messages of another size than expected, and, when ctx is
	// done, for those that had not answered.
	Exchange(ctx context.Context, tag Tag, sends, receives []Message) error

	// Stop makes the exchanges of this rank fail, and those of others with it,
	// with an error that wraps the given one or, in other processes, has its
	// text. Only the first call counts.
	Stop(err error)

	// Close frees what the transport holds, after Stop.
	Close() error
}

// Message is bytes to or from another rank.
type Message struct {
	Rank int
	Data []byte
}

// Tag tells exchanges of the same ranks apart. Those of the same group that are
// under way have different sequence numbers modulo Window.
type Tag struct{ Group, Sequence int }

// ErrClosed is why a rank stopped that made all its calls.
var ErrClosed = errors.New("closed its communicator")

// Stopped returns the error of calls that need a rank that has stopped. Where
// that rank stopped because of others, it is they who are named.
func Stopped(rank int, err error) error {
	var cause *RankError
	switch {
	case errors.As(err, &cause):
		return cause
	case errors.Is(err, ErrClosed):
		return &RankError{[]int{rank}, err}
	}
	return &RankError{[]int{rank}, fmt.Errorf("has stopped: %w", err)}
}

// Missing returns the error of a call of a rank whose context was done before
// others answered.
func Missing(ctx context.Context, rank int, others []int) error {
	return &RankError{others, fmt.Errorf("did not answer rank %d: %w", rank, context.Cause(ctx))}
}

// SizeMismatch returns the error of a message that is not of the size that the
// receiver expects.
func SizeMismatch(from, to, expected int) error {
	return &RankError{[]int{from}, fmt.Errorf("did not send rank %d the %d bytes that it expected; counts and types must agree", to, expected)}
}
