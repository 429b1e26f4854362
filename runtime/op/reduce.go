package op

import (
	"fmt"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
)

// The reductions of ONNX. They differ in what they compute and in the version
// that turned the attribute "axes" into input 1: 13 for ReduceSum, 18 for the
// others.
func init() {
	for _, o := range []struct {
		name  string
		since []int
	}{
		{"ReduceSum", []int{1, 11, 13}},
		{"ReduceMean", []int{1, 11, 13, 18}},
		{"ReduceMax", []int{1, 11, 12, 13, 18, 20}},
		{"ReduceMin", []int{1, 11, 12, 13, 18, 20}},
		{"ReduceProd", []int{1, 11, 13, 18}},
		{"ReduceL1", []int{1, 11, 13, 18}},
		{"ReduceL2", []int{1, 11, 13, 18}},
		{"ReduceLogSum", []int{1, 11, 13, 18, 28}},
		{"ReduceLogSumExp", []int{1, 11, 13, 18, 28}},
		{"ReduceSumSquare", []int{1, 11, 13, 18}},
	} {
		Register(Operator{Name: o.name, Since: o.since, Inputs: Between(1, 2), Outputs: Exactly(1),
			Attributes: []string{"axes", "keepdims", "noop_with_empty_axes"}, Parameters: []int{1}, Infer: inferReduce})
	}
}

// ReduceAxes returns the axes that a reduction node removes from a tensor of
// the given rank, ascending. given is the list that the node has as attribute
// or input; an empty one means all axes, or none with noop_with_empty_axes.
func ReduceAxes(n *Node, given []int64, rank int) ([]int, error) {
	if len(given) > 0 {
		return Axes(given, rank)
	}
	if n.Int("noop_with_empty_axes", 0) != 0 {
		return nil, nil
	}
	all := make([]int, rank)
	for i := range all {
		all[i] = i
	}
	return all, nil
}

func inferReduce(c *Inference) error {
	n := c.Node
	axesInput := 18
	if n.OpType == "ReduceSum" {
		axesInput = 13
	}
	switch {
	case n.Since >= axesInput && n.Attribute("axes") != nil:
		return fmt.Errorf("has axes as an attribute, which version %d takes as input 1", n.Since)
	case n.Since < axesInput && c.Has(1):
		return fmt.Errorf("has axes as an input, which version %d takes as an attribute", n.Since)
	case n.Since < axesInput && n.Attribute("noop_with_empty_axes") != nil:
		return fmt.Errorf("attribute noop_with_empty_axes does not exist in version %d", n.Since)
	}
	if t := c.Type(0); t == onnx.String || t == onnx.Bool && (n.Since < 20 || n.OpType != "ReduceMax" && n.OpType != "ReduceMin") {
		return fmt.Errorf("cannot reduce elements of type %s", t)
	}
	keep := n.Int("keepdims", 1) != 0
	shape := c.Shape(0)
	given, known := c.AxesInput(1)
	switch {
	case shape == nil:
		c.Set(0, c.Type(0), nil)
	case known:
		axes, err := ReduceAxes(n, given, len(shape))
		if err != nil {
			return err
		}
		c.Set(0, c.Type(0), reducedShape(shape, axes, keep))
	case keep:
		c.Set(0, c.Type(0), c.Unknown(len(shape)))
	default:
		rank, known := c.rankWithout(len(shape), n.Int("noop_with_empty_axes", 0) != 0)
		if !known {
			c.Set(0, c.Type(0), nil)
		} else {
			c.Set(0, c.Type(0), c.Unknown(rank))
		}
	}
	return nil
}

// rankWithout returns the rank that remains when as many axes as input 1
// lists are removed from a tensor.
func (c *Inference) rankWithout(rank int, noopWhenEmpty bool) (int, bool) {
	axes := c.Shape(1)
	switch {
	case len(axes) != 1 || !axes[0].Known() || int(axes[0]) > rank:
		return 0, false
	case axes[0] == 0 && noopWhenEmpty:
		return rank, true
	case axes[0] == 0:
		return 0, true
	}
	return rank - int(axes[0]), true
}

// reducedShape removes axes from a shape, or gives them length 1.
func reducedShape(shape []Dim, axes []int, keep bool) []Dim {
	out := make([]Dim, 0, len(shape))
	for i, d := range shape {
		switch {
		case !slices.Contains(axes, i):
			out = append(out, d)
		case keep:
			out = append(out, 1)
		}
	}
	return JoinDims(out)
}
