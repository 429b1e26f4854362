//go:build fmoecuda

package nccl_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	goruntime "runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"gorgonia.org/cu"

	"github.com/fmoe-go/fmoe/cuda/driver"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/comm"
	"github.com/fmoe-go/fmoe/runtime/comm/commtest"
	"github.com/fmoe-go/fmoe/runtime/comm/nccl"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// caseVariable makes this program a rank, which runs the named case or, when it
// is "all", those that are not final.
const caseVariable = "FMOE_NCCL_CASE"

func TestMain(m *testing.M) {
	name := os.Getenv(caseVariable)
	if name == "" {
		os.Exit(m.Run())
	}
	if err := rank(name); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("passed")
}

// own are the cases of this package, of memory of the GPU.
var own = []commtest.Case{
	{Name: "device", Run: onDevice},
	{Name: "bandwidth", Run: bandwidth},
	{Name: "killed", Final: true, Run: killed},
}

func rank(name string) error {
	cases := slices.DeleteFunc(append(commtest.Unordered(), own...), func(c commtest.Case) bool {
		return c.Name != name && (name != "all" || c.Final)
	})
	limit := cases[0].Timeout
	if limit == 0 {
		limit = 20 * time.Second
	}
	c, err := nccl.World(comm.Options{Timeout: limit})
	if err != nil {
		return err
	}
	for _, test := range cases {
		begin := time.Now()
		if err := test.Run(context.Background(), c); err != nil {
			return fmt.Errorf("%s: %w", test.Name, err)
		}
		fmt.Printf("rank %d: %s in %v\n", c.Rank(), test.Name, time.Since(begin).Round(time.Millisecond))
	}
	return c.Close()
}

// launch runs this program as n ranks, and returns what they print and how many
// ended well.
func launch(t *testing.T, n int, name string) (out string, passed int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 45*time.Second)
	defer cancel()
	var mu sync.Mutex
	var ranks sync.WaitGroup
	for r := range n {
		ranks.Go(func() {
			c := exec.CommandContext(ctx, os.Args[0])
			c.Env = append(os.Environ(), caseVariable+"="+name, fmt.Sprintf("RANK=%d", r), fmt.Sprintf("LOCAL_RANK=%d", r),
				fmt.Sprintf("WORLD_SIZE=%d", n), "MASTER_ADDR=127.0.0.1", fmt.Sprintf("MASTER_PORT=%d", port))
			text, err := c.CombinedOutput()
			mu.Lock()
			defer mu.Unlock()
			if out += string(text); err != nil {
				out += fmt.Sprintf("rank %d: %v\n", r, err)
			} else if bytes.HasSuffix(text, []byte("passed\n")) {
				passed++
			}
		})
	}
	ranks.Wait()
	return out, passed
}

// worlds are the sizes of worlds for the GPUs of this machine.
func worlds(t *testing.T) []int {
	t.Helper()
	if err := driver.Status(); err != nil {
		t.Skip(err)
	}
	gpus, err := cu.NumDevices()
	if err != nil {
		t.Fatal(err)
	}
	if forced, err := strconv.Atoi(os.Getenv("FMOE_NCCL_RANKS")); err == nil {
		gpus = forced
	}
	var list []int
	for n := 1; n <= gpus; n *= 2 {
		list = append(list, n)
	}
	return list
}

func TestConformance(t *testing.T) {
	names := []string{"all"}
	for _, c := range commtest.Cases() {
		if c.Final {
			names = append(names, c.Name)
		}
	}
	for _, n := range worlds(t) {
		for _, name := range names {
			t.Run(fmt.Sprintf("%d/%s", n, name), func(t *testing.T) {
				out, passed := launch(t, n, name)
				if passed != n {
					t.Errorf("%d of %d ranks passed\n%s", passed, n, out)
				} else if testing.Verbose() {
					t.Log(out)
				}
			})
		}
	}
}

// The others name a rank whose process has gone.
func TestKilledRank(t *testing.T) {
	for _, n := range worlds(t) {
		if n == 1 {
			continue
		}
		out, passed := launch(t, n, "killed")
		if passed != n-1 {
			t.Errorf("%d of %d ranks passed\n%s", passed, n-1, out)
		}
	}
}

// killed ends the last rank within a call of the others.
func killed(ctx context.Context, c comm.Communicator) error {
	if c.Rank() == c.Size()-1 {
		os.Exit(3)
	}
	begin := time.Now()
	err := c.Barrier(ctx).Wait()
	var rank *comm.RankError
	if !errors.As(err, &rank) || !slices.Contains(rank.Ranks, c.Size()-1) || time.Since(begin) > 10*time.Second {
		return fmt.Errorf("got %w after %v", err, time.Since(begin))
	}
	fmt.Println("passed")
	os.Exit(0) // the others need not close
	return nil
}

// gpu runs a function on a thread that uses this rank's GPU.
func gpu(f func(s cu.Stream) error) error {
	local, err := strconv.Atoi(os.Getenv("LOCAL_RANK"))
	if err != nil {
		return err
	}
	device, err := cu.GetDevice(local)
	if err != nil {
		return err
	}
	primary, err := device.RetainPrimaryCtx()
	if err != nil {
		return err
	}
	goruntime.LockOSThread()
	defer goruntime.UnlockOSThread()
	if err := cu.SetCurrentContext(primary); err != nil {
		return err
	}
	s, err := cu.MakeStream(cu.NonBlocking)
	if err != nil {
		return err
	}
	return errors.Join(f(s), s.Destroy())
}

// onDevice exchanges what is in the GPU's memory, in the order of a
// stream and without waiting for it.
func onDevice(ctx context.Context, c comm.Communicator) error {
	return gpu(func(s cu.Stream) error {
		n, rank := c.Size(), c.Rank()
		streams := c.(interface {
			After(cu.Stream) error
			Before(cu.Stream) error
		})
		// Rank r sends rank q the number 100·r + q, r + 2·q + 1 times.
		count := func(from, to int) int { return from + 2*to + 1 }
		var rows, want []float32
		sendCounts, receiveCounts := make([]int, n), make([]int, n)
		for q := range n {
			sendCounts[q], receiveCounts[q] = count(rank, q), count(q, rank)
			rows = append(rows, slices.Repeat([]float32{float32(100*rank + q)}, count(rank, q))...)
			want = append(want, slices.Repeat([]float32{float32(100*q + rank)}, count(q, rank))...)
		}
		host, err := driver.AllocateHost(4 * (len(rows) + len(want)))
		if err != nil {
			return err
		}
		send, err := driver.Allocate(4 * len(rows))
		if err != nil {
			return err
		}
		receive, err := driver.Allocate(4 * len(want))
		if err != nil {
			return err
		}
		up, down := host[:4*len(rows)], host[4*len(rows):]
		copy(up, comm.Slice(rows).Data)
		x, y := comm.Buffer{Type: onnx.Float32, Data: send}, comm.Buffer{Type: onnx.Float32, Data: receive}
		for range 20 {
			err := errors.Join(driver.Upload(send, up, s), streams.After(s))
			if err != nil {
				return err
			}
			exchanged := c.AllToAll(ctx, x, sendCounts, y, receiveCounts)
			if err := errors.Join(streams.Before(s), driver.Download(down, receive, s), s.Synchronize(), exchanged.Wait()); err != nil {
				return err
			}
			got := tensor.Of[float32](&tensor.Tensor{Type: onnx.Float32, Shape: []int{len(want)}, Data: down})
			for i := range got {
				if got[i] != want[i] {
					return fmt.Errorf("rank %d: element %d is %g, want %g", rank, i, got[i], want[i])
				}
			}
		}
		return errors.Join(driver.FreeHost(host), driver.Free(send), driver.Free(receive))
	})
}

// bandwidth measures sums and exchanges of memory of the GPU.
func bandwidth(ctx context.Context, c comm.Communicator) error {
	return gpu(func(cu.Stream) error {
		const most = 256 << 20
		x, err := driver.Allocate(most)
		if err != nil {
			return err
		}
		y, err := driver.Allocate(most)
		if err != nil {
			return err
		}
		n := c.Size()
		for size := 1 << 12; size <= most; size *= 16 {
			a, b := comm.Buffer{Type: onnx.BFloat16, Data: x[:size]}, comm.Buffer{Type: onnx.BFloat16, Data: y[:size]}
			counts := slices.Repeat([]int{size / 2 / n}, n)
			for _, test := range []struct {
				name  string
				moved float64 // bytes that a rank sends
				call  func() *comm.Handle
			}{
				{"all-reduce", 2 * float64(size) * float64(n-1) / float64(n), func() *comm.Handle { return c.AllReduce(ctx, a, comm.Sum) }},
				{"all-to-all", float64(size) * float64(n-1) / float64(n), func() *comm.Handle { return c.AllToAll(ctx, a, counts, b, counts) }},
				{"reduce-scatter", float64(size) * float64(n-1) / float64(n), func() *comm.Handle {
					return c.ReduceScatter(ctx, a, comm.Buffer{Type: b.Type, Data: y[:size/n]}, nil, comm.Sum)
				}},
			} {
				const repeats = 20
				var calls []*comm.Handle
				var begin time.Time
				for i := range 5 + repeats {
					if i == 5 { // behind the warm-up
						if err := comm.Wait(append(calls, c.Barrier(ctx))...); err != nil {
							return err
						}
						calls, begin = nil, time.Now()
					}
					calls = append(calls, test.call())
				}
				if err := comm.Wait(calls...); err != nil {
					return err
				}
				took := time.Since(begin) / repeats
				one := time.Now()
				if err := test.call().Wait(); err != nil {
					return err
				}
				if c.Rank() == 0 {
					fmt.Printf("%d ranks, %s of %d KiB: %v a call, %.1f GB/s, one alone %v\n", n, test.name, size>>10, took, test.moved/took.Seconds()/1e9, time.Since(one))
				}
			}
		}
		return errors.Join(driver.Free(x), driver.Free(y))
	})
}

func TestWorldSaysWhatIsMissing(t *testing.T) {
	for _, name := range []string{"RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID", "MASTER_ADDR"} {
		t.Setenv(name, "")
	}
	if _, err := nccl.World(comm.Options{}); err == nil || !strings.Contains(err.Error(), "start workers with torchrun") {
		t.Errorf("got %v", err)
	}
}
