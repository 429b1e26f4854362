package rendezvous

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fmoe-go/fmoe/runtime/comm"
)

// places returns those of n ranks, on a port that is free.
func places(t *testing.T, n int) []Place {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	list := make([]Place, n)
	for i := range list {
		list[i] = Place{Rank: i, Size: n, Address: "127.0.0.1", Port: port, Run: "first"}
	}
	return list
}

// rank is one with what it was told.
type rank struct {
	*Meeting
	told chan Notice
}

// meet lets the ranks come, the last first.
func meet(t *testing.T, list []Place, progress ...map[string]int) []rank {
	t.Helper()
	ranks := make([]rank, len(list))
	var all sync.WaitGroup
	for i := len(list) - 1; i >= 0; i-- {
		all.Go(func() {
			told := make(chan Notice, 2*len(list))
			o := Options{Timeout: time.Minute, Beat: 10 * time.Millisecond, Stopped: func(n Notice) { told <- n },
				Progress: func() map[string]int {
					if i < len(progress) {
						return progress[i]
					}
					return nil
				}}
			m, err := Join(t.Context(), list[i], o)
			if err != nil {
				t.Error(err)
				return
			}
			ranks[i] = rank{m, told}
		})
	}
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
	t.Cleanup(func() {
		for _, r := range ranks[1:] {
			r.Close()
		}
		if err := ranks[0].Close(); err != nil {
			t.Error(err)
		}
	})
	return ranks
}

func TestValues(t *testing.T) {
	for _, n := range []int{1, 2, 5} {
		ranks := meet(t, places(t, n))
		var all sync.WaitGroup
		for i, r := range ranks {
			all.Go(func() {
				key := string(rune('a' + (i+1)%n)) // which another rank sets, maybe later
				if value, err := r.Get(t.Context(), key); err != nil || string(value) != "value "+key {
					t.Errorf("got %q, %v", value, err)
				}
			})
			key := string(rune('a' + i))
			if err := r.Set(t.Context(), key, []byte("value "+key)); err != nil {
				t.Error(err)
			}
			if err := r.Set(t.Context(), key, nil); err == nil {
				t.Error("a value is set twice")
			}
		}
		all.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := ranks[0].Get(ctx, "never"); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	}
}

func TestNotices(t *testing.T) {
	ranks := meet(t, places(t, 4))
	for i, c := range []struct {
		err  error
		want string
	}{{comm.ErrClosed, "closed its communicator"}, {&comm.RankError{Ranks: []int{3}, Err: errors.New("is late")}, "rank 3 is late"}, {context.Canceled, "context canceled"}} {
		if err := ranks[i].Stop(t.Context(), c.err, map[string]int{"world": 7}); err != nil {
			t.Fatal(err)
		}
		for j, r := range ranks {
			if i == j {
				continue
			}
			n := <-r.told
			if n.Rank != i || n.Err().Error() != c.want || errors.Is(n.Err(), context.Canceled) != (c.err == context.Canceled) || n.Progress["world"] != 7 {
				t.Errorf("rank %d is told %+v, want %v", j, n, c.want)
			}
		}
	}
	ranks[3].Close() // without a word
	for _, r := range ranks[:3] {
		if n := <-r.told; n.Rank != 3 || n.Err().Error() != "has gone" {
			t.Errorf("told %+v", n)
		}
	}
	for _, r := range ranks[:3] {
		if err := r.Stopped(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestRankZeroGoes(t *testing.T) {
	ranks := meet(t, places(t, 3))
	ranks[0].Close()
	for _, r := range ranks[1:] {
		if n := <-r.told; n.Rank != 0 || n.Err().Error() != "has gone" {
			t.Errorf("told %+v", n)
		}
	}
}

func TestBehind(t *testing.T) {
	ranks := meet(t, places(t, 4), map[string]int{"a": 3}, map[string]int{"a": 2}, nil, map[string]int{"a": 5})
	for { // until all have reported
		late, err := ranks[0].Behind(t.Context(), "a", 3, []int{0, 1, 2, 3})
		if err != nil {
			t.Fatal(err)
		}
		if slices.Equal(late, []int{1, 2}) {
			break
		}
	}
	if late, err := ranks[1].Behind(t.Context(), "a", 4, []int{3}); err != nil || len(late) > 0 {
		t.Errorf("%v, %v", late, err)
	}
	if _, err := ranks[1].Behind(t.Context(), "a", 4, []int{-1}); err == nil {
		t.Error("rank -1 is known")
	}
}

func TestAbsent(t *testing.T) {
	list := places(t, 3)
	var both sync.WaitGroup
	for _, c := range []struct {
		place Place
		want  string
	}{{list[0], "ranks 1, 2 did not come: time-out of 50ms"}, {Place{Rank: 1, Size: 3, Address: "127.0.0.1", Port: "1"}, "rank 0 does not answer: time-out of 50ms"}} {
		both.Go(func() {
			_, err := Join(t.Context(), c.place, Options{Timeout: 50 * time.Millisecond, Beat: time.Second})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
	both.Wait()
}

func TestRefused(t *testing.T) {
	list := places(t, 2)
	meet(t, list)
	other := list[1]
	other.Run = "second"
	wrong := list[1]
	wrong.Size = 3
	for _, c := range []struct {
		place Place
		want  string
	}{{list[1], "rank 1 has joined before"}, {wrong, "a world of 3 ranks, but of 2 for rank 0"}, {other, "time-out"}} {
		_, err := Join(t.Context(), c.place, Options{Timeout: 200 * time.Millisecond, Beat: time.Second})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
	_, err := Join(t.Context(), list[0], Options{Timeout: time.Second, Beat: time.Second})
	if err == nil || !strings.Contains(err.Error(), "choose another MASTER_PORT") {
		t.Errorf("got %v", err)
	}
}

func TestFromEnvironment(t *testing.T) {
	torchrun := "RANK=3 WORLD_SIZE=4 LOCAL_RANK=1 MASTER_ADDR=a MASTER_PORT=29500 "
	for _, c := range []struct {
		environment string
		want        Place
		err         string
	}{
		{torchrun, Place{3, 4, 1, "a", "29500", "/"}, ""},
		{torchrun + "TORCHELASTIC_USE_AGENT_STORE=True TORCHELASTIC_RUN_ID=x TORCHELASTIC_RESTART_COUNT=2", Place{3, 4, 1, "a", "29501", "x/2"}, ""},
		{"SLURM_PROCID=3 SLURM_STEP_NUM_TASKS=4 SLURM_LOCALID=1 SLURM_JOB_ID=9 MASTER_ADDR=a MASTER_PORT=29500", Place{3, 4, 1, "a", "29500", "9/"}, ""},
		{"RANK=0 MASTER_ADDR=a", Place{}, "lacks WORLD_SIZE, LOCAL_RANK, MASTER_PORT: start workers with torchrun"},
		{torchrun + "RANK=4", Place{}, "RANK 4 of WORLD_SIZE 4"},
		{torchrun + "RANK=-1", Place{}, `RANK="-1" is no number`},
		{torchrun + "MASTER_PORT=99999", Place{}, "1 … 65535"},
		{torchrun + "MASTER_PORT=http", Place{}, `MASTER_PORT="http" is no number`},
	} {
		variables := map[string]string{}
		for _, v := range strings.Fields(c.environment) {
			name, value, _ := strings.Cut(v, "=")
			variables[name] = value
		}
		p, err := FromEnvironment(func(name string) string { return variables[name] })
		if c.err == "" && (err != nil || p != c.want) || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%q: got %+v, %v, want %+v, %q", c.environment, p, err, c.want, c.err)
		}
	}
}

// What is no member does not disturb the meeting.
func TestStranger(t *testing.T) {
	list := places(t, 2)
	ranks := meet(t, list)
	conn, err := net.Dial("tcp", list[0].address())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("GET / HTTP/1.1\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if err := ranks[1].Set(t.Context(), "a", nil); err != nil {
		t.Error(err)
	}
}
