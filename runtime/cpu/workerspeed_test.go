package cpu

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/fmoe-go/fmoe/runtime/comm"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// throttled is a transport through a connection of so many bytes a second each
// way, over which messages go one after the other.
type throttled struct {
	comm.Transport
	bandwidth float64

	mu      sync.Mutex
	out, in time.Time // when what is under way is through
}

func (t *throttled) Exchange(ctx context.Context, tag comm.Tag, sends, receives []comm.Message) error {
	if err := t.Transport.Exchange(ctx, tag, sends, receives); err != nil {
		return err
	}
	t.mu.Lock()
	now := time.Now()
	through := func(busy *time.Time, messages []comm.Message) {
		bytes := 0
		for _, m := range messages {
			bytes += len(m.Data)
		}
		if busy.Before(now) {
			*busy = now
		}
		*busy = busy.Add(time.Duration(float64(bytes) / t.bandwidth * 1e9))
	}
	through(&t.out, sends)
	through(&t.in, receives)
	wait := max(t.out.Sub(now), t.in.Sub(now))
	t.mu.Unlock()
	time.Sleep(wait)
	return nil
}

// workerSpeed is a training step of a layer on four workers, each with a share
// of the experts.
type workerSpeed struct {
	layer
	bandwidth float64 // bytes a second, 0 for that of memory
	hot       float64 // the share of tokens that choose the first expert; the others share the rest
}

// inputs are such that the first elements of a token say which expert it
// chooses.
func (s workerSpeed) inputs() []*tensor.Tensor {
	in := s.layer.routingInputs(moe.NaiveConfig(s.k, moe.SiLU), true, false)
	x, router := tensor.Of[float32](in[moe.InputX]), tensor.Of[float32](in[moe.InputGateWeight])
	clear(router)
	for e := range s.experts {
		router[e*s.experts+e] = 1
	}
	for n := range s.tokens {
		chosen := n % s.experts
		if float64(n*7919%1000) < s.hot*1000 {
			chosen = 0
		}
		for e := range s.experts {
			x[n*s.d+e] *= 0.1
		}
		x[n*s.d+chosen] = 5
	}
	return in
}

// run returns the shortest times of a step, plain and as it is by default, of a
// number of each in turn.
func (s workerSpeed) run(ctx context.Context, rounds int) (plain, scheduled time.Duration, err error) {
	const workers = 4
	config := moe.NaiveConfig(s.k, moe.SiLU)
	in := s.inputs()
	var transports []comm.Communicator
	for _, t := range comm.LocalTransports(workers) {
		if s.bandwidth > 0 {
			t = &throttled{Transport: t, bandwidth: s.bandwidth}
		}
		transports = append(transports, comm.New(t, comm.Options{}))
	}
	times := make([][]time.Duration, 2)
	err = comm.RunAll(ctx, transports, func(ctx context.Context, world comm.Communicator) error {
		var steps []*training
		for i := range times {
			g, err := comm.NewGroups(ctx, world, comm.Layout{Expert: workers})
			if err != nil {
				return err
			}
			g.NoOverlap, g.NoShadowing = i == 0, i == 0
			d := New(device.Options{Threads: 1, Workers: g})
			defer d.Close()
			own := config
			own.FirstExpert, _ = comm.Share(s.experts, workers, g.Expert.Rank())
			lo, hi := comm.Share(s.tokens, workers, world.Rank())
			r, err := newTraining(d, own, ofWorker(in, g, lo, hi), func(int, *tensor.Tensor) {})
			if err != nil {
				return err
			}
			steps = append(steps, r)
		}
		for round := range rounds + 2 {
			for i, r := range steps {
				if err := world.Barrier(ctx).Wait(); err != nil {
					return err
				}
				start := time.Now()
				if err := r.forward(); err != nil {
					return err
				}
				if err := r.backward(); err != nil {
					return err
				}
				if err := world.Barrier(ctx).Wait(); err != nil {
					return err
				}
				if world.Rank() == 0 && round >= 2 {
					times[i] = append(times[i], time.Since(start))
				}
			}
		}
		return nil
	})
	if err != nil {
		return 0, 0, err
	}
	return slices.Min(times[0]), slices.Min(times[1]), nil
}

// TestWorkerSpeed: over slow connections steps and borrowed experts make a layer
// one of whose experts has most tokens at least half as fast again, and an even
// load not slower.
func TestWorkerSpeed(t *testing.T) {
	if os.Getenv("FMOE_MEASURE") == "" {
		t.Skip("measures time: make worker-speed")
	}
	if testing.Short() {
		t.Skip("measures time")
	}
	for _, test := range []struct {
		hot, faster float64
	}{{0.7, 1.5}, {0, 0.98}} {
		s := workerSpeed{layer: layer{tokens: 4096, experts: 8, k: 1, d: 128, h: 256}, bandwidth: 100e6, hot: test.hot}
		best := 0.0
		for try := 0; try < 4 && best < test.faster; try++ {
			plain, scheduled, err := s.run(t.Context(), 4)
			if err != nil {
				t.Fatal(err)
			}
			best = max(best, plain.Seconds()/scheduled.Seconds())
			t.Logf("%.0f %% of the tokens for one expert: %v plain, %v", 100*test.hot, plain, scheduled)
		}
		if best < test.faster {
			t.Errorf("%.0f %% of the tokens for one expert: %.2f times as fast, want %.2f", 100*test.hot, best, test.faster)
		}
	}
}

// BenchmarkWorkers measures a training step of a layer on four workers, plain
// and as it is by default.
func BenchmarkWorkers(b *testing.B) {
	for _, l := range []layer{{tokens: 8192, experts: 8, k: 2, d: 256, h: 512}, {tokens: 2048, experts: 64, k: 2, d: 256, h: 256}} {
		for _, bandwidth := range []float64{0, 1e9, 100e6} {
			for _, hot := range []float64{0, 0.7} {
				s := workerSpeed{layer: l, bandwidth: bandwidth, hot: hot}
				b.Run(fmt.Sprintf("%+v", s), func(b *testing.B) {
					for b.Loop() {
						plain, scheduled, err := s.run(b.Context(), 5)
						if err != nil {
							b.Fatal(err)
						}
						b.ReportMetric(plain.Seconds()*1e3, "plain-ms")
						b.ReportMetric(scheduled.Seconds()*1e3, "scheduled-ms")
						b.ReportMetric(plain.Seconds()/scheduled.Seconds(), "times")
					}
				})
			}
		}
	}
}
