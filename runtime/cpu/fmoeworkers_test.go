package cpu

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/comm"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// workersLayouts are layouts of up to eight workers.
var workersLayouts = []comm.Layout{
	{}, {Data: 2}, {Data: 3}, {Expert: 2}, {Expert: 3}, {Expert: 4}, {Expert: 8}, {Slice: 2}, {Slice: 3}, {Tensor: 2}, {Tensor: 4},
	{Data: 2, Expert: 2}, {Data: 2, Expert: 4}, {Expert: 2, Slice: 2}, {Expert: 3, Tensor: 2}, {Data: 2, Slice: 2, Tensor: 2}, {Expert: 2, Slice: 2, Tensor: 2},
}

// axisPart returns the elements lo … hi−1 of a tensor's axis; nil of nil.
func axisPart(x *tensor.Tensor, axis, lo, hi int) *tensor.Tensor {
	if x == nil {
		return nil
	}
	shape := slices.Clone(x.Shape)
	shape[axis] = hi - lo
	out := tensor.New(x.Type, shape...)
	inner := tensor.ByteSize(x.Type, tensor.Count(x.Shape[axis+1:]))
	for i := range tensor.Count(x.Shape[:axis]) {
		copy(out.Data[i*(hi-lo)*inner:][:(hi-lo)*inner], x.Data[(i*x.Shape[axis]+lo)*inner:])
	}
	return out
}

// ofWorker returns what a worker has of one process's inputs, or of their
// gradients, whose slots are the same: the tokens lo … hi−1, and its part of
// the experts.
func ofWorker(in []*tensor.Tensor, g *comm.Groups, lo, hi int) []*tensor.Tensor {
	out := slices.Clone(in)
	out[moe.InputX] = axisPart(in[moe.InputX], 0, lo, hi)
	if len(in) > moe.InputMask {
		out[moe.InputMask] = axisPart(in[moe.InputMask], 0, lo, hi)
	}
	return ofExperts(out, g)
}

// ofExperts returns what a worker has of the experts.
func ofExperts(in []*tensor.Tensor, g *comm.Groups) []*tensor.Tensor {
	out := slices.Clone(in)
	first, end := comm.Share(in[moe.InputFC1Weight].Shape[0], g.Expert.Size(), g.Expert.Rank())
	from, to := comm.Share(in[moe.InputFC1Weight].Shape[1], g.Tensor.Size(), g.Tensor.Rank())
	for slot := moe.InputFC1Weight; slot <= moe.InputFC3Bias; slot++ {
		out[slot] = axisPart(in[slot], 0, first, end)
		switch slot {
		case moe.InputFC2Weight:
			out[slot] = axisPart(out[slot], 2, from, to)
		case moe.InputFC2Bias:
		default:
			out[slot] = axisPart(out[slot], 1, from, to)
		}
	}
	return out
}

// shares divides tokens among workers, unevenly.
func shares(tokens, workers int) []int {
	ends := make([]int, workers)
	for i := range ends {
		ends[i] = tokens * (i + 1) * (i + 1) / (workers * workers)
	}
	if workers > 2 {
		ends[1] = ends[0] // none
	}
	return ends
}

// runWorkers runs a layer as workers of a layout do, and returns what each
// computed, by rank of the world. The gradients by outputs are parts of those
// of one process. prepare, unless it is nil, may change a worker.
func runWorkers(ctx context.Context, layout comm.Layout, config moe.Config, in []*tensor.Tensor, by []*tensor.Tensor,
	prepare func(*Device, *comm.Groups)) ([]*training, []*comm.Groups, error) {
	size := layout.Size()
	all, groups := make([]*training, size), make([]*comm.Groups, size)
	err := comm.RunLocal(ctx, size, comm.Options{}, func(ctx context.Context, world comm.Communicator) error {
		g, err := comm.NewGroups(ctx, world, layout)
		if err != nil {
			return err
		}
		d := New(device.Options{Threads: 1 + world.Rank()%2, Workers: g})
		defer d.Close()
		if prepare != nil {
			prepare(d, g)
		}
		ends := append([]int{0}, shares(in[moe.InputX].Shape[0], g.Tokens.Size())...)
		lo, hi := ends[g.Tokens.Rank()], ends[g.Tokens.Rank()+1]
		own := config
		if g.Expert.Size() > 1 || world.Rank()%2 == 0 {
			own.FirstExpert, _ = comm.Share(in[moe.InputGateWeight].Shape[1], g.Expert.Size(), g.Expert.Rank())
		}
		r, err := newTraining(d, own, ofWorker(in, g, lo, hi), func(slot int, to *tensor.Tensor) {
			if to.Rank() > 0 {
				copy(to.Data, axisPart(by[slot], 0, lo, hi).Data)
				return
			}
			weight := float64(1+g.Tokens.Rank()) / float64(g.Tokens.Size()*(g.Tokens.Size()+1)/2)
			wide := tensor.FromSlice([]float64{floats(by[slot])[0] * weight})
			tensor.ConvertFloat(to, wide)
		})
		if err != nil {
			return err
		}
		all[world.Rank()], groups[world.Rank()] = r, g
		for range 2 {
			if err := r.forward(); err != nil {
				return err
			}
			if r.kept == nil {
				r.kept = d.kept.rows[moe.OutputNames[moe.OutputHidden]].rows
			}
			if err := r.backward(); err != nil {
				return err
			}
		}
		return nil
	})
	return all, groups, err
}

// wantOneProcess compares what workers computed with what one process did.
func wantOneProcess(t *testing.T, one *training, all []*training, groups []*comm.Groups, tolerance float64) {
	t.Helper()
	compare := func(what string, got, want []*tensor.Tensor) {
		t.Helper()
		for slot, w := range want {
			switch {
			case w == nil:
			case w.Type == onnx.Int64:
				if g := got[slot]; !slices.Equal(tensor.Of[int64](g), tensor.Of[int64](w)) {
					t.Fatalf("%s, %d: %v, want %v", what, slot, tensor.Of[int64](g), tensor.Of[int64](w))
				}
			default:
				wantNear(t, fmt.Sprintf("%s, %d", what, slot), got[slot], floats(w), tolerance)
			}
		}
	}
	for rank, r := range all {
		g := groups[rank]
		ends := append([]int{0}, shares(one.in[moe.InputX].Shape[0], g.Tokens.Size())...)
		lo, hi := ends[g.Tokens.Rank()], ends[g.Tokens.Rank()+1]
		outputs := slices.Clone(one.out[:moe.OutputHidden])
		for slot, y := range outputs {
			if y.Rank() > 0 && slot != moe.OutputExpertCount {
				outputs[slot] = axisPart(y, 0, lo, hi)
			}
		}
		compare(fmt.Sprintf("rank %d: output", rank), r.out, outputs)

		// Gradients by what workers have in common are sums over them.
		want, got := ofWorker(one.gradients, g, lo, hi), slices.Clone(r.gradients)
		for slot := range want {
			if want[slot] == nil || slot == moe.InputX {
				continue
			}
			sum := make([]float64, r.gradients[slot].Len())
			for other, o := range all {
				h := groups[other]
				same := h.Slice.Rank() == g.Slice.Rank() && h.Tensor.Rank() == g.Tensor.Rank()
				if slot >= moe.InputFC1Weight && slot <= moe.InputFC3Bias {
					same = h.Expert.Rank() == g.Expert.Rank() && h.Tensor.Rank() == g.Tensor.Rank()
				}
				if same {
					for i, x := range floats(o.gradients[slot]) {
						sum[i] += x
					}
				}
			}
			got[slot] = tensor.FromSlice(sum, len(sum))
		}
		compare(fmt.Sprintf("rank %d: gradient", rank), got, want)
	}
}

// TestWorkers: workers of every layout compute what one process does, with
// every gate.
func TestWorkers(t *testing.T) {
	l := layer{tokens: 29, experts: 8, d: 7, h: 10, bias: true, gated: true}
	configs := gateConfigs(t, l.experts)
	for i, layout := range workersLayouts {
		for j, config := range configs {
			if gate, err := moe.NewGate(config, l.experts); err != nil {
				t.Fatal(err)
			} else if _, ok := gate.(moe.Differentiable); !ok {
				continue // a test's gate
			}
			config.Activation = moe.SiLU
			training, single := (i+j)%2 == 0, (i+j)%3 == 0
			t.Run(fmt.Sprintf("%s, %+v, training %t", layout, config, training), func(t *testing.T) {
				in, tolerance := asFloats(onnx.Float64, l.routingInputs(config, training, (i+j)%4 < 2)), 1e-10
				if single {
					in, tolerance = asFloats(onnx.Float32, in), 1e-5
				}
				one := bindTraining(t, 1, config, in)
				one.run(t)
				all, groups, err := runWorkers(t.Context(), layout, config, in, one.by, nil)
				if err != nil {
					t.Fatal(err)
				}
				wantOneProcess(t, one, all, groups, tolerance)
			})
		}
	}
}

// TestWorkersSizes: layers of many shapes, whose experts and hidden values the
// workers do not divide, in float32, float64 and half precision.
func TestWorkersSizes(t *testing.T) {
	sizes := append(slices.Clone(trainingLayers), layer{tokens: 0, experts: 7, k: 3, d: 8, h: 16, bias: true}, layer{tokens: 41, experts: 7, k: 3, d: 8, h: 15, gated: true})
	for _, layout := range workersLayouts {
		for i, l := range sizes {
			if l.experts < layout.Expert {
				continue
			}
			config := moe.DefaultConfig(moe.GateNoisy)
			config.TopK, config.Activation = l.k, moe.GELU
			dtype, tolerance := onnx.Float64, 1e-10
			switch {
			case i%4 == 1:
				dtype, tolerance = onnx.Float32, 1e-5
			case i == 5:
				dtype, tolerance = onnx.BFloat16, 2e-2
			}
			t.Run(fmt.Sprintf("%s, %+v, %s", layout, l, dtype), func(t *testing.T) {
				in := asFloats(dtype, l.routingInputs(config, true, true))
				if dtype == onnx.BFloat16 {
					for _, slot := range []int{moe.InputGateWeight, moe.InputGateBias, moe.InputNoiseWeight} {
						in[slot] = as(onnx.Float32, in[slot:slot+1])[0]
					}
				}
				one := bindTraining(t, 2, config, in)
				one.run(t)
				all, groups, err := runWorkers(t.Context(), layout, config, in, one.by, nil)
				if err != nil {
					t.Fatal(err)
				}
				wantOneProcess(t, one, all, groups, tolerance)
			})
		}
	}
}

// TestWorkersConstant: experts whose weights are constant are packed.
func TestWorkersConstant(t *testing.T) {
	l := layer{tokens: 60, experts: 5, k: 2, d: 24, h: 36, bias: true}
	config := moe.NaiveConfig(l.k, moe.ReLU)
	in := asFloats(onnx.Float64, l.inputs(3))
	want, _ := l.reference(in, true)
	for _, layout := range workersLayouts {
		if layout.Expert > l.experts {
			continue
		}
		err := comm.RunLocal(t.Context(), layout.Size(), comm.Options{}, func(ctx context.Context, world comm.Communicator) error {
			g, err := comm.NewGroups(ctx, world, layout)
			if err != nil {
				return err
			}
			d := New(device.Options{Threads: 1, Workers: g})
			defer d.Close()
			ends := append([]int{0}, shares(l.tokens, g.Tokens.Size())...)
			lo, hi := ends[g.Tokens.Rank()], ends[g.Tokens.Rank()+1]
			own := config
			own.FirstExpert, _ = comm.Share(l.experts, g.Expert.Size(), g.Expert.Rank())
			inputs := ofWorker(in, g, lo, hi)
			node := fmoeNode(own, 1)
			node.Inputs = moe.InputNames[:len(inputs)]
			n, err := op.Resolve(node, 1)
			if err != nil {
				return err
			}
			kernel, err := d.Compile(n, append([]*tensor.Tensor{nil}, inputs[1:]...))
			if err != nil {
				return err
			}
			y := tensor.New(onnx.Float64, hi-lo, l.d)
			run, err := kernel.Bind(&device.Call{In: inputs, Out: []*tensor.Tensor{y}, Scratch: &device.Scratch{}})
			if err == nil {
				err = run()
			}
			for i, x := range floats(y) {
				if math.Abs(x-want[lo*l.d+i]) > 1e-10 && err == nil {
					err = fmt.Errorf("element %d is %v, want %v", lo*l.d+i, x, want[lo*l.d+i])
				}
			}
			return err
		})
		if err != nil {
			t.Errorf("%s: %v", layout, err)
		}
	}
}

// TestWorkersErrors: what does not fit together is refused on all workers.
func TestWorkersErrors(t *testing.T) {
	l := layer{tokens: 12, experts: 3, k: 1, d: 4, h: 4}
	config := moe.NaiveConfig(1, moe.ReLU)
	in := l.inputs(3)
	for _, test := range []struct {
		layout comm.Layout
		shape  func(rank int) []int // of the tokens
		first  int
		want   string
	}{
		{comm.Layout{Expert: 4}, nil, 0, "4 workers cannot share 3 experts"},
		{comm.Layout{Expert: 2}, nil, 1, "worker 0 of 2 that share 3 experts needs 2 from number 0 on"},
		{comm.Layout{Data: 2}, func(rank int) []int { return []int{1, 4 + rank, l.d} }, -1, "must have the same length"},
	} {
		err := comm.RunLocal(t.Context(), test.layout.Size(), comm.Options{}, func(ctx context.Context, world comm.Communicator) error {
			g, err := comm.NewGroups(ctx, world, test.layout)
			if err != nil {
				return err
			}
			d := New(device.Options{Threads: 1, Workers: g})
			defer d.Close()
			own, inputs := config, slices.Clone(in)
			if own.FirstExpert = test.first; test.shape != nil {
				inputs[moe.InputX] = tensor.New(onnx.Float32, test.shape(world.Rank())...)
			} else {
				for slot := moe.InputFC1Weight; slot < moe.InputFC3Weight; slot++ {
					inputs[slot] = axisPart(in[slot], 0, 0, 1)
				}
			}
			run, _, err := bindTo(d, fmoeNode(own, 1), inputs)
			if err != nil {
				return err
			}
			return run()
		})
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want %q", test.layout, err, test.want)
		}
	}
}

// TestWorkersMissing: a worker's node is refused where there are no workers.
func TestWorkersMissing(t *testing.T) {
	config := moe.NaiveConfig(1, moe.ReLU)
	config.FirstExpert = 0
	d := New(device.Options{Threads: 1})
	defer d.Close()
	_, _, err := bindTo(d, fmoeNode(config, 1), layer{tokens: 2, experts: 2, d: 3, h: 4}.inputs(1))
	if want := "attribute first_expert is 0"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want %q", err, want)
	}
}

// TestWorkersGradientAlone: a gradient needs its node's rows, and takes them.
func TestWorkersGradientAlone(t *testing.T) {
	l := layer{tokens: 12, experts: 4, k: 1, d: 4, h: 4}
	err := comm.RunLocal(t.Context(), 2, comm.Options{}, func(ctx context.Context, world comm.Communicator) error {
		g, err := comm.NewGroups(ctx, world, comm.Layout{Data: 2})
		if err != nil {
			return err
		}
		d := New(device.Options{Threads: 1, Workers: g})
		defer d.Close()
		config := moe.NaiveConfig(1, moe.ReLU)
		r, err := newTraining(d, config, l.routingInputs(config, false, false), func(int, *tensor.Tensor) {})
		if err != nil {
			return err
		}
		for _, run := range []func() error{r.forward, r.forward, r.backward} {
			if err := run(); err != nil {
				return err
			}
		}
		return r.backward()
	})
	if want := "it must run before, once for each gradient"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want %q", err, want)
	}
}

// TestWorkersSchedules: whether rows are exchanged in steps, and weights travel
// to the rows of busy experts, changes no bits.
func TestWorkersSchedules(t *testing.T) {
	slow := func(d *Device, _ *comm.Groups) { d.meter.bandwidth, d.meter.speed = 1e3, 1e15 }
	for _, l := range []layer{
		{tokens: 57, experts: 8, k: 2, d: 7, h: 10, bias: true, gated: true},
		{tokens: 900, experts: 5, k: 2, d: 33, h: 20},
		{tokens: 3000, experts: 4, k: 1, d: 12, h: 14, bias: true},
	} {
		config := moe.NaiveConfig(l.k, moe.SiLU)
		in := l.routingInputs(config, true, true)
		in[moe.InputGateBias] = tensor.New(onnx.Float32, l.experts)
		tensor.Of[float32](in[moe.InputGateBias])[1] = 5 // many choose it
		one := bindTraining(t, 1, config, in)
		one.run(t)
		for _, layout := range []comm.Layout{{Expert: 2}, {Expert: 4}, {Data: 2, Expert: 3}, {Expert: 2, Slice: 2, Tensor: 2}} {
			t.Run(fmt.Sprintf("%+v, %s", l, layout), func(t *testing.T) {
				borrowed := false
				var first []*training
				for _, prepare := range []func(*Device, *comm.Groups){
					func(_ *Device, g *comm.Groups) { g.NoOverlap, g.NoShadowing = true, true },
					func(_ *Device, g *comm.Groups) { g.NoShadowing = true },
					slow,
					func(d *Device, g *comm.Groups) { slow(d, g); g.NoOverlap = true },
					func(_ *Device, g *comm.Groups) { // through nodes of two workers
						if err := g.Use(t.Context(), comm.Schedule{Node: 2}); err != nil {
							t.Error(err)
						}
					},
				} {
					all, groups, err := runWorkers(t.Context(), layout, config, in, one.by, prepare)
					if err != nil {
						t.Fatal(err)
					}
					borrowed = borrowed || len(all[0].kept.(*rowsForGradient[float32]).borrowed) > 0
					if first == nil {
						first = all
						wantOneProcess(t, one, all, groups, 1e-5)
						if borrowed {
							t.Error("experts were borrowed that must not be")
						}
					}
					for rank, r := range all {
						for slot, x := range r.out[:moe.OutputHidden] {
							if !bytes.Equal(x.Data, first[rank].out[slot].Data) {
								t.Errorf("rank %d: %s has other bits", rank, moe.OutputNames[slot])
							}
						}
						for slot, x := range r.gradients {
							if x != nil && !bytes.Equal(x.Data, first[rank].gradients[slot].Data) {
								t.Errorf("rank %d: the gradient by %s has other bits", rank, moe.InputNames[slot])
							}
						}
					}
				}
				if !borrowed && l.tokens > 100 {
					t.Error("no experts were borrowed")
				}
			})
		}
	}
}
