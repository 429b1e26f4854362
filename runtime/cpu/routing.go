package cpu

import (
	"fmt"

	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// routing is the first half of FMoE, bound to N tokens of width d before T
// experts: the router's products, what the gate decides, and the outputs that
// tell of it. Where the batch is shared with other workers, the gate decides about
// the tokens of all of them. Its memory is scratch memory, as large as the scores of a layer
// may be.
type routing[T simd.Float] struct {
	device                    *Device
	call                      *device.Call
	tokens, d, experts, slots int
	sequence                  int // tokens of a sequence, 0 where that is not known
	gate                      moe.Gate
	batch                     moe.Batch
	router                    func() error   // the product that gives logits, nil where those are given
	noise                     func() error   // likewise of the second projection, nil where there is none
	given                     *tensor.Tensor // logits [N, T], or nil
	choose, zTerms            func(lo, hi int)
	shared                    *sharedBatch[T] // nil where the batch is this worker's tokens

	// Looked up and computed by each run.
	x                 []T       // [N, d]
	logits, noises    []T       // [N, T]
	decideBy, noisyBy []T       // likewise, of the batch
	terms             []float64 // of the z-loss [N], nil where nobody wants it
}

// prepare binds the routing of a call. logits, where it is not nil, has the
// router's result.
func (r *routing[T]) prepare(k *fmoe, c *device.Call, logits *tensor.Tensor) error {
	leading := c.In[moe.InputX].Shape
	last := len(leading) - 1
	r.device, r.call, r.given, r.choose, r.zTerms = k.device, c, logits, r.chooseExperts, r.computeZTerms
	r.tokens, r.d, r.experts = tensor.Count(leading[:last]), leading[last], c.In[moe.InputFC1Weight].Shape[0]
	if w := at(c.In, moe.InputGateWeight); w != nil {
		r.experts = w.Shape[1]
	}
	if _, err := tensor.CheckedCount(onnx.Float64, []int{r.tokens, 8 * r.experts}); err != nil {
		return fmt.Errorf("logits: %w", err)
	}
	var err error
	if r.gate, err = moe.NewGate(k.config, r.experts); err != nil {
		return err
	}
	kind, err := moe.KindOf(k.config.Gate)
	if err != nil {
		return err
	}
	r.slots = kind.Slots(k.config, r.experts)
	if n := r.gate.Slots(); n != r.slots {
		return fmt.Errorf("gate %s has %d slots a token, must have %d", k.config.Gate, n, r.slots)
	}
	mask := at(c.In, moe.InputMask)
	if mask != nil && tensor.Count(mask.Shape) != r.tokens {
		return fmt.Errorf("mask has shape %s for %d tokens; it must have an element for each", tensor.FormatShape(mask.Shape), r.tokens)
	}
	training := at(c.In, moe.InputStep) != nil
	r.batch = moe.Batch{Tokens: r.tokens, Experts: r.experts, Training: training,
		Random:   moe.Random{Seed: uint64(k.config.Seed), Layer: uint32(k.config.Layer)},
		WantLoss: at(c.Out, moe.OutputAuxLoss) != nil}

	if last > 1 {
		r.sequence = leading[last-1]
	}
	r.batch.Sequence = r.sequence

	if k.workers != nil {
		r.shared = &sharedBatch[T]{groups: k.workers}
	}
	noisy := training && at(c.In, moe.InputNoiseWeight) != nil
	if noisy {
		r.noise = func() error { return nil } // for lay
	}
	var parts scratchParts
	r.lay(&parts)
	used := sizeIn[T](parts.used)
	if logits == nil {
		r.router = r.bindRouter(k, moe.InputGateWeight, at(c.In, moe.InputGateBias), used, func() []T { return r.logits })
	}
	if noisy {
		r.noise = r.bindRouter(k, moe.InputNoiseWeight, nil, used, func() []T { return r.noises })
	}
	return nil
}

// bindRouter plans the product of tokens and a router's weight, plus a bias
// that may be nil, behind the elements of scratch memory that are in use by
// then.
func (r *routing[T]) bindRouter(k *fmoe, slot int, bias *tensor.Tensor, used int, result func() []T) func() error {
	weight := r.call.In[slot]
	p := &product[T]{
		a:    newStack([]int{r.tokens, r.d}, []int{0, 1}, nil),
		b:    newStack(weight.Shape, fmoeOrder(slot), nil),
		used: used,
	}
	p.packed, _ = k.packed[slot].([]*simd.Packed[T])
	if bias != nil {
		p.bias = func() []T { return tensor.Of[T](bias) }
	}
	return p.bind(r.device, r.call.Scratch, func() (logits, x, w []T) {
		return result(), r.x, tensor.Of[T](weight)
	})
}

// lay places the routing in scratch memory, but for the batch where it is
// shared.
func (r *routing[T]) lay(p *scratchParts) {
	if r.shared == nil {
		r.layBatch(p)
	}
	if r.given == nil {
		r.logits = part[T](p, r.tokens*r.experts)
	}
	if r.noise != nil {
		r.noises = part[T](p, r.tokens*r.experts)
	}
	if at(r.call.In, moe.InputSelectionBias) != nil {
		r.batch.SelectionBias = part[float64](p, r.experts)
	}
	if at(r.call.Out, moe.OutputZLoss) != nil {
		r.terms = part[float64](p, r.tokens)
	}
}

// layBatch places what the gate decides from about the batch's tokens, and what
// it decides.
func (r *routing[T]) layBatch(p *scratchParts) {
	b := &r.batch
	b.Logits = part[float64](p, b.Tokens*r.experts)
	b.Indices, b.Scores = part[int32](p, b.Tokens*r.slots), part[float64](p, b.Tokens*r.slots)
	if r.noise != nil {
		b.Noise = part[float64](p, b.Tokens*r.experts)
	}
	if at(r.call.In, moe.InputMask) != nil {
		b.Mask = part[bool](p, b.Tokens)
	}
}

// own returns the place of this worker's first token in the batch.
func (r *routing[T]) own() int {
	if r.shared == nil {
		return 0
	}
	return r.shared.begin(r.shared.groups.Tokens.Rank())
}

// indices and scores return what the gate chose for this worker's tokens.
func (r *routing[T]) indices() []int32  { return r.batch.Indices[r.own()*r.slots:][:r.tokens*r.slots] }
func (r *routing[T]) scores() []float64 { return r.batch.Scores[r.own()*r.slots:][:r.tokens*r.slots] }

// route decides which experts compute which tokens.
func (r *routing[T]) route() error {
	in := func(slot int) *tensor.Tensor { return at(r.call.In, slot) }
	b := &r.batch
	r.x = tensor.Of[T](in(moe.InputX))
	if r.given != nil {
		r.logits = tensor.Of[T](r.given)
	}
	if bias := in(moe.InputSelectionBias); bias != nil {
		convert(b.SelectionBias, tensor.Of[T](bias))
	}
	if b.Training {
		b.Random.Step = uint32(tensor.Of[int64](in(moe.InputStep))[0])
	}
	if r.shared != nil {
		r.count()
	}
	for _, product := range []func() error{r.router, r.noise} {
		if product == nil {
			continue
		}
		if err := product(); err != nil {
			return err
		}
	}
	logits, noises, mask := r.logits, r.noises, []byte(nil)
	if t := in(moe.InputMask); t != nil {
		mask = t.Data
	}
	if r.shared != nil {
		var err error
		if logits, noises, mask, err = r.share(mask); err != nil {
			return err
		}
	}
	for i, x := range mask { // true may be any byte but 0 in a file, not in a bool
		b.Mask[i] = x != 0
	}
	r.decideBy, r.noisyBy = logits, noises
	r.device.pool.run(b.Tokens, max(1, 1<<14/(r.experts+16*r.slots)), r.choose)
	r.gate.Settle(b)
	r.setOutputs()
	return nil
}

// chooseExperts lets the gate choose for some tokens of the batch.
func (r *routing[T]) chooseExperts(lo, hi int) {
	from, to := lo*r.experts, hi*r.experts
	convert(r.batch.Logits[from:to], r.decideBy[from:])
	if r.noise != nil {
		convert(r.batch.Noise[from:to], r.noisyBy[from:])
	}
	r.gate.Choose(&r.batch, lo, hi)
}

// setOutputs gives the optional outputs what the gate decided: those of a token
// are of this worker's tokens, and the others of the whole batch.
func (r *routing[T]) setOutputs() {
	out := func(slot int) *tensor.Tensor { return at(r.call.Out, slot) }
	if t := out(moe.OutputAuxLoss); t != nil {
		tensor.Of[T](t)[0] = T(r.batch.BalanceLoss)
	}
	if t := out(moe.OutputExpertCount); t != nil {
		count := tensor.Of[int64](t)
		clear(count)
		for _, e := range r.batch.Indices {
			if e >= 0 {
				count[e]++
			}
		}
	}
	if t := out(moe.OutputZLoss); t != nil {
		r.sumZTerms(tensor.Of[T](t))
	}
	if t := out(moe.OutputExpertIndices); t != nil {
		indices := tensor.Of[int64](t)
		for i, e := range r.indices() {
			indices[i] = int64(e)
		}
	}
	if t := out(moe.OutputExpertScores); t != nil {
		convert(tensor.Of[T](t), r.scores())
	}
	if t := out(moe.OutputRouterLogits); t != nil {
		copy(tensor.Of[T](t), r.logits)
	}
}

// computeZTerms computes what some of this worker's tokens add to the z-loss.
func (r *routing[T]) computeZTerms(lo, hi int) {
	for n := lo; n < hi; n++ {
		r.terms[n] = moe.ZTerm(&r.batch, r.own()+n)
	}
}

// sumZTerms gives the z-loss, or begins to ask other workers for it.
func (r *routing[T]) sumZTerms(loss []T) {
	r.device.pool.run(r.tokens, max(1, 1<<11/r.experts), r.zTerms)
	sum, count := 0.0, 0
	for n, z := range r.terms {
		sum += z
		if r.batch.Mask == nil || r.batch.Mask[r.own()+n] {
			count++
		}
	}
	if r.shared != nil {
		r.shared.sumZLoss(sum, count)
		return
	}
	loss[0] = T(sum / float64(max(1, count)))
}

// convert fills dst with the first elements of src.
func convert[A, B simd.Float](dst []A, src []B) {
	src = src[:len(dst)]
	for i, x := range src {
		dst[i] = A(x)
	}
}
