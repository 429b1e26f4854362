package cpu

import (
	"fmt"
	"math"

	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	for _, name := range []string{"RNN", "GRU", "LSTM"} {
		register("", name, floatKernel(bindRecurrent[float32], bindRecurrent[float64], 0))
	}
}

// recurrent is a layer bound to its tensors. It goes through the steps of one
// direction after the other; the stages of a step compute the states of all
// batches. The rows of matrices over all steps are in the order of X's.
type recurrent[T simd.Float] struct {
	device                       *Device
	call                         *device.Call
	outputs                      []*tensor.Tensor // Y, Y_h and Y_c, where they are wanted
	length, batch, input, hidden int
	gates                        int
	stateGates                   int    // the first gates, which weigh the state as it is
	backwards                    []bool // of each direction
	batchFirst                   bool
	clip                         float64
	activations                  []recurrentActivation // of all directions
	linearFirst, coupled         bool                  // linear_before_reset, input_forget
	forward                      []func() error        // the stages of a step
	weights                      []*stateWeights[T]    // of the stages

	// The direction in progress, and what is its own of the inputs, nil where
	// they are absent.
	direction            int
	f                    []recurrentActivation
	inputBias, stateBias []T // of all gates
	peepholes            []T // of the gates input, output and forget

	// Memory that a run looks up.
	now         []int64 // of each batch, the step that it takes, negative when its sequence is over
	values      []T     // [rows, directions·gates·hidden]: the products of X and W, which become the gates' values where trace is set
	products    []T     // [batch, stateGates·hidden]: those of the state and R
	state, cell []T     // [batch, hidden]
	reset       []T     // [batch, hidden]: what GRU's reset gate lets through
	weighed     []T     // [batch, hidden]: the product of that and R
	trace       *recurrentTrace[T]
}

// stateWeights are some rows of a direction's R as they are multiplied at each
// step, with states or, in the backward pass, with gradients. Where there are
// several steps they are packed once for all of them.
type stateWeights[T simd.Float] struct {
	product[T]
	first, rows int // of R
	load        func() (out, left []T)
	right       simd.Packed[T]
	memory      []T
	pack        func(lo, hi int)
	run         func() error
}

func bindRecurrent[T simd.Float](d *Device, c *device.Call, n *op.Node) (func() error, error) {
	r, err := newRecurrent[T](d, c, n)
	if err != nil {
		return nil, err
	}
	if r.batch*r.hidden == 0 {
		return func() error { return clearAll(c.Out) }, nil
	}
	r.outputs = c.Out
	var parts scratchParts
	r.lay(&parts)
	used := sizeIn[T](parts.used)
	reserve[T](c.Scratch, used)
	for _, w := range r.weights {
		r.bindWeights(w, used)
	}
	weigh := r.weighInputs(used)
	return func() error {
		if y := at(c.Out, 0); y != nil {
			clear(y.Data)
		}
		if err := r.checkLengths(); err != nil {
			return err
		}
		r.lay(&scratchParts{memory: c.Scratch.Bytes()})
		if err := weigh(); err != nil {
			return err
		}
		for direction := range r.backwards {
			if err := r.pass(direction); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

func newRecurrent[T simd.Float](d *Device, c *device.Call, n *op.Node) (*recurrent[T], error) {
	shape, err := op.RecurrentDims(inferenceOf(n, c))
	if err != nil {
		return nil, err
	}
	backwards, err := op.RecurrentDirections(n)
	if err != nil {
		return nil, err
	}
	activations, err := readActivations(n, len(backwards))
	if err != nil {
		return nil, err
	}
	gates, _ := op.RecurrentGates(n)
	r := &recurrent[T]{device: d, call: c, length: int(shape.Length), batch: int(shape.Batch), input: int(shape.Input), hidden: int(shape.Hidden),
		gates: gates, stateGates: gates, backwards: backwards, activations: activations,
		batchFirst: n.Int("layout", 0) != 0, clip: float64(n.Float("clip", float32(math.Inf(1)))),
		linearFirst: n.Int("linear_before_reset", 0) != 0, coupled: n.Int("input_forget", 0) != 0}
	const matrices = 32 // more than there are of so many elements
	if _, err := tensor.CheckedCount(c.In[0].Type, []int{r.batch, len(backwards) * r.hidden, matrices, max(1, r.length)}); err != nil {
		return nil, err
	}
	switch op.RecurrentCell(n) {
	case "LSTM":
		r.forward = []func() error{r.weighState(), r.each(r.lstm)}
	case "GRU":
		if r.linearFirst {
			r.forward = []func() error{r.weighState(), r.each(r.gruReset), r.each(r.gruUpdate)}
		} else {
			r.stateGates = 2
			r.forward = []func() error{r.weighState(), r.each(r.gruReset), r.weighReset(), r.each(r.gruUpdate)}
		}
	default:
		r.forward = []func() error{r.weighState(), r.each(r.rnn)}
	}
	return r, nil
}

// clearAll lets all outputs that are wanted be 0.
func clearAll(out []*tensor.Tensor) error {
	for _, t := range out {
		if t != nil {
			clear(t.Data)
		}
	}
	return nil
}

// width is how many elements the gates of all directions have.
func (r *recurrent[T]) width() int { return len(r.backwards) * r.gates * r.hidden }

// rows is the number of steps of all batches.
func (r *recurrent[T]) rows() int { return r.length * r.batch }

func (r *recurrent[T]) lay(parts *scratchParts) {
	states := r.batch * r.hidden
	r.now = part[int64](parts, r.batch)
	r.values = part[T](parts, r.rows()*r.width())
	r.products = part[T](parts, r.stateGates*states)
	r.state, r.cell = part[T](parts, states), part[T](parts, states)
	r.reset, r.weighed = part[T](parts, states), part[T](parts, states)
	for _, w := range r.weights {
		if w.packed != nil {
			w.memory = part[T](parts, simd.ColsLen[T](w.b.rows, w.b.cols))
		}
	}
}

// weighInputs plans the products of all steps' inputs and the weights of all
// gates.
func (r *recurrent[T]) weighInputs(used int) func() error {
	p := &product[T]{a: strided(r.rows(), r.input, r.input, 1), b: strided(r.input, r.width(), 1, r.input), used: used}
	return p.bind(r.device, r.call.Scratch, func() (_, _, _ []T) {
		return r.values, tensor.Of[T](r.call.In[0]), tensor.Of[T](r.call.In[1])
	})
}

// strided describes one matrix.
func strided(rows, cols, rowStride, colStride int) stack {
	return stack{rows: rows, cols: cols, rowStride: rowStride, colStride: colStride, at: []int{0}, of: []int{0}}
}

// from lets the first matrix begin at an element.
func (s stack) from(start int) stack {
	s.at = []int{start}
	return s
}

// weighState makes the stage that multiplies the state with R.
func (r *recurrent[T]) weighState() func() error {
	return r.withWeights(&stateWeights[T]{rows: r.stateGates * r.hidden, load: func() (_, _ []T) { return r.products, r.state },
		product: product[T]{a: strided(r.batch, r.hidden, r.hidden, 1), b: strided(r.hidden, r.stateGates*r.hidden, 1, r.hidden)}})
}

// weighReset makes the stage that multiplies GRU's reset state with R.
func (r *recurrent[T]) weighReset() func() error {
	return r.withWeights(&stateWeights[T]{first: 2 * r.hidden, rows: r.hidden, load: func() (_, _ []T) { return r.weighed, r.reset },
		product: product[T]{a: strided(r.batch, r.hidden, r.hidden, 1), b: strided(r.hidden, r.hidden, 1, r.hidden)}})
}

func (r *recurrent[T]) withWeights(w *stateWeights[T]) func() error {
	if r.length > 1 {
		w.packed = []*simd.Packed[T]{&w.right}
	}
	r.weights = append(r.weights, w)
	return func() error { return w.run() }
}

// bindWeights plans the product of a stage.
func (r *recurrent[T]) bindWeights(w *stateWeights[T], used int) {
	w.used = used
	w.run = w.bind(r.device, r.call.Scratch, func() (_, _, _ []T) {
		out, left := w.load()
		return out, left, r.stateWeights(w.first)
	})
	step := simd.TileCols[T]()
	w.pack = func(lo, hi int) {
		w.right.Fill(matrix(&w.b, r.stateWeights(w.first), 0), lo*step, min(hi*step, w.b.cols))
	}
}

// stateWeights returns R of the direction from a row on.
func (r *recurrent[T]) stateWeights(row int) []T {
	return tensor.Of[T](r.call.In[2])[(r.direction*r.gates*r.hidden+row)*r.hidden:]
}

func (r *recurrent[T]) checkLengths() error {
	if lengths := at(r.call.In, 4); lengths != nil {
		for _, n := range tensor.Of[int32](lengths) {
			if n < 0 || int(n) > r.length {
				return fmt.Errorf("sequence_lens has %d for sequences of %d", n, r.length)
			}
		}
	}
	return nil
}

// pass runs the steps of one direction.
func (r *recurrent[T]) pass(direction int) error {
	r.enter(direction)
	r.loadStates(5, r.state)
	r.loadStates(6, r.cell)
	for i := range r.length {
		r.locate(i)
		for _, stage := range r.forward {
			if err := stage(); err != nil {
				return err
			}
		}
		r.record()
	}
	for i, state := range [][]T{r.state, r.cell} {
		if out := at(r.outputs, i+1); out != nil {
			for b := range r.batch {
				copy(r.stateOf(out, b), state[b*r.hidden:])
			}
		}
	}
	return nil
}

// enter makes a direction the one in progress.
func (r *recurrent[T]) enter(direction int) {
	r.direction = direction
	count := len(r.activations) / len(r.backwards)
	r.f = r.activations[direction*count:][:count]
	size := r.gates * r.hidden
	r.inputBias, r.stateBias, r.peepholes = nil, nil, nil
	if bias := at(r.call.In, 3); bias != nil {
		both := tensor.Of[T](bias)[direction*2*size:]
		r.inputBias, r.stateBias = both[:size], both[size:][:size]
	}
	if p := at(r.call.In, 7); p != nil {
		r.peepholes = tensor.Of[T](p)[direction*3*r.hidden:]
	}
	for _, w := range r.weights {
		if w.packed != nil {
			w.right = simd.PackedIn(w.memory, w.b.rows, w.b.cols)
			tile := simd.TileCols[T]()
			r.device.pool.run(ceilDiv(w.b.cols, tile), max(1, 1<<14/(w.b.rows*tile)), w.pack)
		}
	}
}

// loadStates copies the direction's states from an input, 0 where it is
// absent.
func (r *recurrent[T]) loadStates(input int, state []T) {
	from := at(r.call.In, input)
	if from == nil {
		clear(state)
		return
	}
	for b := range r.batch {
		copy(state[b*r.hidden:], r.stateOf(from, b))
	}
}

// stateOf returns the direction's line of a tensor of states [directions,
// batch, hidden], or with batches first.
func (r *recurrent[T]) stateOf(t *tensor.Tensor, b int) []T {
	line := r.direction*r.batch + b
	if r.batchFirst {
		line = b*len(r.backwards) + r.direction
	}
	return tensor.Of[T](t)[line*r.hidden:][:r.hidden]
}

// stepOf returns the direction's line of a tensor of the states of all steps
// [length, directions, batch, hidden], or with batches first.
func (r *recurrent[T]) stepOf(t *tensor.Tensor, b, step int) []T {
	line := (step*len(r.backwards)+r.direction)*r.batch + b
	if r.batchFirst {
		line = (b*r.length+step)*len(r.backwards) + r.direction
	}
	return tensor.Of[T](t)[line*r.hidden:][:r.hidden]
}

// row returns which row of X has a step of a batch.
func (r *recurrent[T]) row(step, b int) int {
	if r.batchFirst {
		return b*r.length + step
	}
	return step*r.batch + b
}

// locate finds the step that each batch takes as the i-th one.
func (r *recurrent[T]) locate(i int) {
	for b := range r.now {
		length := r.length
		if lengths := at(r.call.In, 4); lengths != nil {
			length = int(tensor.Of[int32](lengths)[b])
		}
		switch {
		case i >= length:
			r.now[b] = -1
		case r.backwards[r.direction]:
			r.now[b] = int64(length - 1 - i)
		default:
			r.now[b] = int64(i)
		}
	}
}

// record stores the states of a step in output 0.
func (r *recurrent[T]) record() {
	y := at(r.outputs, 0)
	if y == nil {
		return
	}
	for b, step := range r.now {
		if step >= 0 {
			copy(r.stepOf(y, b, int(step)), r.state[b*r.hidden:])
		}
	}
}

// recurrentPlace says where an element of the state, and what belongs to it,
// lies at a step. The next gate's lies hidden elements behind one gate's.
type recurrentPlace struct {
	j       int // in the state of a batch
	state   int // in the states of all batches
	product int // gate 0 in products
	gate    int // gate 0 in values
	kept    int // in matrices [directions, rows, hidden]
	delta   int // gate 0 in a matrix [batch, gates·hidden]
}

// elementsOfState are as many as are worth handing to a thread.
const elementsOfState = 256

// each makes a stage that calls body for every element of the states of those
// batches that have a step to take.
func (r *recurrent[T]) each(body func(recurrentPlace)) func() error {
	span := func(lo, hi int) {
		for lo < hi {
			b, j := lo/r.hidden, lo%r.hidden
			n := min(hi-lo, r.hidden-j)
			if step := int(r.now[b]); step >= 0 {
				row := r.row(step, b)
				p := recurrentPlace{j: j, state: lo,
					product: b*r.stateGates*r.hidden + j,
					gate:    (row*len(r.backwards)+r.direction)*r.gates*r.hidden + j,
					kept:    (r.direction*r.rows()+row)*r.hidden + j,
					delta:   b*r.gates*r.hidden + j}
				for range n {
					body(p)
					p = recurrentPlace{p.j + 1, p.state + 1, p.product + 1, p.gate + 1, p.kept + 1, p.delta + 1}
				}
			}
			lo += n
		}
	}
	return func() error {
		r.device.pool.run(r.batch*r.hidden, elementsOfState, span)
		return nil
	}
}

// term returns element i of a list that may be missing.
func term[T simd.Float](list []T, i int) float64 {
	if list == nil {
		return 0
	}
	return float64(list[i])
}

// sum is what the input and the state contribute to a gate.
func (r *recurrent[T]) sum(p recurrentPlace, gate int) float64 {
	i := gate * r.hidden
	return float64(r.values[p.gate+i]) + float64(r.products[p.product+i]) + term(r.inputBias, i+p.j) + term(r.stateBias, i+p.j)
}

// activate returns the value of a gate at x.
func (r *recurrent[T]) activate(p recurrentPlace, gate int, f *recurrentActivation, x float64) float64 {
	clipped := max(-r.clip, min(r.clip, x))
	y := f.value(clipped)
	if r.trace != nil {
		i := p.gate + gate*r.hidden
		r.values[i], r.trace.slopes[i] = T(y), 0
		if clipped == x {
			r.trace.slopes[i] = T(f.slope(x, y))
		}
	}
	return y
}

func (r *recurrent[T]) rnn(p recurrentPlace) {
	r.keep(p)
	r.state[p.state] = T(r.activate(p, 0, &r.f[0], r.sum(p, 0)))
}

// lstm has the gates input, output, forget and cell.
func (r *recurrent[T]) lstm(p recurrentPlace) {
	r.keep(p)
	n, old := r.hidden, float64(r.cell[p.state])
	input := r.activate(p, 0, &r.f[0], r.sum(p, 0)+term(r.peepholes, p.j)*old)
	forget := 1 - input
	if !r.coupled {
		forget = r.activate(p, 2, &r.f[0], r.sum(p, 2)+term(r.peepholes, 2*n+p.j)*old)
	}
	c := forget*old + input*r.activate(p, 3, &r.f[1], r.sum(p, 3))
	output := r.activate(p, 1, &r.f[0], r.sum(p, 1)+term(r.peepholes, n+p.j)*c)
	r.cell[p.state], r.state[p.state] = T(c), T(output*r.f[2].value(c))
}

// gruReset is the first part of GRU, whose gates are update, reset and hidden.
// The hidden gate weighs the reset state or, linear first, resets the weighed
// state.
func (r *recurrent[T]) gruReset(p recurrentPlace) {
	r.keep(p)
	through := float64(r.state[p.state])
	if r.linearFirst {
		through = float64(r.products[p.product+2*r.hidden]) + term(r.stateBias, 2*r.hidden+p.j)
	}
	reset := T(r.activate(p, 1, &r.f[0], r.sum(p, 1)) * through)
	r.reset[p.state] = reset
	if r.trace != nil {
		if r.linearFirst {
			reset = T(through)
		}
		r.trace.resets[p.kept] = reset
	}
}

// gruUpdate is the second part.
func (r *recurrent[T]) gruUpdate(p recurrentPlace) {
	i := 2 * r.hidden
	x := float64(r.values[p.gate+i]) + term(r.inputBias, i+p.j)
	if r.linearFirst {
		x += float64(r.reset[p.state])
	} else {
		x += float64(r.weighed[p.state]) + term(r.stateBias, i+p.j)
	}
	update := r.activate(p, 0, &r.f[0], r.sum(p, 0))
	hidden := r.activate(p, 2, &r.f[1], x)
	r.state[p.state] = T((1-update)*hidden + update*float64(r.state[p.state]))
}
