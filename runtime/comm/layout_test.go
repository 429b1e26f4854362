package comm_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/runtime/comm"
)

func TestParseLayout(t *testing.T) {
	for _, test := range []struct {
		text, want string
		size       int
		err        string
	}{
		{"", "", 1, ""},
		{"data=2,expert=4", "data=2,expert=4", 8, ""},
		{"pipeline=2, tensor=3,slice=1", "tensor=3,pipeline=2", 6, ""},
		{"experts=2", "", 0, `"experts" is not known`},
		{"data=0", "", 0, "must be a number from 1"},
		{"data", "", 0, "must be a number from 1"},
		{"data=2,data=2", "", 0, "twice"},
	} {
		l, err := comm.ParseLayout(test.text)
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("%q: error %v, want one with %q", test.text, err, test.err)
			}
			continue
		}
		if err != nil || l.String() != test.want || l.Size() != test.size {
			t.Errorf("%q: %q of %d workers, error %v; want %q of %d", test.text, l, l.Size(), err, test.want, test.size)
		}
	}
}

func TestLimit(t *testing.T) {
	l, err := comm.Layout{Expert: 8}.Limit(2)
	if want := (comm.Layout{Data: 4, Expert: 2, Slice: 1, Tensor: 1, Pipeline: 1}); err != nil || l != want {
		t.Errorf("8 workers and 2 experts: %+v, error %v; want %+v", l, err, want)
	}
	if _, err := (comm.Layout{Expert: 8}).Limit(3); err == nil {
		t.Error("8 workers share 3 experts")
	}
}

// TestGroups lets each worker of a group say who it is.
func TestGroups(t *testing.T) {
	l := comm.Layout{Data: 2, Expert: 2, Slice: 1, Tensor: 2, Pipeline: 2}
	want := map[string]string{ // of rank 5: stage 0, data 1, expert 0, tensor 1
		"stage": "[0 1 2 3 4 5 6 7]", "tokens": "[1 3 5 7]", "replicas": "[1 5]", "owners": "[4 5 6 7]",
		"data": "[1 5]", "expert": "[5 7]", "slice": "[5]", "tensor": "[4 5]", "pipeline": "[5 13]",
	}
	err := comm.RunLocal(t.Context(), l.Size(), comm.Options{}, func(ctx context.Context, c comm.Communicator) error {
		g, err := comm.NewGroups(ctx, c, l)
		if err != nil {
			return err
		}
		groups := []comm.Communicator{g.Stage, g.Tokens, g.Replicas, g.Owners, g.Data, g.Expert, g.Slice, g.Tensor, g.Pipeline}
		for i, name := range []string{"stage", "tokens", "replicas", "owners", "data", "expert", "slice", "tensor", "pipeline"} {
			group := groups[i]
			ranks := make([]int64, group.Size())
			if err := group.AllGather(ctx, comm.Slice([]int64{int64(c.Rank())}), comm.Slice(ranks), nil).Wait(); err != nil {
				return err
			}
			if got := fmt.Sprint(ranks); c.Rank() == 5 && got != want[name] {
				t.Errorf("%s of rank 5 is %s, want %s", name, got, want[name])
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestShare(t *testing.T) {
	for n := range 12 {
		for size := 1; size < 6; size++ {
			next := 0
			for rank := range size {
				lo, hi := comm.Share(n, size, rank)
				if lo != next || hi-lo < n/size || hi-lo > n/size+1 {
					t.Errorf("%d of %d: rank %d has %d … %d", n, size, rank, lo, hi)
				}
				next = hi
			}
			if next != n {
				t.Errorf("%d of %d: the ranks have %d", n, size, next)
			}
		}
	}
}

func TestGather(t *testing.T) {
	err := comm.RunLocal(t.Context(), 3, comm.Options{}, func(ctx context.Context, c comm.Communicator) error {
		list, err := comm.Gather(ctx, c, strings.Repeat("x", c.Rank()))
		if got := fmt.Sprint(list); err == nil && got != "[ x xx]" {
			t.Errorf("rank %d: %s", c.Rank(), got)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
