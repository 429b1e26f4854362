package cpu

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// rotation is a gate as a program that uses fmoe may have one: tokens take
// turns with the experts, and every fifth loses its last choice.
type rotation struct{ topK int }

func init() {
	moe.Register(moe.Kind{Name: "test-rotation", Summary: "for tests",
		New: func(c moe.Config, _ int) moe.Gate { return rotation{c.TopK} }})
}

func (g rotation) Slots() int { return g.topK }

func (g rotation) Choose(b *moe.Batch, lo, hi int) {
	for n := lo; n < hi; n++ {
		for j := range g.topK {
			b.Indices[n*g.topK+j], b.Scores[n*g.topK+j] = int32((n+j)%b.Experts), 1/float64(j+1)
			if b.Mask != nil && !b.Mask[n] {
				b.Indices[n*g.topK+j], b.Scores[n*g.topK+j] = -1, 0
			}
		}
	}
}

func (g rotation) Settle(b *moe.Batch) {
	for n := 0; n < b.Tokens; n += 5 {
		last := (n+1)*g.topK - 1
		b.Indices[last], b.Scores[last] = -1, 0
	}
	b.BalanceLoss = float64(b.Random.Step)
}

// gateConfigs has configurations of every gate that there is, with what it
// takes: small capacities, several workers, groups, small tiles.
func gateConfigs(t *testing.T, experts int) (list []moe.Config) {
	for _, gate := range moe.Gates() {
		kind, err := moe.KindOf(gate)
		if err != nil {
			t.Fatal(err)
		}
		for _, change := range []func(c *moe.Config){
			func(*moe.Config) {},
			func(c *moe.Config) { c.Workers, c.WorkersPerNode = 4, 2 },
			func(c *moe.Config) { c.CapacityTrain, c.CapacityEval = 0.6, 0.7 },
			func(c *moe.Config) { c.CapacityTrain, c.CapacityEval = moe.Unlimited, moe.Unlimited },
			func(c *moe.Config) { c.Groups, c.TopGroups, c.RoutedScaling = 4, 2, 2.5 },
			func(c *moe.Config) { c.Tile = 4 },
		} {
			c := moe.DefaultConfig(gate)
			c.Activation, c.TopK, c.Seed, c.Layer = moe.ReLU, 2, 7, 3
			change(&c)
			if c.Check(experts) != nil {
				c.TopK = 1
			}
			if c.Check(experts) == nil && !slices.Contains(list, c) {
				list = append(list, c)
			}
		}
		if len(list) == 0 || list[len(list)-1].Gate != gate {
			t.Errorf("no configuration of the gate %s (%s)", gate, kind.Summary)
		}
	}
	return list
}

// routingInputs returns a layer's inputs with those that a gate takes.
func (l layer) routingInputs(config moe.Config, training, masked bool) []*tensor.Tensor {
	in := append(l.inputs(21), make([]*tensor.Tensor, moe.InputCount)...)[:moe.InputCount]
	in[moe.InputX] = random[float32](20, l.tokens, l.d)
	kind, _ := moe.KindOf(config.Gate)
	if kind.Noisy {
		in[moe.InputNoiseWeight] = random[float32](30, l.d, l.experts)
	}
	if training {
		in[moe.InputStep] = tensor.Scalar(int64(11))
	}
	if masked && kind.SelectionBias {
		in[moe.InputSelectionBias] = random[float32](31, l.experts)
	}
	if masked {
		in[moe.InputMask] = tensor.New(onnx.Bool, l.tokens)
		for i := range l.tokens {
			tensor.Of[bool](in[moe.InputMask])[i] = i%7 != 2
		}
	}
	return in
}

// routingNode has all outputs, or the first one and those that are given.
func routingNode(config moe.Config, outputs ...int) *onnx.Node {
	n := &onnx.Node{Domain: moe.Domain, OpType: moe.OpType, Attributes: config.Encode(), Outputs: slices.Clone(moe.OutputNames[:moe.OutputHidden])}
	for i := range n.Outputs {
		if len(outputs) > 0 && i > 0 && !slices.Contains(outputs, i) {
			n.Outputs[i] = ""
		}
	}
	return n
}

// asFloats converts those inputs that are floating-point.
func asFloats(t onnx.DataType, in []*tensor.Tensor) []*tensor.Tensor {
	out := slices.Clone(in)
	for i, x := range in {
		if x != nil && x.Type.IsFloat() {
			out[i] = as(t, in[i:i+1])[0]
		}
	}
	return out
}

// decide lets a gate of its own decide about the logits that a node gave.
func (l layer) decide(t *testing.T, config moe.Config, in []*tensor.Tensor, logits *tensor.Tensor) (b *moe.Batch, slots int) {
	gate, err := moe.NewGate(config, l.experts)
	if err != nil {
		t.Fatal(err)
	}
	slots = gate.Slots()
	b = &moe.Batch{Tokens: l.tokens, Experts: l.experts, Logits: floats(logits), WantLoss: true,
		Random:  moe.Random{Seed: uint64(config.Seed), Layer: uint32(config.Layer)},
		Indices: make([]int32, l.tokens*slots), Scores: make([]float64, l.tokens*slots)}
	if step := in[moe.InputStep]; step != nil {
		b.Training, b.Random.Step = true, uint32(tensor.Of[int64](step)[0])
		if noise := in[moe.InputNoiseWeight]; noise != nil { // its logits are those of a router
			router := slices.Clone(in[:moe.InputNoiseWeight])
			router[moe.InputGateWeight], router[moe.InputGateBias] = noise, nil
			b.Noise = floats(compute(t, 1, true, routingNode(moe.NaiveConfig(1, moe.ReLU)), 1, router...)[moe.OutputRouterLogits])
		}
	}
	if mask := in[moe.InputMask]; mask != nil {
		b.Mask = tensor.Of[bool](mask)
	}
	if bias := in[moe.InputSelectionBias]; bias != nil {
		b.SelectionBias = floats(bias)
	}
	gate.Choose(b, 0, b.Tokens)
	gate.Settle(b)
	return b, slots
}

// TestFMoEGates: a node does what its gate decides about the logits, and says
// so in its outputs.
func TestFMoEGates(t *testing.T) {
	for _, l := range []layer{
		{tokens: 37, experts: 8, d: 12, h: 20, bias: true, gated: true},
		{tokens: 1, experts: 8, d: 12, h: 20},
		{tokens: 0, experts: 8, d: 12, h: 20},
	} {
		for _, config := range gateConfigs(t, l.experts) {
			for _, mode := range []struct{ training, masked bool }{{false, false}, {true, false}, {false, true}, {true, true}} {
				for _, c := range []struct {
					dtype     onnx.DataType
					tolerance float64
				}{{onnx.Float64, 1e-12}, {onnx.Float32, 1e-5}, {onnx.Float16, 2e-3}, {onnx.BFloat16, 2e-2}} {
					t.Run(fmt.Sprintf("%d tokens, %+v, %+v, %s", l.tokens, config, mode, c.dtype), func(t *testing.T) {
						in := asFloats(c.dtype, l.routingInputs(config, mode.training, mode.masked))
						l.wantRouted(t, config, in, compute(t, 2, mode.masked, routingNode(config), 1, in...), c.tolerance)
					})
				}
			}
		}
	}
}

// wantRouted compares all outputs of a node with what they are by definition.
func (l layer) wantRouted(t *testing.T, config moe.Config, in, out []*tensor.Tensor, tolerance float64) {
	t.Helper()
	w := numbers(in)
	b, slots := l.decide(t, config, in, out[moe.OutputRouterLogits])
	logits, y, count := []float64{}, make([]float64, l.tokens*l.d), make([]int64, l.experts)
	indices := make([]int64, len(b.Indices))
	for n := range l.tokens {
		x := w[moe.InputX][n*l.d:][:l.d]
		logits = append(logits, w.logits(l, x)...)
		for s := n * slots; s < (n+1)*slots; s++ {
			if indices[s] = int64(b.Indices[s]); indices[s] >= 0 {
				count[indices[s]]++
				w.addExpert(l, int(indices[s]), x, b.Scores[s], y[n*l.d:][:l.d])
			}
		}
	}
	if got := tensor.Of[int64](out[moe.OutputExpertIndices]); !slices.Equal(got, indices) {
		t.Errorf("expert_indices are\n%v, want\n%v", got, indices)
	}
	if got := tensor.Of[int64](out[moe.OutputExpertCount]); !slices.Equal(got, count) {
		t.Errorf("expert_count is %v, want %v", got, count)
	}
	single := 1e-6
	if in[moe.InputX].Type == onnx.Float64 {
		single = 0
	}
	wantNear(t, "expert_scores", out[moe.OutputExpertScores], b.Scores, single)
	wantNear(t, "aux_loss", out[moe.OutputAuxLoss], []float64{b.BalanceLoss}, single)
	wantNear(t, "z_loss", out[moe.OutputZLoss], []float64{moe.ZLoss(b)}, single)
	wantNear(t, "router_logits", out[moe.OutputRouterLogits], logits, max(1e-15, single))
	wantNear(t, "Y", out[moe.OutputY], y, tolerance)
}

// TestFMoESequences: the tokens of X's last dimension but one are a sequence
// for balance losses; its shape decides nothing else.
func TestFMoESequences(t *testing.T) {
	l := layer{tokens: 24, experts: 8, d: 12, h: 20, bias: true}
	config := moe.DefaultConfig(moe.GateSigmoid)
	config.TopK = 2
	in := l.routingInputs(config, false, true)
	flat := compute(t, 1, true, routingNode(config), 1, in...)
	x, mask := *in[moe.InputX], *in[moe.InputMask]
	x.Shape, mask.Shape = []int{2, 3, 4, l.d}, []int{2, 3, 4}
	in[moe.InputX], in[moe.InputMask] = &x, &mask
	for i, got := range compute(t, 1, true, routingNode(config), 1, in...) {
		if same := bytes.Equal(got.Data, flat[i].Data); same == (i == moe.OutputAuxLoss) {
			t.Errorf("%s of sequences is that of all tokens: %t", moe.OutputNames[i], same)
		}
	}
}

// TestFMoEMaskBytes: whatever byte is not 0 stands for true.
func TestFMoEMaskBytes(t *testing.T) {
	l := layer{tokens: 19, experts: 8, d: 12, h: 20}
	for _, config := range gateConfigs(t, l.experts) {
		in := l.routingInputs(config, true, true)
		want := compute(t, 1, true, routingNode(config), 1, in...)
		mask := in[moe.InputMask].Clone()
		for i := range mask.Data {
			mask.Data[i] *= byte(2 + i)
		}
		in[moe.InputMask] = mask
		for i, got := range compute(t, 1, true, routingNode(config), 1, in...) {
			if !bytes.Equal(got.Data, want[i].Data) {
				t.Errorf("%+v: %s differs", config, moe.OutputNames[i])
			}
		}
	}
}

// TestFMoEOutputsAlone: an output has the same bits whichever others are
// wanted.
func TestFMoEOutputsAlone(t *testing.T) {
	l := layer{tokens: 19, experts: 8, d: 12, h: 20, bias: true}
	config := moe.DefaultConfig(moe.GateGShard)
	config.TopK, config.CapacityTrain = 2, 0.6
	for _, dtype := range []onnx.DataType{onnx.Float64, onnx.Float32, onnx.Float16, onnx.BFloat16} {
		in := asFloats(dtype, l.routingInputs(config, true, true))
		together := compute(t, 2, true, routingNode(config), 1, in...)
		for slot := range moe.OutputHidden {
			alone := compute(t, 2, true, routingNode(config, slot), 1, in...)
			if !bytes.Equal(alone[slot].Data, together[slot].Data) || !bytes.Equal(alone[0].Data, together[0].Data) {
				t.Errorf("%s: %s alone differs", dtype, moe.OutputNames[slot])
			}
		}
	}
}

// TestFMoEGateRounds: memory for few rows takes more rounds, which changes
// nothing.
func TestFMoEGateRounds(t *testing.T) {
	l := layer{tokens: 61, experts: 8, d: 12, h: 20, bias: true, gated: true}
	defer func(limit int) { fmoeLimit = limit }(fmoeLimit)
	limit := fmoeLimit
	for _, config := range gateConfigs(t, l.experts) {
		for _, masked := range []bool{true, false} {
			in := l.routingInputs(config, true, masked)
			fmoeLimit = limit
			want := compute(t, 2, true, routingNode(config), 1, in...)
			for _, rows := range []int{1, 9, 40} {
				fmoeLimit = rows * (l.h + l.d)
				for i, got := range compute(t, 2, true, routingNode(config), 1, in...) {
					if !bytes.Equal(got.Data, want[i].Data) {
						t.Errorf("%+v, %d rows a round: %s differs", config, rows, moe.OutputNames[i])
					}
				}
			}
		}
	}
}

// TestFMoEGateThreads: routing and outputs have the same bits for any number
// of threads, for every gate.
func TestFMoEGateThreads(t *testing.T) {
	l := layer{tokens: 1500, experts: 8, d: 6, h: 10, bias: true}
	for _, config := range gateConfigs(t, l.experts) {
		for _, training := range []bool{true, false} {
			in := l.routingInputs(config, training, false)
			one := compute(t, 1, true, routingNode(config), 1, in...)
			for _, threads := range []int{2, 4} {
				for i, got := range compute(t, threads, true, routingNode(config), 1, in...) {
					if !bytes.Equal(got.Data, one[i].Data) {
						t.Errorf("%+v, training %t: %s of %d threads has other bits than one's", config, training, moe.OutputNames[i], threads)
					}
				}
			}
		}
	}
}

// TestFMoERowsOfExpertChoice: where experts choose tokens, memory for rows is
// that of those chosen, not of all slots.
func TestFMoERowsOfExpertChoice(t *testing.T) {
	const experts = 32
	l := layer{tokens: 512, experts: experts, d: 32, h: 64}
	size := func(config moe.Config) int {
		in := l.routingInputs(config, false, false)
		n := routingNode(config)
		scratch := &device.Scratch{}
		bindOne(t, n, in, scratch)
		return scratch.Size()
	}
	naive, choice := moe.NaiveConfig(2, moe.ReLU), moe.DefaultConfig(moe.GateExpertChoice)
	choice.TopK = 2
	slots := l.tokens * experts * (4 + 8 + 4) // indices, scores, rows
	if got, most := size(choice), slots+2*size(naive); got > most {
		t.Errorf("scratch memory of %d bytes, want at most %d", got, most)
	}
}

// bindOne binds a node on one thread, without running it.
func bindOne(t *testing.T, n *onnx.Node, in []*tensor.Tensor, scratch *device.Scratch) {
	t.Helper()
	d := New(device.Options{Threads: 1})
	defer d.Close()
	facts := make([]op.Fact, len(in))
	n.Inputs = make([]string, len(in))
	for i, x := range in {
		if x != nil {
			n.Inputs[i], facts[i] = fmt.Sprint("in", i), op.FactOf(x)
		}
	}
	node, err := op.Resolve(n, moe.Version)
	if err != nil {
		t.Fatal(err)
	}
	outputs, err := op.Infer(node, facts, &op.Symbols{})
	if err != nil {
		t.Fatal(err)
	}
	kernel, err := d.Compile(node, make([]*tensor.Tensor, len(in)))
	if err != nil {
		t.Fatal(err)
	}
	call := &device.Call{In: in, Out: make([]*tensor.Tensor, len(outputs)), Scratch: scratch}
	for i, o := range outputs {
		call.Out[i] = tensor.New(o.Type, o.Ints()...)
	}
	if _, err := kernel.Bind(call); err != nil {
		t.Fatal(err)
	}
}
