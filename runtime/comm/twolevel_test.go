package comm_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/fmoe-go/fmoe/runtime/comm"
	"github.com/fmoe-go/fmoe/runtime/comm/commtest"
)

// TestTwoLevel: an all-to-all through nodes passes the conformance suite,
// wherever nodes are.
func TestTwoLevel(t *testing.T) {
	for _, test := range []struct{ ranks, each int }{{4, 2}, {6, 2}, {6, 3}, {8, 4}, {5, 2}, {3, 1}, {3, 3}} {
		for _, c := range commtest.Cases() {
			t.Run(fmt.Sprintf("%d of %d/%s", test.each, test.ranks, c.Name), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					err := comm.RunLocal(t.Context(), test.ranks, comm.Options{Timeout: c.Timeout}, func(ctx context.Context, world comm.Communicator) error {
						two, err := comm.TwoLevel(ctx, world, 10-world.Rank()/test.each)
						if err != nil {
							return err
						}
						return c.Run(ctx, two)
					})
					if err != nil {
						t.Error(err)
					}
				})
			})
		}
	}
}

// TestTwoLevelCalls: calls under way at the same time do not mix, and only
// messages between ranks of one node, or of one number, are sent.
func TestTwoLevelCalls(t *testing.T) {
	const ranks, each, calls = 6, 3, 50
	err := comm.RunLocal(t.Context(), ranks, comm.Options{}, func(ctx context.Context, world comm.Communicator) error {
		two, err := comm.TwoLevel(ctx, world, world.Rank()/each)
		if err != nil {
			return err
		}
		count := func(call, from, to int) int { return (call*5 + from*7 + to*3) % 4 }
		var handles []*comm.Handle
		var got, want [][]int64
		for call := range calls {
			var send, expected []int64
			sends, receives := make([]int, ranks), make([]int, ranks)
			for r := range ranks {
				sends[r], receives[r] = count(call, world.Rank(), r), count(call, r, world.Rank())
				for i := range sends[r] {
					send = append(send, int64(call*10000+world.Rank()*1000+r*100+i))
				}
				for i := range receives[r] {
					expected = append(expected, int64(call*10000+r*1000+world.Rank()*100+i))
				}
			}
			received := make([]int64, len(expected))
			handles = append(handles, two.AllToAll(ctx, comm.Slice(send), sends, comm.Slice(received), receives))
			got, want = append(got, received), append(want, expected)
		}
		if err := comm.Wait(handles...); err != nil {
			return err
		}
		for call := range calls {
			if !slices.Equal(got[call], want[call]) {
				return fmt.Errorf("call %d: received %v, want %v", call, got[call], want[call])
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestTwoLevelWrongCounts(t *testing.T) {
	err := comm.RunLocal(t.Context(), 4, comm.Options{}, func(ctx context.Context, world comm.Communicator) error {
		two, err := comm.TwoLevel(ctx, world, world.Rank()/2)
		if err != nil {
			return err
		}
		return two.AllToAll(ctx, comm.Slice(make([]int64, 4)), []int{1, 1, 1}, comm.Slice(make([]int64, 4)), []int{1, 1, 1, 1}).Wait()
	})
	if err == nil || !strings.Contains(err.Error(), "3 counts for 4 ranks") {
		t.Errorf("error %v", err)
	}
}
