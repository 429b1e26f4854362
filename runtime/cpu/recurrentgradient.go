package cpu

import (
	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	for _, name := range []string{"RNNGradient", "GRUGradient", "LSTMGradient"} {
		register(moe.Domain, name, floatKernel(bindRecurrentGradient[float32], bindRecurrentGradient[float64], 0))
	}
}

// recurrentTrace is what a layer keeps of all its steps for the gradient. What
// belongs to steps behind the end of a sequence is 0.
type recurrentTrace[T simd.Float] struct {
	slopes        []T // [rows, directions·gates·hidden]: of the activations; then the gradients by what enters them
	states, cells []T // [directions, rows, hidden]: before the step
	resets        []T // [directions, rows, hidden]: what GRU's hidden gate weighs or, linear first, resets; then the gradient by that
}

// recurrentGradient computes the layer once more, one direction after the
// other, and goes back through the steps of each before the next (Werbos 1990,
// "Backpropagation Through Time"). What concerns weights and inputs are
// products over all steps, when all of them are done.
type recurrentGradient[T simd.Float] struct {
	*recurrent[T]
	ofGRU, ofLSTM bool
	backward      []func() error // the stages of a step

	byState, byCell []T // [batch, hidden]: the gradients by the states behind the step in progress, then before it
	delta           []T // [batch, gates·hidden]: those by what enters the gates' activations, or reaches them from the state
}

func bindRecurrentGradient[T simd.Float](d *Device, c *device.Call, n *op.Node) (func() error, error) {
	r, err := newRecurrent[T](d, c, n)
	if err != nil {
		return nil, err
	}
	if r.batch*r.hidden == 0 {
		return func() error { return clearAll(c.Out) }, nil
	}
	r.trace = &recurrentTrace[T]{}
	g := &recurrentGradient[T]{recurrent: r, ofGRU: op.RecurrentCell(n) == "GRU", ofLSTM: op.RecurrentCell(n) == "LSTM"}
	weighDelta, add := g.weighDelta(0, r.stateGates), r.each(g.addWeighed)
	switch {
	case g.ofLSTM:
		g.backward = []func() error{r.each(g.backLSTM), weighDelta, add}
	case g.ofGRU && !r.linearFirst:
		g.backward = []func() error{r.each(g.backUpdate), g.weighDelta(2, 1), r.each(g.backReset), weighDelta, add}
	case g.ofGRU:
		g.backward = []func() error{r.each(g.backUpdate), weighDelta, add}
	default:
		g.backward = []func() error{r.each(g.backRNN), weighDelta, add}
	}
	var parts scratchParts
	g.lay(&parts)
	used := sizeIn[T](parts.used)
	reserve[T](c.Scratch, used)
	for _, w := range r.weights {
		r.bindWeights(w, used)
	}
	return g.bind(r.weighInputs(used), g.products(used)), nil
}

func (g *recurrentGradient[T]) lay(parts *scratchParts) {
	g.recurrent.lay(parts)
	states, kept := g.batch*g.hidden, len(g.backwards)*g.rows()*g.hidden
	g.trace.slopes, g.trace.states = part[T](parts, g.rows()*g.width()), part[T](parts, kept)
	if g.ofLSTM {
		g.trace.cells = part[T](parts, kept)
	}
	if g.ofGRU {
		g.trace.resets = part[T](parts, kept)
	}
	g.byState, g.byCell = part[T](parts, states), part[T](parts, states)
	g.delta = part[T](parts, g.gates*states)
}

func (g *recurrentGradient[T]) bind(weighInputs func() error, products []func() error) func() error {
	sumBias, sumPeepholes := g.sumBias, g.sumPeepholes
	blocks := len(g.backwards) * ceilDiv(g.hidden, sumColumns)
	grain := max(1, 1<<14/max(1, g.rows()*sumColumns))
	return func() error {
		if err := g.checkLengths(); err != nil {
			return err
		}
		g.lay(&scratchParts{memory: g.call.Scratch.Bytes()})
		for _, kept := range [][]T{g.trace.slopes, g.trace.states, g.trace.cells, g.trace.resets, g.delta} {
			clear(kept)
		}
		if err := weighInputs(); err != nil {
			return err
		}
		for direction := range g.backwards {
			if err := g.pass(direction); err != nil {
				return err
			}
			if err := g.passBack(); err != nil {
				return err
			}
		}
		for _, p := range products {
			if err := p(); err != nil {
				return err
			}
		}
		if at(g.call.Out, 3) != nil {
			g.device.pool.run(blocks*g.gates, grain, sumBias)
		}
		if at(g.call.Out, 7) != nil {
			g.device.pool.run(blocks, grain, sumPeepholes)
		}
		return nil
	}
}

// keep stores what an element of the state is before a step.
func (r *recurrent[T]) keep(p recurrentPlace) {
	if t := r.trace; t != nil {
		t.states[p.kept] = r.state[p.state]
		if t.cells != nil {
			t.cells[p.kept] = r.cell[p.state]
		}
	}
}

// weighDelta makes the stage that multiplies the gradients of some gates with
// R, to what the state before the step gets of them.
func (g *recurrentGradient[T]) weighDelta(first, gates int) func() error {
	n := g.hidden
	return g.withWeights(&stateWeights[T]{first: first * n, rows: gates * n, load: func() (_, _ []T) { return g.weighed, g.delta[first*n:] },
		product: product[T]{a: strided(g.batch, gates*n, g.gates*n, 1), b: strided(gates*n, n, n, 1)}})
}

// passBack goes back through the steps of the direction in progress.
func (g *recurrentGradient[T]) passBack() error {
	g.loadStates(op.RecurrentGradientInput+1, g.byState)
	g.loadStates(op.RecurrentGradientInput+2, g.byCell)
	for i := g.length - 1; i >= 0; i-- {
		g.locate(i)
		if y := at(g.call.In, op.RecurrentGradientInput); y != nil {
			for b, step := range g.now {
				if step >= 0 {
					addTo(g.byState[b*g.hidden:][:g.hidden], g.stepOf(y, b, int(step)))
				}
			}
		}
		for _, stage := range g.backward {
			if err := stage(); err != nil {
				return err
			}
		}
	}
	for i, by := range [][]T{g.byState, g.byCell} {
		if out := at(g.call.Out, 5+i); out != nil {
			for b := range g.batch {
				copy(g.stateOf(out, b), by[b*g.hidden:])
			}
		}
	}
	return nil
}

// value returns the value of a gate.
func (g *recurrentGradient[T]) value(p recurrentPlace, gate int) float64 {
	return float64(g.values[p.gate+gate*g.hidden])
}

// throughGate returns the gradient by what enters a gate's activation from that
// by its value, and keeps it.
func (g *recurrentGradient[T]) throughGate(p recurrentPlace, gate int, by float64) float64 {
	i := gate * g.hidden
	by *= float64(g.trace.slopes[p.gate+i])
	g.trace.slopes[p.gate+i], g.delta[p.delta+i] = T(by), T(by)
	return by
}

// addWeighed adds what the state before the step gets from the gates.
func (g *recurrentGradient[T]) addWeighed(p recurrentPlace) {
	g.byState[p.state] += g.weighed[p.state]
}

func (g *recurrentGradient[T]) backRNN(p recurrentPlace) {
	g.throughGate(p, 0, float64(g.byState[p.state]))
	g.byState[p.state] = 0
}

func (g *recurrentGradient[T]) backLSTM(p recurrentPlace) {
	n, byState, byCell := g.hidden, float64(g.byState[p.state]), float64(g.byCell[p.state])
	input, output, candidate := g.value(p, 0), g.value(p, 1), g.value(p, 3)
	old, forget := float64(g.trace.cells[p.kept]), g.forget(p)
	c := forget*old + input*candidate
	y := g.f[2].value(c)
	byOutput := g.throughGate(p, 1, byState*y)
	byCell += byState*output*g.f[2].slope(c, y) + byOutput*term(g.peepholes, n+p.j)
	byInput, byForget := byCell*candidate, byCell*old
	if g.coupled {
		byInput, byForget = byInput-byForget, 0
	}
	byInput, byForget = g.throughGate(p, 0, byInput), g.throughGate(p, 2, byForget)
	g.throughGate(p, 3, byCell*input)
	g.byCell[p.state] = T(byCell*forget + byInput*term(g.peepholes, p.j) + byForget*term(g.peepholes, 2*n+p.j))
	g.byState[p.state] = 0
}

// forget returns the value of LSTM's forget gate.
func (g *recurrentGradient[T]) forget(p recurrentPlace) float64 {
	if g.coupled {
		return 1 - g.value(p, 0)
	}
	return g.value(p, 2)
}

// backUpdate is the way back through gruUpdate and, linear first, gruReset.
func (g *recurrentGradient[T]) backUpdate(p recurrentPlace) {
	by, update, i := float64(g.byState[p.state]), g.value(p, 0), 2*g.hidden
	g.throughGate(p, 0, by*(float64(g.trace.states[p.kept])-g.value(p, 2)))
	byHidden := g.throughGate(p, 2, by*(1-update))
	g.byState[p.state] = T(by * update)
	if g.linearFirst {
		reset := byHidden * g.value(p, 1)
		g.throughGate(p, 1, byHidden*float64(g.trace.resets[p.kept]))
		g.trace.resets[p.kept], g.delta[p.delta+i] = T(reset), T(reset)
	}
}

// backReset is the way back through gruReset from the gradient by what it lets
// through.
func (g *recurrentGradient[T]) backReset(p recurrentPlace) {
	by := float64(g.weighed[p.state])
	g.byState[p.state] += T(by * g.value(p, 1))
	g.throughGate(p, 1, by*float64(g.trace.states[p.kept]))
}

// products plans those over all steps: the gradients of X, W and R, as far as
// they are wanted.
func (g *recurrentGradient[T]) products(used int) (list []func() error) {
	rows, width, n := g.rows(), g.width(), g.hidden
	x, w, r := at(g.call.Out, 0), at(g.call.Out, 1), at(g.call.Out, 2)
	add := func(a, b stack, load func() (c, a, b []T)) {
		p := &product[T]{a: a, b: b, used: used}
		list = append(list, p.bind(g.device, g.call.Scratch, load))
	}
	if x != nil {
		add(strided(rows, width, width, 1), strided(width, g.input, g.input, 1), func() (_, _, _ []T) {
			return tensor.Of[T](x), g.trace.slopes, tensor.Of[T](g.call.In[1])
		})
	}
	if w != nil {
		add(strided(width, rows, 1, width), strided(rows, g.input, g.input, 1), func() (_, _, _ []T) {
			return tensor.Of[T](w), g.trace.slopes, tensor.Of[T](g.call.In[0])
		})
	}
	if r == nil {
		return list
	}
	for direction := range g.backwards {
		first, kept := direction*g.gates*n, direction*rows*n
		// weigh adds the product for the gates from one on.
		weigh := func(gate int, by stack, of, weighed *[]T) {
			add(by, strided(rows, n, n, 1).from(kept), func() (_, _, _ []T) {
				return tensor.Of[T](r)[(first+gate*n)*n:], *of, *weighed
			})
		}
		slopes := func(gate, gates int) stack { return strided(gates*n, rows, 1, width).from(first + gate*n) }
		t := g.trace
		switch {
		case !g.ofGRU:
			weigh(0, slopes(0, g.gates), &t.slopes, &t.states)
		case g.linearFirst:
			weigh(0, slopes(0, 2), &t.slopes, &t.states)
			weigh(2, strided(n, rows, 1, n).from(kept), &t.resets, &t.states)
		default:
			weigh(0, slopes(0, 2), &t.slopes, &t.states)
			weigh(2, slopes(2, 1), &t.slopes, &t.resets)
		}
	}
	return list
}

// sumColumns is how many columns are summed at a time.
const sumColumns = 64

// columns returns the direction of a block and which elements of a state it
// has.
func (g *recurrentGradient[T]) columns(block int) (direction, from, to int) {
	across := ceilDiv(g.hidden, sumColumns)
	from = block % across * sumColumns
	return block / across, from, min(from+sumColumns, g.hidden)
}

// sumBias computes the gradients of the biases of some blocks of a gate.
func (g *recurrentGradient[T]) sumBias(lo, hi int) {
	out, n := tensor.Of[T](g.call.Out[3]), g.hidden
	for ; lo < hi; lo++ {
		direction, from, to := g.columns(lo / g.gates)
		gate := lo % g.gates
		i := (direction*2*g.gates + gate) * n
		ofInput, ofState := out[i+from:i+to], out[i+g.gates*n+from:i+g.gates*n+to]
		columnSums(ofInput, g.trace.slopes, (direction*g.gates+gate)*n+from, g.rows(), g.width())
		if g.ofGRU && g.linearFirst && gate == 2 {
			columnSums(ofState, g.trace.resets, direction*g.rows()*n+from, g.rows(), n)
		} else {
			copy(ofState, ofInput)
		}
	}
}

// columnSums writes the sums over a number of rows, which begin at start and
// lie stride apart, to out.
func columnSums[T simd.Float](out, matrix []T, start, rows, stride int) {
	var sums [sumColumns]float64
	for row := range rows {
		for j, x := range matrix[start+row*stride:][:len(out)] {
			sums[j] += float64(x)
		}
	}
	for j := range out {
		out[j] = T(sums[j])
	}
}

// sumPeepholes computes the gradients of the peepholes of some blocks.
func (g *recurrentGradient[T]) sumPeepholes(lo, hi int) {
	out, n := tensor.Of[T](g.call.Out[7]), g.hidden
	for ; lo < hi; lo++ {
		direction, from, to := g.columns(lo)
		var sums [3][sumColumns]float64
		for row := range g.rows() {
			for j := from; j < to; j++ {
				p := recurrentPlace{gate: (row*len(g.backwards)+direction)*g.gates*n + j, kept: (direction*g.rows()+row)*n + j}
				old := float64(g.trace.cells[p.kept])
				c := g.forget(p)*old + g.value(p, 0)*g.value(p, 3)
				for i, x := range [3]float64{old, c, old} { // what the gates input, output and forget see
					sums[i][j-from] += x * float64(g.trace.slopes[p.gate+i*n])
				}
			}
		}
		for i := range sums {
			for j := from; j < to; j++ {
				out[(direction*3+i)*n+j] = T(sums[i][j-from])
			}
		}
	}
}
