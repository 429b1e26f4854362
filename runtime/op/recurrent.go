package op

import (
	"fmt"
	"strings"

	"github.com/fmoe-go/fmoe/onnx"
)

// The recurrent layers of ONNX 7, 14 (which adds layout) and 22: X, W, R, B?,
// sequence_lens?, initial_h?, and of LSTM initial_c? and the peepholes P?.
func init() {
	attributes := []string{"activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size", "layout"}
	versions := []int{7, 14, 22}
	Register(
		Operator{Name: "RNN", Since: versions, Inputs: Between(3, 6), Outputs: Between(0, 2), Attributes: attributes, Infer: inferRecurrent},
		Operator{Name: "GRU", Since: versions, Inputs: Between(3, 6), Outputs: Between(0, 2),
			Attributes: append([]string{"linear_before_reset"}, attributes...), Infer: inferRecurrent},
		Operator{Name: "LSTM", Since: versions, Inputs: Between(3, 8), Outputs: Between(0, 3),
			Attributes: append([]string{"input_forget"}, attributes...), Infer: inferRecurrent},
	)
}

// RecurrentGates returns how many gates a recurrent node has, each with its
// rows in the weights, and the default activations of one direction.
func RecurrentGates(n *Node) (gates int, activations []string) {
	switch n.OpType {
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
	t, err := c.typeAmong(floatTypes, 0, 1, 2, 3, 5, 6, 7)
	if err != nil {
		return err
	}
	if _, err := c.typeAmong([]onnx.DataType{onnx.Int32}, 4); err != nil {
		return err
	}
	if c.Node.Since < 14 {
		if err := c.unwanted("layout"); err != nil {
			return err
		}
	}
	s, err := RecurrentDims(c)
	if err != nil {
		return err
	}
	list, err := RecurrentDirections(c.Node)
	if err != nil {
		return err
	}
	directions := Dim(len(list))
	all, last := []Dim{s.Length, directions, s.Batch, s.Hidden}, []Dim{directions, s.Batch, s.Hidden}
	if c.Node.Int("layout", 0) != 0 {
		all, last = []Dim{s.Batch, s.Length, directions, s.Hidden}, []Dim{s.Batch, directions, s.Hidden}
	}
	c.Set(0, t, all)
	c.Set(1, t, last)
	c.Set(2, t, last)
	return nil
}
