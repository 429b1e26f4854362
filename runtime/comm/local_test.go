package comm_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/comm"
	"github.com/fmoe-go/fmoe/runtime/comm/commtest"
)

// Within synctest's bubbles time-outs pass at once when everyone waits, and a
// goroutine that is left behind fails the test.
func TestLocal(t *testing.T) {
	for _, n := range []int{1, 2, 3, 4, 8} {
		for _, c := range commtest.Cases() {
			t.Run(fmt.Sprintf("%d/%s", n, c.Name), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					if err := comm.RunLocal(t.Context(), n, comm.Options{Timeout: c.Timeout}, c.Run); err != nil {
						t.Error(err)
					}
				})
			})
		}
	}
}

func TestBarrierWaitsForAll(t *testing.T) {
	var entered atomic.Int64
	err := comm.RunLocal(t.Context(), 4, comm.Options{}, func(ctx context.Context, c comm.Communicator) error {
		for round := range int64(100) {
			entered.Add(1)
			if err := c.Barrier(ctx).Wait(); err != nil {
				return err
			}
			if n := entered.Load(); n < 4*(round+1) {
				return fmt.Errorf("round %d: left the barrier when %d had entered", round, n)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		list := comm.Local(3, comm.Options{Timeout: time.Minute})
		err := list[1].Barrier(t.Context()).Wait()
		if want := "barrier: ranks 0, 2 did not answer rank 1: context deadline exceeded: time-out of 1m0s"; err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != time.Minute {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		err = list[0].Barrier(t.Context()).Wait()
		if want := "barrier: ranks 0, 2 did not answer rank 1"; err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
		for _, c := range list {
			if err := errors.Join(c.Close(), c.Close()); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestPanic(t *testing.T) {
	err := comm.RunLocal(t.Context(), 3, comm.Options{}, func(ctx context.Context, c comm.Communicator) error {
		if c.Rank() == 2 {
			panic("expert 7 is missing")
		}
		return c.Barrier(ctx).Wait()
	})
	if err == nil || !strings.HasPrefix(err.Error(), "rank 2: panic: expert 7 is missing\n") || strings.Contains(err.Error(), "has stopped") {
		t.Errorf("got %v", err)
	}
}

func TestWrongArguments(t *testing.T) {
	x, y, none := comm.Slice([]int64{1, 2}), comm.Slice([]float32{1, 2}), context.Background()
	cases := map[string]func(c comm.Communicator) *comm.Handle{
		"send has 1 counts for 2 ranks": func(c comm.Communicator) *comm.Handle { return c.AllToAll(none, x, []int{2}, x, []int{1, 1}) },
		"send has counts [3 -1]":        func(c comm.Communicator) *comm.Handle { return c.AllToAll(none, x, []int{3, -1}, x, []int{1, 1}) },
		"receive has counts [1 0]":      func(c comm.Communicator) *comm.Handle { return c.AllToAll(none, x, []int{1, 1}, x, []int{1, 0}) },
		"int64 is sent and float32":     func(c comm.Communicator) *comm.Handle { return c.AllToAll(none, x, []int{1, 1}, y, []int{1, 1}) },
		"sends 2 elements to itself":    func(c comm.Communicator) *comm.Handle { return c.AllToAll(none, x, []int{2, 0}, x, []int{1, 1}) },
		"sends 16 bytes of int64":       func(c comm.Communicator) *comm.Handle { return c.AllGather(none, x, x, nil) },
		"which 2 ranks do not divide":   func(c comm.Communicator) *comm.Handle { return c.AllGather(none, x, comm.Slice([]int64{1}), nil) },
		"receives 16 bytes":             func(c comm.Communicator) *comm.Handle { return c.ReduceScatter(none, x, x, nil, comm.Sum) },
		"uint8 cannot be reduced":       func(c comm.Communicator) *comm.Handle { return c.AllReduce(none, comm.Slice([]uint8{1}), comm.Sum) },
		"reduction 9":                   func(c comm.Communicator) *comm.Handle { return c.AllReduce(none, x, 9) },
		"x has 15 bytes, which are no elements of int64": func(c comm.Communicator) *comm.Handle {
			return c.AllReduce(none, comm.Buffer{Type: onnx.Int64, Data: x.Data[:15]}, comm.Sum)
		},
		"of string":                             func(c comm.Communicator) *comm.Handle { return c.Broadcast(none, comm.Buffer{Type: onnx.String}, 0) },
		"uint4, whose elements are not whole":   func(c comm.Communicator) *comm.Handle { return c.Broadcast(none, comm.Buffer{Type: onnx.Uint4}, 0) },
		"root 2 of 2":                           func(c comm.Communicator) *comm.Handle { return c.Broadcast(none, x, 2) },
		"rank 0 of 2 is not another one than 0": func(c comm.Communicator) *comm.Handle { return c.Send(none, x, 0) },
		"rank -1 of 2":                          func(c comm.Communicator) *comm.Handle { return c.Receive(none, x, -1) },
	}
	for want, call := range cases {
		list := comm.Local(2, comm.Options{})
		if err := call(list[0]).Wait(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
		if err := list[1].Barrier(none).Wait(); err == nil || !strings.Contains(err.Error(), "rank 0 has stopped") {
			t.Errorf("%s: the other rank gets %v", want, err)
		}
		for _, c := range list {
			c.Close()
		}
		if err := list[0].Barrier(none).Wait(); err == nil || !strings.Contains(err.Error(), "closed") {
			t.Errorf("a call after Close gives %v", err)
		}
	}
}

func TestTooManyCalls(t *testing.T) {
	list := comm.Local(2, comm.Options{})
	defer list[1].Close()
	defer list[0].Close()
	for range comm.Window {
		list[0].Barrier(t.Context())
	}
	if err := list[0].Barrier(t.Context()).Wait(); err == nil || !strings.Contains(err.Error(), "under way") {
		t.Errorf("got %v", err)
	}
}
