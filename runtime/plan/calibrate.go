package plan

import (
	"context"
	"errors"
	"fmt"
	goruntime "runtime"
	"slices"
	"time"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/benchmark"
	"github.com/fmoe-go/fmoe/runtime/comm"
	"github.com/fmoe-go/fmoe/runtime/tensor"
	"github.com/fmoe-go/fmoe/runtime/train"
)

// Calibrate describes this machine as a node whose workers share it, by steps
// of training a language model, and by messages between two workers of this
// process.
func Calibrate(ctx context.Context, m *onnx.Model, batch, length int, o runtime.Options) (*Cluster, error) {
	facts, err := Describe(m, length)
	if err != nil {
		return nil, err
	}
	threads := o.Threads
	if threads == 0 {
		threads = goruntime.GOMAXPROCS(0)
	}
	c := &Cluster{Name: "this machine", Nodes: 1, Workers: 64, Shared: true, Overlap: 0.5, FLOPS: 1, Memory: float64(o.MaxMemory)}
	if c.Memory == 0 {
		c.Memory = 64 << 30
	}
	c.MemoryBandwidth = benchmark.MeasureMachine(threads).Bandwidth
	if c.Inside, err = measureLink(ctx); err != nil {
		return nil, err
	}
	c.Between = c.Inside
	step, err := measureStep(ctx, m, batch, length, o)
	if err != nil {
		return nil, err
	}
	return c, facts.Fit(c, Options{Batch: batch}, step.Seconds())
}

// Fit sets what products reach so that one worker's step lasts so many seconds:
// those for reading and writing memory follow from its bandwidth, products have
// the rest.
func (m *Model) Fit(c *Cluster, o Options, seconds float64) error {
	p, err := m.Predict(c, comm.Layout{}, o)
	if err != nil {
		return err
	}
	products := p.Dense + p.Experts
	c.FLOPS *= products / max(seconds-(p.Step-products), 0.2*seconds)
	return nil
}

// calibrationSteps is how many steps are measured, after one that is not.
const calibrationSteps = 5

// measureStep returns the median time of steps of AdamW.
func measureStep(ctx context.Context, m *onnx.Model, batch, length int, o runtime.Options) (_ time.Duration, err error) {
	options := train.DefaultOptions()
	options.Runtime = o
	t, err := train.New(m, options)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	ids := tensor.New(onnx.Int64, batch, length)
	for i := range tensor.Of[int64](ids) {
		tensor.Of[int64](ids)[i] = int64(i * 7 % 89)
	}
	if !slices.ContainsFunc(m.Graph.Inputs, func(v *onnx.ValueInfo) bool { return v.Name == "input_ids" }) {
		return 0, fmt.Errorf("the model has no input input_ids, without which it is no language model")
	}
	var times []time.Duration
	for i := range calibrationSteps + 1 {
		begin := time.Now()
		if _, err := t.Step(ctx, train.Batch{"input_ids": ids, "labels": ids}); err != nil {
			return 0, err
		}
		if i > 0 {
			times = append(times, time.Since(begin))
		}
	}
	slices.Sort(times)
	return times[len(times)/2], nil
}

// measureLink measures messages between two workers that share memory.
func measureLink(ctx context.Context) (Link, error) {
	const small, large = 64, 16 << 20
	var l Link
	err := comm.RunLocal(ctx, 2, comm.Options{}, func(ctx context.Context, c comm.Communicator) error {
		exchange := func(bytes, times int) (time.Duration, error) {
			send, receive := make([]uint8, bytes), make([]uint8, bytes)
			counts := []int{bytes / 2, bytes / 2}
			begin := time.Now()
			for range times {
				if err := c.AllToAll(ctx, comm.Slice(send), counts, comm.Slice(receive), counts).Wait(); err != nil {
					return 0, err
				}
			}
			return time.Since(begin) / time.Duration(times), nil
		}
		if _, err := exchange(large, 2); err != nil { // to warm up
			return err
		}
		short, err := exchange(small, 200)
		if err != nil {
			return err
		}
		long, err := exchange(large, 20)
		if err != nil || c.Rank() > 0 {
			return err
		}
		l.Latency = short.Seconds()
		// Both workers of the processor copied.
		l.Bandwidth = 2 * float64(large) / 2 / max(long.Seconds()-short.Seconds(), 1e-9)
		return nil
	})
	return l, err
}
