package cpu

import (
	"fmt"

	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/comm"
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
	device  *Device
	config  moe.Config
	workers *comm.Groups        // that compute the layer together, nil for one alone
	rows    string              // the name of the output hidden, by which the gradient finds what workers keep
	packed  [moe.InputCount]any // []*simd.Packed[T] or []*simd.Compressed of the weights that are constant
}

func newFMoE(d *Device, n *op.Node, constants []*tensor.Tensor) (device.Kernel, error) {
	config, err := moe.ParseConfig(n.Node)
	if err != nil {
		return nil, err
	}
	k := &fmoe{device: d, config: config, rows: n.Output(moe.OutputHidden)}
	if k.workers, err = d.sharing(config); err != nil {
		return nil, err
	}
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

func (k *fmoe) Bind(c *device.Call) (func() error, error) { return k.bindWidened(c, k.bind) }

// bindWidened binds to a call in which experts' weights that are narrower than
// what they are computed with are wide, as each run makes them.
func (k *fmoe) bindWidened(c *device.Call, bind func(*device.Call) (func() error, error)) (func() error, error) {
	c, widen, err := k.widenExperts(c)
	if err != nil {
		return nil, err
	}
	run, err := bind(c)
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

// fmoeRun is FMoE bound to N tokens of width d and T experts of hidden width h.
// A run goes through its phases one after the other, each parallel in itself.
type fmoeRun[T simd.Float] struct {
	expertFunctions[T]
	routing[T]
	h             int
	fc1, fc2, fc3 *projection[T] // fc3 is nil where experts are not gated
	rows          int            // computed at a time, at least the slots of a token

	dispatch *moe.Dispatch
	pieces   pieces
	space    *workspace[T]

	// The rest is looked up and computed by each run.
	y             []T // [N, d]
	rowsOf        rowPlaces
	input, result []T // [places, d]
	hidden        []T // [rows, h], sorted by expert
	kept, factors []T // what fc1 and fc3 gave [rows, h], where the gradient wants it
	first         int // token with which the round in progress begins
}

// rowPlaces says where the inputs and results of rows are, which are sorted by
// expert.
type rowPlaces struct {
	input  []int32 // place of each row's input
	result []int32 // likewise; nil where it is the row's number. Those of a piece follow one another
	slot   []int32 // place of the result of each slot of the own tokens, −1 for dropped ones
}

// at returns the place of a row's result.
func (p *rowPlaces) at(row int) int {
	if p.result == nil {
		return row
	}
	return int(p.result[row])
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
	r := &fmoeRun[T]{expertFunctions: f,
		fc1: newProjection[T](k, c, moe.InputFC1Weight),
		fc2: newProjection[T](k, c, moe.InputFC2Weight),
		fc3: newProjection[T](k, c, moe.InputFC3Weight),
	}
	r.h = r.fc1.stack.cols
	if err := r.routing.prepare(k, c, logits); err != nil {
		return nil, err
	}
	if r.shared != nil {
		return r.bindShared(k)
	}
	// Where experts choose tokens, few of the slots become rows.
	r.rows = min(2*r.tokens*k.config.TopK+r.experts, fmoeLimit/max(1, r.h+r.d))
	r.rows = min(max(r.rows, r.slots), r.tokens*r.slots)
	keeps := at(c.Out, moe.OutputHidden) != nil || at(c.Out, moe.OutputFactor) != nil
	if keeps { // in the order of all rows
		r.rows = k.config.Rows(r.tokens, r.experts)
	}
	r.dispatch = moe.NewDispatch(r.experts, 0)
	r.pieces.first = make([]int, 0, r.experts+1)

	var parts scratchParts
	r.lay(&parts)
	r.space = newWorkspace[T](r.device, c.Scratch, sizeIn[T](parts.used), r.workLen())

	project, projectBack, combine := r.project, r.projectBack, r.combine
	return func() error {
		r.space.open()
		r.lay(&scratchParts{memory: c.Scratch.Bytes()})
		if err := r.route(); err != nil {
			return err
		}
		r.y = tensor.Of[T](c.Out[moe.OutputY])
		for r.first = 0; r.first < r.tokens; {
			n := r.round()
			r.dispatch.Sort(r.batch.Indices[r.first*r.slots:][:n*r.slots], r.slots)
			r.pieces.all(r.dispatch.Offset)
			r.input, r.rowsOf = r.x[r.first*r.d:], rowPlaces{input: r.dispatch.Token, slot: r.dispatch.Row}
			if keeps {
				if err := r.keep(n); err != nil {
					return err
				}
			}
			r.eachPiece(r.fc1, project)
			r.eachPiece(r.fc2, projectBack)
			r.device.pool.run(n, max(1, 1<<14/max(1, r.d*r.slots)), combine)
			r.first += n
		}
		return nil
	}, nil
}

// workLen returns the working memory that a thread needs.
func (r *fmoeRun[T]) workLen() int {
	work := max(r.fc1.workLen(r.rows), r.fc2.workLen(r.rows))
	if r.fc3 != nil {
		_, width := pieceSize(r.rows, r.fc1.ready())
		work = max(work, min(r.rows, maxPieceRows)*width+r.fc3.workLen(r.rows))
	}
	return work
}

// keep looks up where to keep what fc1 and fc3 give for the rows of n tokens,
// which are to be all. Rows beyond those become 0.
func (r *fmoeRun[T]) keep(n int) error {
	if n < r.tokens {
		return fmt.Errorf("the gate chose experts for more than the %d rows that it announced", r.rows)
	}
	rows := r.dispatch.Offset[r.experts]
	r.kept, r.factors = nil, nil
	for slot, list := range map[int]*[]T{moe.OutputHidden: &r.kept, moe.OutputFactor: &r.factors} {
		if t := at(r.call.Out, slot); t != nil {
			*list = tensor.Of[T](t)
			clear((*list)[rows*r.h:])
		}
	}
	return nil
}

// lay places what the run computes in scratch memory.
func (r *fmoeRun[T]) lay(p *scratchParts) {
	r.routing.lay(p)
	r.dispatch.Token, r.dispatch.Row = part[int32](p, r.rows), part[int32](p, r.tokens*r.slots)
	r.hidden, r.result = part[T](p, r.rows*r.h), part[T](p, r.rows*r.d)
}

// round returns how many tokens from the first one on have no more rows than
// there is memory for.
func (r *fmoeRun[T]) round() int {
	left := r.tokens - r.first
	if left*r.slots <= r.rows {
		return left
	}
	rows := 0
	for n := range left {
		for _, e := range r.batch.Indices[(r.first+n)*r.slots:][:r.slots] {
			if e >= 0 {
				rows++
			}
		}
		if rows > r.rows {
			return n
		}
	}
	return left
}

// eachPiece calls body for the pieces of a layer.
func (r *fmoeRun[T]) eachPiece(layer *projection[T], body func(lo, hi int)) {
	n := layer.cut(&r.pieces, r.device.pool.threads)
	r.device.pool.run(n, r.pieces.grain, body)
}

// project computes pieces of the hidden layer, gathering the tokens of each
// expert.
func (r *fmoeRun[T]) project(lo, hi int) {
	number, work := r.space.take()
	defer r.space.give(number)
	for piece := lo; piece < hi; piece++ {
		expert, row, rows, col, cols := r.pieces.locate(piece)
		in := simd.RowMajor(r.input, rows, r.d)
		in.Index = r.rowsOf.input[row:]
		out := r.hidden[row*r.h+col:]
		first := out
		if r.kept != nil {
			first = r.kept[row*r.h+col:]
		}
		r.fc1.apply(first, r.h, in, expert, col, cols, work)
		if r.kept != nil {
			copyRows(out, r.h, first, r.h, rows, cols)
		}
		if cols == r.h {
			r.activate(out[:rows*cols])
		} else {
			for i := range rows {
				r.activate(out[i*r.h:][:cols])
			}
		}
		if r.fc3 == nil {
			continue
		}
		at := rows * cols
		factor, work := work[:at], work[at:]
		r.fc3.apply(factor, cols, in, expert, col, cols, work)
		if r.factors != nil {
			copyRows(r.factors[row*r.h+col:], r.h, factor, cols, rows, cols)
		}
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

// copyRows copies rows that lie a stride apart.
func copyRows[T any](dst []T, dstStride int, src []T, srcStride, rows, cols int) {
	for i := range rows {
		copy(dst[i*dstStride:][:cols], src[i*srcStride:])
	}
}

// projectBack computes pieces of the experts' outputs.
func (r *fmoeRun[T]) projectBack(lo, hi int) {
	number, work := r.space.take()
	defer r.space.give(number)
	for piece := lo; piece < hi; piece++ {
		expert, row, rows, col, cols := r.pieces.locate(piece)
		in := simd.RowMajor(r.hidden[row*r.h:], rows, r.h)
		r.fc2.apply(r.result[r.rowsOf.at(row)*r.d+col:], r.d, in, expert, col, cols, work)
	}
}

// combine adds up the outputs of each token's experts, in the order of its
// slots.
func (r *fmoeRun[T]) combine(lo, hi int) {
	for n := lo; n < hi; n++ {
		token := r.first + n
		y, done := r.y[token*r.d:][:r.d], 0
		rows, scores := r.rowsOf.slot[n*r.slots:][:r.slots], r.batch.Scores[(r.own()+token)*r.slots:][:r.slots]
		if rows[0] >= 0 && scores[0] == 1 {
			copy(y, r.result[int(rows[0])*r.d:])
			done = 1
		} else {
			clear(y)
		}
		for j, row := range rows[done:] {
			if row >= 0 {
				simd.Axpy(T(scores[done+j]), r.result[int(row)*r.d:][:r.d], y)
			}
		}
	}
}
