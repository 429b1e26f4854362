package cpu

import (
	"fmt"
	"math"
	"strings"

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

// recurrentActivations makes the activations of recurrent layers from alpha
// and beta, whose defaults stand beside.
var recurrentActivations = map[string]struct {
	alpha, beta float32
	parameters  int // how many of alpha and beta it takes
	make        func(alpha, beta float64) func(x float64) float64
}{
	"relu": {make: func(_, _ float64) func(float64) float64 {
		return func(x float64) float64 { return max(x, 0) }
	}},
	"tanh": {make: func(_, _ float64) func(float64) float64 { return math.Tanh }},
	"sigmoid": {make: func(_, _ float64) func(float64) float64 {
		return func(x float64) float64 { return 1 / (1 + math.Exp(-x)) }
	}},
	"affine": {1, 0, 2, func(alpha, beta float64) func(float64) float64 {
		return func(x float64) float64 { return alpha*x + beta }
	}},
	"leakyrelu": {0.01, 0, 1, func(alpha, _ float64) func(float64) float64 {
		return func(x float64) float64 { return max(x, 0) + alpha*min(x, 0) }
	}},
	"thresholdedrelu": {1, 0, 1, func(alpha, _ float64) func(float64) float64 {
		return func(x float64) float64 {
			if x < alpha {
				return 0
			}
			return x
		}
	}},
	"scaledtanh": {1, 1, 2, func(alpha, beta float64) func(float64) float64 {
		return func(x float64) float64 { return alpha * math.Tanh(beta*x) }
	}},
	"hardsigmoid": {0.2, 0.5, 2, func(alpha, beta float64) func(float64) float64 {
		return func(x float64) float64 { return min(max(alpha*x+beta, 0), 1) }
	}},
	"elu": {1, 0, 1, func(alpha, _ float64) func(float64) float64 {
		return func(x float64) float64 { return max(x, 0) + alpha*math.Expm1(min(x, 0)) }
	}},
	"softsign": {make: func(_, _ float64) func(float64) float64 {
		return func(x float64) float64 { return x / (1 + math.Abs(x)) }
	}},
	"softplus": {make: func(_, _ float64) func(float64) float64 {
		return func(x float64) float64 { return max(x, 0) + math.Log1p(math.Exp(-math.Abs(x))) }
	}},
}

// readActivations returns the activations of all directions of a node. Each
// takes alphas and betas from the front of their lists as it needs them.
func readActivations(n *op.Node, directions int) ([]func(float64) float64, error) {
	_, defaults := op.RecurrentGates(n)
	var names []string
	if a := n.Attribute("activations"); a != nil {
		for _, name := range a.Strings {
			names = append(names, string(name))
		}
	} else {
		for range directions {
			names = append(names, defaults...)
		}
	}
	if len(names) != len(defaults)*directions {
		return nil, fmt.Errorf("activations are %q, needs %d", names, len(defaults)*directions)
	}
	lists := map[string][]float32{}
	for _, list := range []string{"activation_alpha", "activation_beta"} {
		if a := n.Attribute(list); a != nil {
			lists[list] = a.Floats
		}
	}
	next := func(list string, needed bool, value float32) float64 {
		if needed && len(lists[list]) > 0 {
			value, lists[list] = lists[list][0], lists[list][1:]
		}
		return float64(value)
	}
	functions := make([]func(float64) float64, len(names))
	for i, name := range names {
		a, known := recurrentActivations[strings.ToLower(name)]
		if !known {
			return nil, fmt.Errorf("activation %q is %w", name, device.ErrUnsupported)
		}
		functions[i] = a.make(next("activation_alpha", a.parameters > 0, a.alpha), next("activation_beta", a.parameters > 1, a.beta))
	}
	return functions, nil
}

// recurrent is a layer bound to its tensors. States and gates of all batches
// are matrices of batch rows.
type recurrent[T simd.Float] struct {
	call                  *device.Call
	length, batch, hidden int
	directions            int
	batchFirst            bool
	clip                  float64

	// inputs holds the products of weights and inputs at all steps, products
	// those of weights and the state; reset is GRU's gated state.
	inputs, products, reset *tensor.Tensor
	state, cell             *tensor.Tensor
}

func bindRecurrent[T simd.Float](d *Device, c *device.Call, n *op.Node) (func() error, error) {
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
	gates, defaults := op.RecurrentGates(n)
	r := &recurrent[T]{call: c, length: int(shape.Length), batch: int(shape.Batch), hidden: int(shape.Hidden),
		directions: len(backwards), batchFirst: n.Int("layout", 0) != 0, clip: float64(n.Float("clip", float32(math.Inf(1))))}
	rows, input := gates*r.hidden, int(shape.Input)
	matrix := func(rows, cols int) *tensor.Tensor { return tensor.New(c.In[0].Type, rows, cols) }
	r.inputs, r.products = matrix(r.length*r.batch, rows), matrix(r.batch, rows)
	r.state, r.cell, r.reset = matrix(r.batch, r.hidden), matrix(r.batch, r.hidden), matrix(r.batch, r.hidden)

	// weigh plans out = x·Wᵀ, where W is some rows of a direction's weights.
	weigh := func(out, x, w *tensor.Tensor, depth, start, count, direction int) func() error {
		p := &product[T]{a: newStack([]int{x.Shape[0], depth}, []int{0, 1}, []int{}), b: newStack([]int{count, depth}, []int{1, 0}, []int{})}
		return p.bind(d, c.Scratch, func() (_, _, _ []T) {
			return tensor.Of[T](out), tensor.Of[T](x), tensor.Of[T](w)[(direction*rows+start)*depth:]
		})
	}
	flat := *c.In[0] // all steps of all batches as rows
	flat.Shape = []int{r.length * r.batch, input}
	candidate := matrix(r.batch, r.hidden)
	var passes []func() error
	for i, backward := range backwards {
		fromInput := func() error { flat.Data = c.In[0].Data; return nil }
		products := weigh(r.inputs, &flat, c.In[1], input, 0, rows, i)
		weighState := weigh(r.products, r.state, c.In[2], r.hidden, 0, rows, i)
		weighReset := weigh(candidate, r.reset, c.In[2], r.hidden, 2*r.hidden, r.hidden, i)
		f := activations[i*len(defaults):][:len(defaults)]
		var step func(t []int) error
		switch n.OpType {
		case "LSTM":
			step = r.lstm(i, f, weighState, n.Int("input_forget", 0) != 0)
		case "GRU":
			step = r.gru(i, f, weighState, weighReset, candidate, n.Int("linear_before_reset", 0) != 0)
		default:
			step = r.rnn(i, f, weighState)
		}
		now := make([]int, r.batch)
		passes = append(passes, fromInput, products, func() error { return r.pass(i, backward, now, step) })
	}
	return func() error {
		if y := at(c.Out, 0); y != nil {
			clear(y.Data)
		}
		if r.batch*r.hidden == 0 {
			return nil
		}
		for _, p := range passes {
			if err := p(); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

// stateAt returns a direction's line of a tensor of states [directions, batch,
// hidden], or with batches first.
func (r *recurrent[T]) stateAt(t *tensor.Tensor, direction, b int) []T {
	line := direction*r.batch + b
	if r.batchFirst {
		line = b*r.directions + direction
	}
	return tensor.Of[T](t)[line*r.hidden:][:r.hidden]
}

// row returns which row of inputs has a step of a batch.
func (r *recurrent[T]) row(step, b int) int {
	if r.batchFirst {
		return b*r.length + step
	}
	return step*r.batch + b
}

// pass runs one direction. now has for each batch the step that it takes, or a
// negative number when its sequence is over.
func (r *recurrent[T]) pass(direction int, backward bool, now []int, step func(now []int) error) error {
	for _, s := range []struct {
		state *tensor.Tensor
		input int
	}{{r.state, 5}, {r.cell, 6}} {
		clear(s.state.Data)
		if initial := at(r.call.In, s.input); initial != nil {
			for b := range r.batch {
				copy(tensor.Of[T](s.state)[b*r.hidden:], r.stateAt(initial, direction, b))
			}
		}
	}
	for i := range r.length {
		for b := range now {
			length := r.length
			if lengths := at(r.call.In, 4); lengths != nil {
				length = int(tensor.Of[int32](lengths)[b])
				if length < 0 || length > r.length {
					return fmt.Errorf("sequence_lens has %d for sequences of %d", length, r.length)
				}
			}
			switch {
			case i >= length:
				now[b] = -1
			case backward:
				now[b] = length - 1 - i
			default:
				now[b] = i
			}
		}
		if err := step(now); err != nil {
			return err
		}
		r.record(direction, now)
	}
	for i, state := range []*tensor.Tensor{r.state, r.cell} {
		if out := at(r.call.Out, i+1); out != nil {
			for b := range r.batch {
				copy(r.stateAt(out, direction, b), tensor.Of[T](state)[b*r.hidden:])
			}
		}
	}
	return nil
}

// record stores the states of a step in output 0.
func (r *recurrent[T]) record(direction int, now []int) {
	y := at(r.call.Out, 0)
	if y == nil {
		return
	}
	for b, step := range now {
		if step < 0 {
			continue
		}
		line := (step*r.directions+direction)*r.batch + b
		if r.batchFirst {
			line = (b*r.length+step)*r.directions + direction
		}
		copy(tensor.Of[T](y)[line*r.hidden:], tensor.Of[T](r.state)[b*r.hidden:][:r.hidden])
	}
}

// biasAt returns the biases of all gates, those of the input or of the state.
func (r *recurrent[T]) biasAt(direction, gates int, ofState bool) []T {
	bias := at(r.call.In, 3)
	if bias == nil {
		return nil
	}
	size := gates * r.hidden
	start := direction * 2 * size
	if ofState {
		start += size
	}
	return tensor.Of[T](bias)[start:][:size]
}

// term returns element i of a list that may be missing.
func term[T simd.Float](list []T, i int) float64 {
	if list == nil {
		return 0
	}
	return float64(list[i])
}

func (r *recurrent[T]) clipped(x float64) float64 { return max(-r.clip, min(r.clip, x)) }

// advance weighs the state and calls body for every element of the state of
// each batch that has a step to take.
func (r *recurrent[T]) advance(now []int, gates int, weigh func() error, body func(b, j int, inputs, products []T)) error {
	if err := weigh(); err != nil {
		return err
	}
	size := gates * r.hidden
	inputs, products := tensor.Of[T](r.inputs), tensor.Of[T](r.products)
	for b, step := range now {
		if step < 0 {
			continue
		}
		x, h := inputs[r.row(step, b)*size:][:size], products[b*size:][:size]
		for j := range r.hidden {
			body(b, j, x, h)
		}
	}
	return nil
}

func (r *recurrent[T]) rnn(direction int, f []func(float64) float64, weigh func() error) func(now []int) error {
	var wb, rb []T
	body := func(b, j int, x, h []T) {
		sum := float64(x[j]) + float64(h[j]) + term(wb, j) + term(rb, j)
		tensor.Of[T](r.state)[b*r.hidden+j] = T(f[0](r.clipped(sum)))
	}
	return func(now []int) error {
		wb, rb = r.biasAt(direction, 1, false), r.biasAt(direction, 1, true)
		return r.advance(now, 1, weigh, body)
	}
}

// lstm has the gates input, output, forget and cell.
func (r *recurrent[T]) lstm(direction int, f []func(float64) float64, weigh func() error, coupled bool) func(now []int) error {
	var wb, rb, peepholes []T
	body := func(b, j int, x, h []T) {
		n := r.hidden
		state, cell := &tensor.Of[T](r.state)[b*n+j], &tensor.Of[T](r.cell)[b*n+j]
		gate := func(i int) float64 {
			return float64(x[i*n+j]) + float64(h[i*n+j]) + term(wb, i*n+j) + term(rb, i*n+j)
		}
		old := float64(*cell)
		input := f[0](r.clipped(gate(0) + term(peepholes, j)*old))
		forget := 1 - input
		if !coupled {
			forget = f[0](r.clipped(gate(2) + term(peepholes, 2*n+j)*old))
		}
		c := forget*old + input*f[1](r.clipped(gate(3)))
		output := f[0](r.clipped(gate(1) + term(peepholes, n+j)*c))
		*cell, *state = T(c), T(output*f[2](c))
	}
	return func(now []int) error {
		wb, rb = r.biasAt(direction, 4, false), r.biasAt(direction, 4, true)
		if len(r.call.In) > 7 && r.call.In[7] != nil {
			peepholes = tensor.Of[T](r.call.In[7])[direction*3*r.hidden:]
		}
		return r.advance(now, 4, weigh, body)
	}
}

// gru has the gates update, reset and hidden. The hidden gate weighs the reset
// state or, linear first, resets the weighed state.
func (r *recurrent[T]) gru(direction int, f []func(float64) float64, weigh, weighReset func() error, candidate *tensor.Tensor, linearFirst bool) func(now []int) error {
	n := r.hidden
	var wb, rb []T
	gate := func(i, j int, x, h []T) float64 {
		return float64(x[i*n+j]) + float64(h[i*n+j]) + term(wb, i*n+j) + term(rb, i*n+j)
	}
	reset := func(b, j int, x, h []T) {
		gated := f[0](r.clipped(gate(1, j, x, h)))
		if linearFirst {
			gated *= float64(h[2*n+j]) + term(rb, 2*n+j)
		} else {
			gated *= float64(tensor.Of[T](r.state)[b*n+j])
		}
		tensor.Of[T](r.reset)[b*n+j] = T(gated)
	}
	update := func(b, j int, x, h []T) {
		state := &tensor.Of[T](r.state)[b*n+j]
		hidden := float64(x[2*n+j]) + term(wb, 2*n+j)
		if linearFirst {
			hidden += float64(tensor.Of[T](r.reset)[b*n+j])
		} else {
			hidden += float64(tensor.Of[T](candidate)[b*n+j]) + term(rb, 2*n+j)
		}
		z := f[0](r.clipped(gate(0, j, x, h)))
		*state = T((1-z)*f[1](r.clipped(hidden)) + z*float64(*state))
	}
	weighed := func() error {
		if linearFirst {
			return nil
		}
		return weighReset()
	}
	return func(now []int) error {
		wb, rb = r.biasAt(direction, 3, false), r.biasAt(direction, 3, true)
		if err := r.advance(now, 3, weigh, reset); err != nil {
			return err
		}
		return r.advance(now, 3, weighed, update)
	}
}
