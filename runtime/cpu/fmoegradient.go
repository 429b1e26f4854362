package cpu

import (
	"fmt"
	"sort"

	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	addKernel(moe.Domain, moe.GradientOpType, kernelEntry{make: newFMoEGradient})
}

// fmoeGradient is the kernel of FMoEGradient.
type fmoeGradient struct{ fmoe }

func newFMoEGradient(d *Device, n *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
	config, err := moe.ParseConfig(n.Node)
	if err != nil {
		return nil, err
	}
	workers, err := d.sharing(config)
	return &fmoeGradient{fmoe{device: d, config: config, workers: workers, rows: n.Input(moe.SavedHidden)}}, err
}

func (k *fmoeGradient) Bind(c *device.Call) (func() error, error) { return k.bindWidened(c, k.bind) }

func (k *fmoeGradient) bind(c *device.Call) (func() error, error) {
	activation := k.config.Activation
	switch t := c.In[moe.InputX].Type; t {
	case onnx.Float32:
		return bindFMoEGradient(k, c, hiddenFunctions[float32]{slopes: expertSlopes[activation].float32, multiply: simd.Mul, scale: simd.Scale})
	case onnx.Float64:
		return bindFMoEGradient(k, c, hiddenFunctions[float64]{slopes: expertSlopes[activation].float64,
			multiply: eachPair(func(x, y float64) float64 { return x * y }),
			scale: func(x []float64, factor float64) {
				for i := range x {
					x[i] *= factor
				}
			}})
	default:
		return nil, device.UnsupportedType(t)
	}
}

// hiddenFunctions are what the gradients of hidden values are made of.
type hiddenFunctions[T simd.Float] struct {
	slopes   func(value, slope, x []T) // see expertSlopes
	multiply func(out, x, y []T)
	scale    func(x []T, factor T)
}

// fmoeGradientRun is FMoEGradient bound to N tokens of width d and T experts of
// hidden width h. The gate decides once more, about the same logits, so that
// rows have the order in which the node kept them. A run goes through phases
// one after the other, each parallel in itself. With G the gradient by Y of a
// row's token, s the row's score, P and F what fc1 and fc3 gave, and f the
// activation, they compute for each row
//
//	A = f(P)·F                  the activated hidden values
//	B = G·fc2                   the gradient by them but for s
//	the gradient by s           B·A + G·fc2_bias
//	the gradients by P and F    s·B·F·f'(P) and s·B·f(P)
//	the gradient by the token   those times fc1 and fc3
//
// and, for each expert, products of these that are summed over its rows.
type fmoeGradientRun[T simd.Float] struct {
	hiddenFunctions[T]
	routing[T]
	node                *device.Call // whose inputs routing knows the first ones of
	trained             moe.Differentiable
	gradients           moe.Gradients
	h, most             int            // most rows
	back1, back2, back3 *projection[T] // from outputs to inputs; back3 is nil where experts are not gated
	fc2Bias             projection[T]  // of which scores see the bias alone

	dispatch *moe.Dispatch
	pieces   pieces
	space    *workspace[T]
	sums     *rowProducts[T]

	// The rest is looked up and computed by each run.
	rows               int
	offset             []int         // where the rows of each expert begin
	parts              []moe.Segment // those of experts that have rows
	rowsOf             rowPlaces
	dy                 []T          // [N, d]
	inputs, byResults  []T          // tokens and G, [places, d]
	hidden, factor     []T          // P and F [rows, h]
	scores             []T          // s [rows]
	byScore            []T          // the gradient by s [places]
	bySlot             []T          // that by the scores of the tokens' slots [N, slots], nil where byScore has it
	activated          []T          // s·A [rows, h]
	byHidden, byFactor []T          // the gradients by P and F [rows, h]
	byRow              []T          // by a row's token [places, d]
	byLogits, byNoise  []T          // [N, T]
	throughNoise       []T          // the gradient by the tokens through the noise [N, d]
	byBias             []float64    // by gate_bias [T]
	borrowed           expertsOf[T] // the gradients by experts that other workers lent
}

func bindFMoEGradient[T simd.Float](k *fmoeGradient, c *device.Call, f hiddenFunctions[T]) (func() error, error) {
	if f.slopes == nil {
		return nil, fmt.Errorf("activation %q is %w on the CPU", k.config.Activation, device.ErrUnsupported)
	}
	r := &fmoeGradientRun[T]{hiddenFunctions: f, node: c}
	if err := r.prepare(k); err != nil {
		return nil, err
	}
	if r.shared != nil {
		return r.bindShared(k)
	}
	var parts scratchParts
	r.lay(&parts)
	used := sizeIn[T](parts.used)
	r.space = newWorkspace[T](r.device, c.Scratch, used, r.workLen())
	router := r.bindRouterGradients(used)
	differentiate, throughHidden, backHidden, backRows, combine := r.differentiate, r.throughHidden, r.backHidden, r.backRows, r.combine
	return func() error {
		r.space.open()
		r.lay(&scratchParts{memory: c.Scratch.Bytes()})
		r.lookUp()
		if err := r.route(); err != nil {
			return err
		}
		if err := r.sort(); err != nil {
			return err
		}
		if r.dy != nil {
			r.eachPiece(r.back2, backHidden)
			r.device.pool.run(r.rows, max(1, 1<<13/max(1, r.h)), throughHidden)
		}
		r.device.pool.run(r.tokens, max(1, 1<<14/(r.experts+16*r.slots)), differentiate)
		r.sumOverRows()
		r.sumGateBias()
		for _, product := range router {
			if err := product(); err != nil {
				return err
			}
		}
		if r.out(moe.InputX) != nil {
			if r.dy != nil {
				r.eachPiece(r.back1, backRows)
			}
			r.device.pool.run(r.tokens, max(1, 1<<14/max(1, r.d*r.slots)), combine)
		}
		return nil
	}, nil
}

func (r *fmoeGradientRun[T]) in(slot int) *tensor.Tensor  { return at(r.node.In, slot) }
func (r *fmoeGradientRun[T]) out(slot int) *tensor.Tensor { return at(r.node.Out, slot) }

// prepare binds the routing, and finds out what there is to compute.
func (r *fmoeGradientRun[T]) prepare(k *fmoeGradient) error {
	call := &device.Call{In: r.node.In[:moe.InputCount], Scratch: r.node.Scratch}
	if err := r.routing.prepare(&k.fmoe, call, r.in(moe.SavedRouterLogits)); err != nil {
		return err
	}
	var ok bool
	if r.trained, ok = r.gate.(moe.Differentiable); !ok {
		return fmt.Errorf("the gate %s has no gradient", k.config.Gate)
	}
	r.batch.WantLoss = r.in(moe.GradientAuxLoss) != nil
	backwards := func(slot int) *projection[T] {
		weight := r.in(slot)
		if weight == nil {
			return nil
		}
		return &projection[T]{weight: weight, stack: newStack(weight.Shape, []int{0, 1, 2}, nil), own: weight.Shape[0]}
	}
	r.back1, r.back2, r.back3 = backwards(moe.InputFC1Weight), backwards(moe.InputFC2Weight), backwards(moe.InputFC3Weight)
	if r.fc2Bias.own = r.back2.own; r.addsBias() {
		r.fc2Bias.bias = r.in(moe.InputFC2Bias)
	}
	r.h = r.back1.stack.rows
	r.sums = newRowProducts[T](r.device, r.in(moe.InputFC1Weight).Shape[0])
	r.pieces.first = make([]int, 0, r.experts+1)
	for slot, want := range map[int]int{moe.SavedRouterLogits: r.tokens * r.experts, moe.GradientY: r.tokens * r.d,
		moe.GradientExpertScores: r.tokens * r.slots, moe.GradientRouterLogits: r.tokens * r.experts} {
		if err := r.wantLen(slot, want); err != nil {
			return err
		}
	}
	if r.shared != nil {
		return nil
	}
	r.most = k.config.Rows(r.tokens, r.experts)
	if _, err := tensor.CheckedCount(onnx.Float64, []int{r.most, 4*r.h + 2*r.d}); err != nil {
		return fmt.Errorf("gradients of rows: %w", err)
	}
	r.dispatch = moe.NewDispatch(r.experts, 0)
	if err := r.wantLen(moe.SavedHidden, r.most*r.h); err != nil {
		return err
	}
	return r.wantLen(moe.SavedFactor, r.most*r.h)
}

// wantLen checks the number of elements of an input that may be absent.
func (r *fmoeGradientRun[T]) wantLen(slot, want int) error {
	if t := r.in(slot); t != nil && t.Len() != want {
		return fmt.Errorf("input %d has shape %s, must have %d elements", slot, tensor.FormatShape(t.Shape), want)
	}
	return nil
}

// workLen returns the working memory that a thread needs.
func (r *fmoeGradientRun[T]) workLen() int {
	work := max(r.back1.workLen(r.most), r.back2.workLen(r.most), r.sums.workLen(min(r.d, r.h), r.shared != nil), r.h)
	if r.back3 != nil {
		_, width := pieceSize(r.most, false)
		work = max(work, min(r.most, maxPieceRows)*width+r.back3.workLen(r.most))
	}
	return work
}

// lay places what a run computes in scratch memory.
func (r *fmoeGradientRun[T]) lay(p *scratchParts) {
	r.layRouter(p)
	r.layGate(p)
	r.dispatch.Token, r.dispatch.Row = part[int32](p, r.most), part[int32](p, r.tokens*r.slots)
	r.byScore = part[T](p, r.most)
	r.layRows(p, r.most)
	// Rows have their gradients when sums over them are done.
	r.sums.packed = part[T](p, max(r.sums.packedLen(r.most, min(r.d, r.h)), r.most*r.d))
	if r.sums.packed != nil {
		r.byRow = r.sums.packed[:r.most*r.d]
	}
}

// layRouter places what is of this worker's tokens.
func (r *fmoeGradientRun[T]) layRouter(p *scratchParts) {
	r.routing.lay(p)
	r.byLogits, r.byBias = part[T](p, r.tokens*r.experts), part[float64](p, r.experts)
	if r.noise != nil {
		r.byNoise, r.throughNoise = part[T](p, r.tokens*r.experts), part[T](p, r.tokens*r.d)
	}
}

// layGate places what the gate takes, of all tokens of the batch.
func (r *fmoeGradientRun[T]) layGate(p *scratchParts) {
	g, tokens := &r.gradients, r.batch.Tokens
	g.Scores, g.Logits = part[float64](p, tokens*r.slots), part[float64](p, tokens*r.experts)
	if r.noise != nil {
		g.Noise = part[float64](p, tokens*r.experts)
	}
}

// layRows places what experts compute.
func (r *fmoeGradientRun[T]) layRows(p *scratchParts, rows int) {
	r.scores = part[T](p, rows)
	r.activated, r.byHidden = part[T](p, rows*r.h), part[T](p, rows*r.h)
	if r.back3 != nil {
		r.byFactor = part[T](p, rows*r.h)
	}
}

// lookUp looks up the inputs beside those of the routing.
func (r *fmoeGradientRun[T]) lookUp() {
	of := func(slot int) []T {
		t := r.in(slot)
		if t == nil {
			return nil
		}
		if t.Len() == 0 {
			return []T{} // not absent
		}
		return tensor.Of[T](t)
	}
	r.dy, r.hidden, r.factor = of(moe.GradientY), of(moe.SavedHidden), of(moe.SavedFactor)
	r.gradients.BalanceLoss, r.gradients.ZLoss = 0, 0
	if x := of(moe.GradientAuxLoss); x != nil {
		r.gradients.BalanceLoss = float64(x[0])
	}
	if x := of(moe.GradientZLoss); x != nil {
		r.gradients.ZLoss = float64(x[0])
	}
}

// sort orders the rows as the node did.
func (r *fmoeGradientRun[T]) sort() error {
	r.rows = 0
	for _, e := range r.batch.Indices {
		if e >= 0 {
			r.rows++
		}
	}
	if r.rows > r.most {
		return fmt.Errorf("the gate chose experts for %d rows, more than the %d that it announced", r.rows, r.most)
	}
	r.dispatch.Sort(r.batch.Indices, r.slots)
	for s, row := range r.dispatch.Row {
		if row >= 0 {
			r.scores[row] = T(r.batch.Scores[s])
		}
	}
	r.offset, r.inputs, r.byResults = r.dispatch.Offset, r.x, r.dy
	r.rowsOf = rowPlaces{input: r.dispatch.Token, slot: r.dispatch.Row}
	r.pieces.all(r.offset)
	r.parts = r.parts[:0]
	for _, p := range r.pieces.segments {
		if p.Rows > 0 {
			r.parts = append(r.parts, p)
		}
	}
	r.sums.of(r.parts, r.experts)
	return nil
}

func (r *fmoeGradientRun[T]) eachPiece(layer *projection[T], body func(lo, hi int)) {
	n := layer.cut(&r.pieces, r.device.pool.threads)
	r.device.pool.run(n, r.pieces.grain, body)
}

// backHidden computes pieces of B.
func (r *fmoeGradientRun[T]) backHidden(lo, hi int) {
	number, work := r.space.take()
	defer r.space.give(number)
	for piece := lo; piece < hi; piece++ {
		expert, row, rows, col, cols := r.pieces.locate(piece)
		dy := simd.RowMajor(r.byResults, rows, r.d)
		dy.Index = r.rowsOf.input[row:]
		r.back2.apply(r.byHidden[row*r.h+col:], r.h, dy, expert, col, cols, work)
	}
}

// throughHidden computes the gradients by scores and by hidden values of rows.
func (r *fmoeGradientRun[T]) throughHidden(lo, hi int) {
	number, work := r.space.take()
	defer r.space.give(number)
	slope := work[:r.h]
	expert := sort.SearchInts(r.offset, lo+1) - 1
	for row := lo; row < hi; row++ {
		for row >= r.offset[expert+1] {
			expert++
		}
		from, to := row*r.h, (row+1)*r.h
		byScore := &r.byScore[r.rowsOf.at(row)]
		p, a, b, s := r.hidden[from:to], r.activated[from:to], r.byHidden[from:to], r.scores[row]
		r.slopes(a, slope, p)
		if r.factor != nil {
			factor, byFactor := r.factor[from:to], r.byFactor[from:to]
			r.multiply(byFactor, b, a)
			r.scale(byFactor, s)
			r.multiply(a, a, factor)
			*byScore = simd.Dot(b, a)
			r.multiply(b, b, factor)
		} else {
			*byScore = simd.Dot(b, a)
		}
		if biases, i := r.fc2Bias.biasOf(expert); biases != nil {
			*byScore += simd.Dot(r.byResults[int(r.rowsOf.input[row])*r.d:][:r.d], biases[i*r.d:])
		}
		r.multiply(b, b, slope)
		r.scale(b, s)
		r.scale(a, s)
	}
}

// differentiate takes the gradients of this worker's tokens through the gate.
func (r *fmoeGradientRun[T]) differentiate(lo, hi int) {
	g, own := &r.gradients, r.own()
	given := r.in(moe.GradientExpertScores)
	for s := lo * r.slots; s < hi*r.slots; s++ {
		score := &g.Scores[own*r.slots+s]
		switch {
		case r.dy == nil:
			*score = 0
		case r.bySlot != nil:
			*score = float64(r.bySlot[s])
		case r.rowsOf.slot[s] < 0:
			*score = 0
		default:
			*score = float64(r.byScore[r.rowsOf.slot[s]])
		}
		if given != nil {
			*score += float64(tensor.Of[T](given)[s])
		}
	}
	from, to := lo*r.experts, hi*r.experts
	logits, noise := g.Logits[own*r.experts:], g.Noise
	if r.noise != nil {
		noise = noise[own*r.experts:]
		convert(noise[from:to], r.noises[from:])
	}
	moe.Differentiate(r.trained, &r.batch, g, own+lo, own+hi)
	if t := r.in(moe.GradientRouterLogits); t != nil {
		for i, x := range tensor.Of[T](t)[from:to] {
			logits[from+i] += float64(x)
		}
	}
	convert(r.byLogits[from:to], logits[from:])
	if r.noise != nil {
		convert(r.byNoise[from:to], noise[from:])
	}
}

// sumOverRows computes the gradients by the experts' weights and biases.
func (r *fmoeGradientRun[T]) sumOverRows() {
	tokens := func(x []T) simd.Matrix[T] {
		m := simd.RowMajor(x, r.rows, r.d)
		m.Index = r.rowsOf.input
		return m
	}
	rows := func(x []T) simd.Matrix[T] { return simd.RowMajor(x, r.rows, r.h) }
	for _, layer := range []struct {
		weight      int
		left, right []T // of d where they are those of tokens, of h where they are those of rows
		scores      []T
	}{
		{moe.InputFC2Weight, r.byResults, r.activated, r.scores},
		{moe.InputFC1Weight, r.byHidden, r.inputs, nil},
		{moe.InputFC3Weight, r.byFactor, r.inputs, nil},
	} {
		left, right := rows(layer.left), tokens(layer.right)
		if layer.weight == moe.InputFC2Weight {
			left, right = tokens(layer.left), rows(layer.right)
		}
		weight, bias := r.out(layer.weight), r.out(layer.weight+1)
		switch {
		case r.dy == nil:
			clearTensor(weight)
			clearTensor(bias)
			continue
		case weight != nil:
			r.sums.multiply(tensor.Of[T](weight), r.borrowed[layer.weight], left, right, r.space)
		}
		if bias != nil {
			r.sums.add(tensor.Of[T](bias), r.borrowed[layer.weight+1], left, layer.scores, r.space)
		}
	}
}

// sumGateBias computes the gradient by the router's bias.
func (r *fmoeGradientRun[T]) sumGateBias() {
	if t := r.out(moe.InputGateBias); t != nil {
		clear(r.byBias)
		for i, x := range r.gradients.Logits[r.own()*r.experts:][:r.tokens*r.experts] {
			r.byBias[i%r.experts] += x
		}
		convert(tensor.Of[T](t), r.byBias)
	}
}

func clearTensor(t *tensor.Tensor) {
	if t != nil {
		clear(t.Data)
	}
}

// bindRouterGradients plans the products with the gradients by the logits and
// the noise: with the tokens for those by the router's weights, and with these
// for that by the tokens.
func (r *fmoeGradientRun[T]) bindRouterGradients(used int) []func() error {
	var list []func() error
	add := func(slot int, gradient func() []T, byTokens func() []T) {
		weight := r.in(slot)
		logits := []int{r.tokens, r.experts}
		if t := r.out(slot); t != nil {
			p := &product[T]{a: newStack([]int{r.tokens, r.d}, []int{1, 0}, nil), b: newStack(logits, []int{0, 1}, nil), used: used}
			list = append(list, p.bind(r.device, r.node.Scratch, func() (c, a, b []T) { return tensor.Of[T](t), r.x, gradient() }))
		}
		if r.out(moe.InputX) != nil {
			p := &product[T]{a: newStack(logits, []int{0, 1}, nil), b: newStack(weight.Shape, []int{1, 0}, nil), used: used}
			list = append(list, p.bind(r.device, r.node.Scratch, func() (c, a, b []T) { return byTokens(), gradient(), tensor.Of[T](weight) }))
		}
	}
	add(moe.InputGateWeight, func() []T { return r.byLogits }, func() []T { return tensor.Of[T](r.out(moe.InputX)) })
	switch t := r.out(moe.InputNoiseWeight); {
	case r.noise != nil:
		add(moe.InputNoiseWeight, func() []T { return r.byNoise }, func() []T { return r.throughNoise })
	case t != nil:
		list = append(list, func() error { clear(t.Data); return nil })
	}
	return list
}

// backRows computes pieces of the gradients by rows' tokens.
func (r *fmoeGradientRun[T]) backRows(lo, hi int) {
	number, work := r.space.take()
	defer r.space.give(number)
	for piece := lo; piece < hi; piece++ {
		expert, row, rows, col, cols := r.pieces.locate(piece)
		out := r.byRow[r.rowsOf.at(row)*r.d+col:]
		r.back1.apply(out, r.d, simd.RowMajor(r.byHidden[row*r.h:], rows, r.h), expert, col, cols, work)
		if r.back3 == nil {
			continue
		}
		at := rows * cols
		other, work := work[:at], work[at:]
		r.back3.apply(other, cols, simd.RowMajor(r.byFactor[row*r.h:], rows, r.h), expert, col, cols, work)
		for i := range rows {
			simd.Axpy(1, other[i*cols:][:cols], out[i*r.d:])
		}
	}
}

// combine adds the gradients of each token's rows, in the order of its slots,
// to that through the router.
func (r *fmoeGradientRun[T]) combine(lo, hi int) {
	for n := lo; n < hi; n++ {
		dx := tensor.Of[T](r.out(moe.InputX))[n*r.d:][:r.d]
		if r.noise != nil {
			simd.Axpy(1, r.throughNoise[n*r.d:][:r.d], dx)
		}
		if r.dy == nil {
			continue
		}
		r.addRows(dx, n)
	}
}

// addRows adds to a sum the gradients by a token's rows, in the order of its
// slots.
func (r *fmoeGradientRun[T]) addRows(sum []T, token int) {
	for _, row := range r.rowsOf.slot[token*r.slots:][:r.slots] {
		if row >= 0 {
			simd.Axpy(1, r.byRow[int(row)*r.d:][:r.d], sum)
		}
	}
}
