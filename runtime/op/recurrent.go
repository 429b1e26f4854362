package op

import (
	"fmt"
	"slices"
	"strings"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

// The recurrent layers of ONNX 7, 14 (which adds layout) and 22: X, W, R, B?,
// sequence_lens?, initial_h?, and of LSTM initial_c? and the peepholes P?.
func init() {
	attributes := []string{"activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size", "layout"}
	for _, o := range []struct {
		name            string
		inputs, outputs int
		own             []string // attributes
	}{
		{"RNN", 6, 2, nil},
		{"GRU", 6, 2, []string{"linear_before_reset"}},
		{"LSTM", 8, 3, []string{"input_forget"}},
	} {
		all := slices.Concat(o.own, attributes)
		Register(
			Operator{Name: o.name, Since: []int{7, 14, 22}, Inputs: Between(3, o.inputs), Outputs: Between(0, o.outputs),
				Attributes: all, Infer: inferRecurrent, Gradient: recurrentGradient},

			// What gradients are made of: from the inputs of a layer, in their
			// places, and the gradients of its outputs from
			// RecurrentGradientInput on, absent where they are zero, the
			// gradient of input i as output i. sequence_lens has none.
			Operator{Domain: moe.Domain, Name: o.name + recurrentGradientSuffix, Since: []int{1},
				Inputs: Between(3, RecurrentGradientInput+o.outputs), Outputs: Between(0, o.inputs),
				Attributes: all, Infer: inferRecurrentGradient},
		)
	}
}

// RecurrentGradientInput is the input of RNNGradient, GRUGradient and
// LSTMGradient that is the gradient of the layer's output 0; those of the
// others follow. Inputs 6 and 7 are LSTM's alone.
const RecurrentGradientInput = 8

const recurrentGradientSuffix = "Gradient"

// RecurrentCell returns what a recurrent node or its gradient computes: RNN,
// GRU or LSTM.
func RecurrentCell(n *Node) string { return strings.TrimSuffix(n.OpType, recurrentGradientSuffix) }

// RecurrentGates returns how many gates a recurrent node has, each with its
// rows in the weights, and the default activations of one direction.
func RecurrentGates(n *Node) (gates int, activations []string) {
	switch RecurrentCell(n) {
	case "LSTM":
		return 4, []string{"Sigmoid", "Tanh", "Tanh"}
	case "GRU":
		return 3, []string{"Sigmoid", "Tanh"}
	}
	return 1, []string{"Tanh"}
}

// RecurrentDirections returns for each direction of a recurrent node whether
// it goes backwards.
func RecurrentDirections(n *Node) ([]bool, error) {
	switch d := strings.ToLower(n.String("direction", "forward")); d {
	case "forward":
		return []bool{false}, nil
	case "reverse":
		return []bool{true}, nil
	case "bidirectional":
		return []bool{false, true}, nil
	default:
		return nil, fmt.Errorf("direction %q is not known", d)
	}
}

// RecurrentShape has the dimensions of a recurrent layer.
type RecurrentShape struct {
	Length, Batch, Input, Hidden Dim
}

// RecurrentDims returns the dimensions of a recurrent node, as far as they are
// known.
func RecurrentDims(c *Inference) (*RecurrentShape, error) {
	s := &RecurrentShape{c.Fresh(), c.Fresh(), c.Fresh(), c.Fresh()}
	if hidden := c.Node.Int("hidden_size", 0); hidden < 0 || hidden > 1<<40 {
		return nil, fmt.Errorf("hidden_size is %d", hidden)
	} else if hidden > 0 {
		s.Hidden = Dim(hidden)
	}
	list, err := RecurrentDirections(c.Node)
	if err != nil {
		return nil, err
	}
	directions := Dim(len(list))
	gates, _ := RecurrentGates(c.Node)
	first, second := &s.Length, &s.Batch
	if c.Node.Int("layout", 0) != 0 {
		first, second = second, first
	}
	if err := unifyAll("X", c.Shape(0), first, second, &s.Input); err != nil {
		return nil, err
	}
	rows := c.Fresh()
	if err := unifyAll("R", c.Shape(2), &directions, &rows, &s.Hidden); err != nil {
		return nil, err
	}
	if s.Hidden.Known() {
		rows = c.Mul(s.Hidden, Dim(gates))
	}
	state := []Dim{directions, s.Batch, s.Hidden}
	if c.Node.Int("layout", 0) != 0 {
		state = []Dim{s.Batch, directions, s.Hidden}
	}
	for _, w := range []struct {
		input int
		shape []Dim
	}{
		{1, []Dim{directions, rows, s.Input}}, {2, []Dim{directions, rows, s.Hidden}}, {3, []Dim{directions, c.twice(rows)}},
		{4, []Dim{s.Batch}}, {5, state}, {6, state}, {7, []Dim{directions, c.Mul(s.Hidden, 3)}},
	} {
		if err := c.wantShape(w.input, w.shape...); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (c *Inference) twice(d Dim) Dim { return c.Mul(d, 2) }

func inferRecurrent(c *Inference) error {
	if c.Node.Since < 14 {
		if err := c.unwanted("layout"); err != nil {
			return err
		}
	}
	t, all, last, err := c.recurrentOutputs(0, 1, 2, 3, 5, 6, 7)
	if err != nil {
		return err
	}
	c.Set(0, t, all)
	c.Set(1, t, last)
	c.Set(2, t, last)
	return nil
}

// recurrentOutputs returns the type of the given inputs, and the shapes of a
// recurrent node's output 0 and of the others.
func (c *Inference) recurrentOutputs(inputs ...int) (t onnx.DataType, all, last []Dim, err error) {
	if t, err = c.typeAmong(floatTypes, inputs...); err != nil {
		return t, nil, nil, err
	}
	if _, err := c.typeAmong([]onnx.DataType{onnx.Int32}, 4); err != nil {
		return t, nil, nil, err
	}
	s, err := RecurrentDims(c)
	if err != nil {
		return t, nil, nil, err
	}
	list, err := RecurrentDirections(c.Node)
	if err != nil {
		return t, nil, nil, err
	}
	directions := Dim(len(list))
	if c.Node.Int("layout", 0) != 0 {
		return t, []Dim{s.Batch, s.Length, directions, s.Hidden}, []Dim{s.Batch, directions, s.Hidden}, nil
	}
	return t, []Dim{s.Length, directions, s.Batch, s.Hidden}, []Dim{directions, s.Batch, s.Hidden}, nil
}

func inferRecurrentGradient(c *Inference) error {
	if RecurrentCell(c.Node) != "LSTM" {
		for _, i := range []int{6, 7} {
			if c.Has(i) {
				return fmt.Errorf("input %d belongs to a cell, which only LSTM has", i)
			}
		}
	}
	const y, h, cell = RecurrentGradientInput, RecurrentGradientInput + 1, RecurrentGradientInput + 2
	t, all, last, err := c.recurrentOutputs(0, 1, 2, 3, 5, 6, 7, y, h, cell)
	if err != nil {
		return err
	}
	if err := c.wantShape(y, all...); err != nil {
		return err
	}
	for _, i := range []int{h, cell} {
		if err := c.wantShape(i, last...); err != nil {
			return err
		}
	}
	for i := range RecurrentGradientInput {
		if c.Has(i) && i != 4 {
			c.Set(i, t, c.Shape(i))
		}
	}
	return nil
}

// recurrentGradient adds one node for the gradients of all inputs.
func recurrentGradient(b *Backward) {
	inputs := make([]Value, RecurrentGradientInput, RecurrentGradientInput+3)
	for i := range inputs {
		inputs[i] = b.Input(i)
	}
	for i := range b.Outputs {
		inputs = append(inputs, b.Gradient(i))
	}
	n := &onnx.Node{Domain: moe.Domain, OpType: b.Node.OpType + recurrentGradientSuffix, Attributes: b.Node.Attributes}
	for i, g := range b.AddMany(n, len(b.Inputs), inputs...) {
		if b.Wants(i) {
			b.Set(i, g)
		}
	}
}
