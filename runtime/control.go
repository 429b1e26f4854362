package runtime

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// controlFlow is an operator with subgraphs, which the runtime executes
// itself, on every device alike.
type controlFlow interface {
	// check looks at the node's form when it is compiled.
	check(n *node) error
	// resolve returns the body that certainly runs, once and with no inputs,
	// or nil.
	resolve(n *node, inputs []op.Fact) *program
	// run executes the node. captured lists the captures of all its bodies,
	// in the bodies' order.
	run(ctx context.Context, s *Session, n *node, in, captured []*tensor.Tensor) ([]*tensor.Tensor, error)
}

var controls = map[string]controlFlow{"If": ifNode{}, "Loop": loopNode{}, "Scan": scanNode{}}

// body returns the program of a graph attribute and its captures, nil where
// the attribute is missing.
func (n *node) body(attribute string, captured []*tensor.Tensor) (*program, []*tensor.Tensor) {
	i, at := 0, 0
	for _, a := range n.op.Attributes {
		if a.Graph == nil {
			continue
		}
		b := n.bodies[i]
		end := min(at+len(b.captures), len(captured))
		if a.Name == attribute {
			return b, captured[min(at, end):end]
		}
		i++
		at = end
	}
	return nil, nil
}

// ifNode is ONNX If, versions 1 to 25.
type ifNode struct{}

func (ifNode) check(n *node) error {
	for _, name := range []string{"then_branch", "else_branch"} {
		b, _ := n.body(name, nil)
		if b == nil {
			return fmt.Errorf("lacks the attribute %s", name)
		}
		if len(b.outputs) != len(n.out) || len(b.inputs) != 0 {
			return fmt.Errorf("%s has %d inputs and %d outputs, needs 0 and %d", name, len(b.inputs), len(b.outputs), len(n.out))
		}
	}
	return nil
}

func (ifNode) branch(n *node, cond *tensor.Tensor, captured []*tensor.Tensor) (*program, []*tensor.Tensor, error) {
	if cond.Type != onnx.Bool || cond.Len() != 1 {
		return nil, nil, fmt.Errorf("the condition is %s, needs one bool", cond)
	}
	name := "else_branch"
	if tensor.Of[bool](cond)[0] {
		name = "then_branch"
	}
	p, c := n.body(name, captured)
	return p, c, nil
}

func (i ifNode) resolve(n *node, inputs []op.Fact) *program {
	if inputs[0].Value == nil {
		return nil
	}
	p, _, err := i.branch(n, inputs[0].Value, nil)
	if err != nil {
		return nil // run reports it
	}
	return p
}

func (i ifNode) run(ctx context.Context, s *Session, n *node, in, captured []*tensor.Tensor) ([]*tensor.Tensor, error) {
	p, c, err := i.branch(n, in[0], captured)
	if err != nil {
		return nil, err
	}
	return s.execute(ctx, p, nil, c)
}

// loopNode is ONNX Loop, versions 1 to 25: the body maps (iteration,
// condition, carried values) to (condition, carried values, a slice of each
// scan output).
type loopNode struct{}

func (loopNode) resolve(*node, []op.Fact) *program { return nil }

func (loopNode) check(n *node) error {
	b, _ := n.body("body", nil)
	if b == nil {
		return errors.New("lacks the attribute body")
	}
	carried := len(n.in) - 2
	if carried < 0 || len(b.inputs) != carried+2 || len(b.outputs) != len(n.out)+1 || len(n.out) < carried {
		return fmt.Errorf("has %d inputs and %d outputs, which do not fit a body with %d and %d",
			len(n.in), len(n.out), len(b.inputs), len(b.outputs))
	}
	return nil
}

func (loopNode) run(ctx context.Context, s *Session, n *node, in, captured []*tensor.Tensor) ([]*tensor.Tensor, error) {
	body, captures := n.body("body", captured)
	trips := int64(math.MaxInt64)
	if in[0] != nil {
		v, err := in[0].Ints()
		if err != nil || len(v) != 1 {
			return nil, fmt.Errorf("the trip count is %s, needs one integer", in[0])
		}
		trips = v[0]
	}
	going := tensor.Scalar(true)
	if in[1] != nil {
		going = in[1]
	}
	carried := slices.Clone(in[2:])
	scans := make([][]*tensor.Tensor, len(n.out)-len(carried))
	for i := int64(0); i < trips; i++ {
		if going.Type != onnx.Bool || going.Len() != 1 {
			return nil, fmt.Errorf("the condition is %s, needs one bool", going)
		}
		if !tensor.Of[bool](going)[0] {
			break
		}
		args := append([]*tensor.Tensor{tensor.Scalar(i), going}, carried...)
		out, err := s.execute(ctx, body, args, captures)
		if err != nil {
			return nil, err
		}
		going = out[0]
		copy(carried, out[1:])
		for j := range scans {
			scans[j] = append(scans[j], out[1+len(carried)+j])
		}
	}
	out := carried
	for j, list := range scans {
		t, err := stack(s.memory, list, 0, body.values[body.outputs[1+len(carried)+j]].fact)
		if err != nil {
			return nil, fmt.Errorf("scan output %d: %w", j, err)
		}
		out = append(out, t)
	}
	return out, nil
}

// scanNode is ONNX Scan, versions 9 to 25: the body maps (state, a slice of
// each scan input) to (state, a slice of each scan output).
type scanNode struct{}

func (scanNode) resolve(*node, []op.Fact) *program { return nil }

func (scanNode) check(n *node) error {
	b, _ := n.body("body", nil)
	scans := int(n.op.Int("num_scan_inputs", 0))
	if b == nil || scans < 1 || scans > len(n.in) {
		return errors.New("lacks the attribute body, or num_scan_inputs is not between 1 and the number of inputs")
	}
	if len(b.inputs) != len(n.in) || len(b.outputs) != len(n.out) || len(n.out) < len(n.in)-scans {
		return fmt.Errorf("has %d inputs and %d outputs, which do not fit a body with %d and %d",
			len(n.in), len(n.out), len(b.inputs), len(b.outputs))
	}
	return nil
}

func (scanNode) run(ctx context.Context, s *Session, n *node, in, captured []*tensor.Tensor) ([]*tensor.Tensor, error) {
	body, captures := n.body("body", captured)
	states := len(in) - int(n.op.Int("num_scan_inputs", 0))
	inputs := in[states:]
	axes := make([]int, len(inputs))
	length := -1
	for j, t := range inputs {
		var err error
		if axes[j], err = op.Axis(listed(n.op.Ints("scan_input_axes"), j), t.Rank()); err != nil {
			return nil, fmt.Errorf("scan input %d: %w", j, err)
		}
		if l := t.Shape[axes[j]]; length >= 0 && l != length {
			return nil, fmt.Errorf("scan inputs have %d and %d slices", length, l)
		}
		length = t.Shape[axes[j]]
	}
	state := slices.Clone(in[:states])
	scans := make([][]*tensor.Tensor, len(n.out)-states)
	for i := range length {
		args := slices.Clone(state)
		for j, t := range inputs {
			at := i
			if listed(n.op.Ints("scan_input_directions"), j) == 1 {
				at = length - 1 - i
			}
			args = append(args, sliceOf(t, axes[j], at))
		}
		out, err := s.execute(ctx, body, args, captures)
		if err != nil {
			return nil, err
		}
		copy(state, out)
		for j := range scans {
			scans[j] = append(scans[j], out[states+j])
		}
	}
	out := state
	for j, list := range scans {
		if listed(n.op.Ints("scan_output_directions"), j) == 1 {
			slices.Reverse(list)
		}
		fact := body.values[body.outputs[states+j]].fact
		t, err := stack(s.memory, list, listed(n.op.Ints("scan_output_axes"), j), fact)
		if err != nil {
			return nil, fmt.Errorf("scan output %d: %w", j, err)
		}
		out = append(out, t)
	}
	return out, nil
}

func listed(list []int64, i int) int64 {
	if i < len(list) {
		return list[i]
	}
	return 0
}

// sliceOf copies the slice at position i of an axis, without that axis.
func sliceOf(t *tensor.Tensor, axis, i int) *tensor.Tensor {
	shape := slices.Delete(slices.Clone(t.Shape), axis, axis+1)
	out := tensor.New(t.Type, shape...)
	outer, length, inner := tensor.Count(t.Shape[:axis]), t.Shape[axis], tensor.Count(t.Shape[axis+1:])
	for o := range outer {
		copyElements(out, o*inner, t, (o*length+i)*inner, inner)
	}
	return out
}

// stack joins tensors of one shape along a new axis. With no tensors the
// shape comes from what is known of an element.
func stack(memory *budget, list []*tensor.Tensor, axis int64, element op.Fact) (*tensor.Tensor, error) {
	var shape []int
	t := element.Type
	if len(list) > 0 {
		shape, t = list[0].Shape, list[0].Type
	} else {
		for _, d := range element.Shape {
			shape = append(shape, max(int(d), 0))
		}
	}
	if t == onnx.Undefined {
		return nil, errors.New("its type is not known, as no iteration ran")
	}
	at, err := op.Axis(axis, len(shape)+1)
	if err != nil {
		return nil, err
	}
	outer, inner := tensor.Count(shape[:at]), tensor.Count(shape[at:])
	joined := slices.Insert(slices.Clone(shape), at, len(list))
	if err := memory.admit(t, joined); err != nil {
		return nil, err
	}
	out := tensor.New(t, joined...)
	for i, s := range list {
		if s.Type != t || !slices.Equal(s.Shape, shape) {
			return nil, fmt.Errorf("is %s in iteration %d and %s%s in the first", s, i, t, tensor.FormatShape(shape))
		}
		for o := range outer {
			copyElements(out, (o*len(list)+i)*inner, s, o*inner, inner)
		}
	}
	return out, nil
}

func copyElements(dst *tensor.Tensor, at int, src *tensor.Tensor, from, n int) {
	if dst.Type == onnx.String {
		copy(dst.Strings[at:at+n], src.Strings[from:from+n])
		return
	}
	w := dst.Type.Bits() / 8
	copy(dst.Data[at*w:(at+n)*w], src.Data[from*w:(from+n)*w])
}
