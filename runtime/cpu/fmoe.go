package cpu

import (
	"fmt"

	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	addKernel(moe.Domain, moe.OpType, kernelEntry{make: newFMoE, stored: expertWeights})
}

// fmoe is the kernel of FMoE. Only the experts that the gate picks for a
// token compute it, and the weights of an expert that nobody picks are not
// read.
type fmoe struct {
	device *Device
	config moe.Config
	packed [moe.InputCount]any // []*simd.Packed[T] or []*simd.Compressed of the weights that are constant
}

func newFMoE(d *Device, n *op.Node, constants []*tensor.Tensor) (device.Kernel, error) {
	config, err := moe.ParseConfig(n.Node)
	if err != nil {
		return nil, err
	}
	k := &fmoe{device: d, config: config}
	for _, slot := range []int{moe.InputGateWeight, moe.InputNoiseWeight} {
		if w := at(constants, slot); w != nil {
			k.packed[slot] = packConstant(d, w, fmoeOrder(slot))
		}
	}
	return k, k.packExperts(constants)
}

// fmoeOrder returns the order of a weight's axes as a right-hand operand: the
// experts' weights are out × in.
func fmoeOrder(slot int) []int {
	if slot == moe.InputGateWeight || slot == moe.InputNoiseWeight {
		return []int{0, 1}
	}
	return []int{0, 2, 1}
}

// Held implements [device.Holder].
func (k *fmoe) Held(i int) int {
	if i >= len(k.packed) {
		return 0
	}
	return packedSize(k.packed[i])
}

func (k *fmoe) Bind(c *device.Call) (func() error, error) {
	c, widen, err := k.widenExperts(c)
	if err != nil {
		return nil, err
	}
	run, err := k.bind(c)
	if err != nil || widen == nil {
		return run, err
	}
	return func() error {
		widen()
		return run()
	}, nil
}

func (k *fmoe) bind(c *device.Call) (func() error, error) {
	switch t := c.In[moe.InputX].Type; t {
	case onnx.Float32:
		return bindFMoE(k, c, expertFunctions[float32]{activate: expertActivations[k.config.Activation].float32}, nil)
	case onnx.Float64:
		return bindFMoE(k, c, expertFunctions[float64]{activate: expertActivations[k.config.Activation].float64}, nil)
	default:
		return nil, device.UnsupportedType(t)
	}
}

// fmoeLimit bounds the elements of hidden and output rows that are held at a
// time; more tokens are computed in several rounds, with the same result.
var fmoeLimit = 1 << 26

// fmoeRun is FMoE bound to N tokens of width d, T experts of hidden width h,
// and k slots of a token. A run goes through its phases one after the other, each
// parallel in itself.
type fmoeRun[T simd.Float] struct {
	expertFunctions[T]
	device          *Device
	call            *device.Call
	tokens, k, d, h int
	gate            moe.Gate
	batch           moe.Batch
	experts         int
	given           *tensor.Tensor // logits [N, T], or nil
	fc1, fc2, fc3   *projection[T] // fc3 is nil where experts are not gated
	round           int            // tokens computed at a time

	router   func() error // the product that gives logits
	noise    func() error // likewise of the second projection, nil where there is none
	dispatch *moe.Dispatch
	pieces   pieces
	space    *workspace[T]

	// The rest is looked up and computed by each run.
	x, y           []T // [N, d]
	logits, noises []T // [N, T]
	hidden, result []T // [rows, h], [rows, d], sorted by expert
	first          int // token with which the round in progress begins
}

// expertFunctions are what is applied to the hidden values of experts, in
// place.
type expertFunctions[T simd.Float] struct {
	activate func([]T) // to fc1's
	factor   func([]T) // to fc3's, by which those are multiplied; nil for nothing
}

// bindFMoE binds the kernel. logits, where it is not nil, has the router's
// result, so that there is no router in the call.
func bindFMoE[T simd.Float](k *fmoe, c *device.Call, f expertFunctions[T], logits *tensor.Tensor) (func() error, error) {
	if f.activate == nil {
		return nil, fmt.Errorf("activation %q is %w on the CPU", k.config.Activation, device.ErrUnsupported)
	}
	r := &fmoeRun[T]{device: k.device, call: c, expertFunctions: f, given: logits,
		fc1: newProjection[T](k, c, moe.InputFC1Weight),
		fc2: newProjection[T](k, c, moe.InputFC2Weight),
		fc3: newProjection[T](k, c, moe.InputFC3Weight),
	}
	r.experts, r.h, r.d = c.In[moe.InputFC1Weight].Shape[0], r.fc1.stack.cols, r.fc1.stack.rows
	leading := c.In[moe.InputX].Shape
	r.tokens = tensor.Count(leading[:len(leading)-1])
	if _, err := tensor.CheckedCount(onnx.Float64, []int{r.tokens, 4 * r.experts}); err != nil {
		return nil, fmt.Errorf("logits: %w", err)
	}
	var err error
	if r.gate, err = moe.NewGate(k.config, r.experts); err != nil {
		return nil, err
	}
	r.k = r.gate.Slots()
	r.round = max(1, min(r.tokens, fmoeLimit/max(1, r.k*(r.h+r.d))))
	r.dispatch = moe.NewDispatch(r.experts, r.round*r.k)
	if err := r.newBatch(k.config); err != nil {
		return nil, err
	}
	r.pieces.first = make([]int, 0, r.experts+1)

	rows := r.round * r.k
	work := max(r.fc1.workLen(rows), r.fc2.workLen(rows))
	if r.fc3 != nil {
		_, width := pieceSize(rows, r.fc1.ready())
		work = max(work, min(rows, maxPieceRows)*width+r.fc3.workLen(rows))
	}
	routing := r.tokens * r.experts
	if r.batch.Noise != nil {
		routing *= 2
	}
	r.space = newWorkspace[T](k.device, c.Scratch, routing+rows*(r.h+r.d), work)
	r.router = func() error { return nil }
	if logits == nil {
		r.router = r.bindRouter(k, moe.InputGateWeight, moe.InputGateBias, routing, func() []T { return r.logits })
	}
	if r.batch.Noise != nil {
		r.noise = r.bindRouter(k, moe.InputNoiseWeight, -1, routing, func() []T { return r.noises })
	}

	choose, project, projectBack, combine := r.choose, r.project, r.projectBack, r.combine
	pool := k.device.pool
	return func() error {
		r.open()
		if err := r.router(); err != nil {
			return err
		}
		if r.noise != nil {
			if err := r.noise(); err != nil {
				return err
			}
		}
		pool.run(r.tokens, max(1, 1<<14/(r.experts+16*r.k)), choose)
		r.gate.Settle(&r.batch)
		r.setOutputs()
		for r.first = 0; r.first < r.tokens; r.first += r.round {
			n := min(r.round, r.tokens-r.first)
			r.dispatch.Sort(r.batch.Indices[r.first*r.k:][:n*r.k], r.k)
			r.countRows()
			if r.y == nil {
				continue
			}
			r.eachPiece(r.fc1, project)
			r.eachPiece(r.fc2, projectBack)
			pool.run(n, max(1, 1<<14/max(1, r.d*r.k)), combine)
		}
		return nil
	}, nil
}

// eachPiece calls body for the pieces of a layer.
func (r *fmoeRun[T]) eachPiece(layer *projection[T], body func(lo, hi int)) {
	n := layer.cut(&r.pieces, r.dispatch.Offset, r.device.pool.threads)
	r.device.pool.run(n, r.pieces.grain, body)
}

// newBatch prepares what the gate decides about.
func (r *fmoeRun[T]) newBatch(config moe.Config) error {
	in := func(slot int) *tensor.Tensor { return at(r.call.In, slot) }
	r.batch = moe.Batch{Tokens: r.tokens, Experts: r.experts, Logits: make([]float64, r.tokens*r.experts),
		Indices: make([]int32, r.tokens*r.k), Scores: make([]float64, r.tokens*r.k),
		Training: in(moe.InputStep) != nil, Random: moe.Random{Seed: uint64(config.Seed), Layer: uint32(config.Layer)},
		WantLoss: at(r.call.Out, moe.OutputAuxLoss) != nil}
	if in(moe.InputNoiseWeight) != nil && r.batch.Training {
		r.batch.Noise = make([]float64, r.tokens*r.experts)
	}
	if in(moe.InputSelectionBias) != nil {
		r.batch.SelectionBias = make([]float64, r.experts)
	}
	if mask := in(moe.InputMask); mask != nil {
		if n := tensor.Count(mask.Shape); n != r.tokens {
			return fmt.Errorf("mask has %d elements for %d tokens; it must have one for each", n, r.tokens)
		}
		r.batch.Mask = make([]bool, r.tokens)
	}
	return nil
}

// bindRouter plans the product of tokens and a router's weight, plus its bias
// if that slot is not negative, behind the elements of scratch memory that are
// in use by then.
func (r *fmoeRun[T]) bindRouter(k *fmoe, weightSlot, biasSlot, used int, result func() []T) func() error {
	weight, bias := r.call.In[weightSlot], (*tensor.Tensor)(nil)
	if biasSlot >= 0 {
		bias = r.call.In[biasSlot]
	}
	p := &product[T]{
		a:    newStack([]int{r.tokens, r.d}, []int{0, 1}, nil),
		b:    newStack(weight.Shape, fmoeOrder(weightSlot), nil),
		used: used,
	}
	p.packed, _ = k.packed[weightSlot].([]*simd.Packed[T])
	if bias != nil {
		p.finish = func(piece []T, stride, _, col, rows, cols int) {
			for i := range rows {
				addBias(piece[i*stride:][:cols], tensor.Of[T](bias)[col:], 1, 1)
			}
		}
	}
	return p.bind(r.device, r.call.Scratch, func() (logits, x, w []T) {
		return result(), r.x, tensor.Of[T](weight)
	})
}

// open looks up the memory of a run.
func (r *fmoeRun[T]) open() {
	memory := r.space.open()
	part := func(n int) []T {
		p := memory[:n]
		memory = memory[n:]
		return p
	}
	r.logits = part(r.tokens * r.experts)
	if r.noise != nil {
		r.noises = part(r.tokens * r.experts)
	}
	r.hidden, r.result = part(r.round*r.k*r.h), part(r.round*r.k*r.d)
	if r.given != nil {
		r.logits = tensor.Of[T](r.given)
	}
	r.x, r.y = tensor.Of[T](r.call.In[moe.InputX]), nil
	if out := r.call.Out[moe.OutputY]; out != nil {
		r.y = tensor.Of[T](out)
	}
	if r.batch.Training {
		r.batch.Random.Step = uint32(tensor.Of[int64](r.call.In[moe.InputStep])[0])
	}
	if bias := r.batch.SelectionBias; bias != nil {
		convert(bias, tensor.Of[T](r.call.In[moe.InputSelectionBias]))
	}
	if r.batch.Mask != nil {
		copy(r.batch.Mask, tensor.Of[bool](r.call.In[moe.InputMask]))
	}
}

// choose lets the gate pick experts for some tokens.
func (r *fmoeRun[T]) choose(lo, hi int) {
	convert(r.batch.Logits[lo*r.experts:hi*r.experts], r.logits[lo*r.experts:])
	if r.noise != nil {
		convert(r.batch.Noise[lo*r.experts:hi*r.experts], r.noises[lo*r.experts:])
	}
	r.gate.Choose(&r.batch, lo, hi)
}

// convert fills dst with the first elements of src.
func convert[A, B simd.Float](dst []A, src []B) {
	for i := range dst {
		dst[i] = A(src[i])
	}
}

// project computes pieces of the hidden layer, gathering the tokens of each
// expert.
func (r *fmoeRun[T]) project(lo, hi int) {
	number, work := r.space.take()
	defer r.space.give(number)
	for piece := lo; piece < hi; piece++ {
		expert, row, rows, col, cols := r.pieces.locate(piece)
		in := simd.RowMajor(r.x[r.first*r.d:], rows, r.d)
		in.Index = r.dispatch.Token[row:]
		out := r.hidden[row*r.h+col:]
		r.fc1.apply(out, r.h, in, expert, col, cols, work)
		for i := range rows {
			r.activate(out[i*r.h:][:cols])
		}
		if r.fc3 == nil {
			continue
		}
		at := rows * cols
		factor, work := work[:at], work[at:]
		r.fc3.apply(factor, cols, in, expert, col, cols, work)
		if r.factor != nil {
			r.factor(factor)
		}
		for i := range rows {
			line := out[i*r.h:][:cols]
			for j, x := range factor[i*cols:][:cols] {
				line[j] *= x
			}
		}
	}
}

// projectBack computes pieces of the experts' outputs.
func (r *fmoeRun[T]) projectBack(lo, hi int) {
	number, work := r.space.take()
	defer r.space.give(number)
	for piece := lo; piece < hi; piece++ {
		expert, row, rows, col, cols := r.pieces.locate(piece)
		in := simd.RowMajor(r.hidden[row*r.h:], rows, r.h)
		r.fc2.apply(r.result[row*r.d+col:], r.d, in, expert, col, cols, work)
	}
}

// combine adds up the outputs of each token's experts, in the order of its
// choices.
func (r *fmoeRun[T]) combine(lo, hi int) {
	for n := lo; n < hi; n++ {
		token := r.first + n
		y := r.y[token*r.d:][:r.d]
		clear(y)
		for j, row := range r.dispatch.Row[n*r.k:][:r.k] {
			if row >= 0 {
				simd.Axpy(T(r.batch.Scores[token*r.k+j]), r.result[int(row)*r.d:][:r.d], y)
			}
		}
	}
}

// setOutputs gives the optional outputs what the gate decided.
func (r *fmoeRun[T]) setOutputs() {
	out := func(slot int) *tensor.Tensor { return at(r.call.Out, slot) }
	if t := out(moe.OutputAuxLoss); t != nil {
		tensor.Of[T](t)[0] = T(r.batch.BalanceLoss)
	}
	if t := out(moe.OutputZLoss); t != nil {
		tensor.Of[T](t)[0] = T(moe.ZLoss(&r.batch))
	}
	if t := out(moe.OutputExpertCount); t != nil {
		clear(t.Data)
	}
	if t := out(moe.OutputExpertIndices); t != nil {
		indices := tensor.Of[int64](t)
		for i, e := range r.batch.Indices {
			indices[i] = int64(e)
		}
	}
	if t := out(moe.OutputExpertScores); t != nil {
		convert(tensor.Of[T](t), r.batch.Scores)
	}
	if t := out(moe.OutputRouterLogits); t != nil {
		copy(tensor.Of[T](t), r.logits)
	}
}

// countRows adds the rows of a round to the output expert_count.
func (r *fmoeRun[T]) countRows() {
	out := at(r.call.Out, moe.OutputExpertCount)
	if out == nil {
		return
	}
	total := tensor.Of[int64](out)
	for e, n := range r.dispatch.Count {
		total[e] += n
	}
}
