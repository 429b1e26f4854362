package fmoefy

import (
	"errors"
	"fmt"
	"math"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

// readMicrosoft reads a com.microsoft::MoE node.
func readMicrosoft(s *scope, n *onnx.Node) (*mixture, error) {
	x := &mixture{scope: s, input: n.Input(moe.MicrosoftX), output: n.Output(0), nodes: []*onnx.Node{n}}
	x.Form, x.Name = Microsoft, n.Name
	if x.Name == "" {
		x.Name = n.Output(0)
	}
	switch {
	case n.OpType == "QMoE":
		return x, errQuantized
	case n.OpType != "MoE":
		return x, fmt.Errorf("it is a %s, sharded among devices", n.OpType)
	}
	c, err := moe.ParseMicrosoft(n)
	if err != nil {
		return x, err
	}
	x.TopK, x.Normalize, x.Activation = c.TopK, c.Normalize, c.Activation
	if c.SwiGLU {
		switch {
		case c.Beta != 0 || !math.IsInf(c.Limit, 1):
			return x, fmt.Errorf("its SwiGLU adds %v to the linear branch and limits both to %v, which FMoE's experts do not", c.Beta, c.Limit)
		case float32(c.Alpha) == swigluAlpha[moe.QuickGELU]:
			x.Activation = moe.QuickGELU
		case c.Alpha != 1:
			return x, fmt.Errorf("its SwiGLU has alpha %v; FMoE's experts have 1 (silu) and 1.702 (quick_gelu)", c.Alpha)
		}
	}
	router := s.linearBehind(operand{value: n.Input(moe.MicrosoftLogits)})
	switch {
	case router == nil || router.weight == nil && router.problem == nil:
		return x, errors.New("its router is no linear layer with a constant weight")
	case router.problem != nil:
		return x, fmt.Errorf("its router: %w", router.problem)
	case s.beyond(router.input) != s.beyond(x.input):
		return x, fmt.Errorf("its router takes %q, its experts %q", router.input, x.input)
	}
	return x, x.readLayers(n, &c, router)
}

// readLayers takes over the experts of a com.microsoft::MoE node.
func (x *mixture) readLayers(n *onnx.Node, c *moe.MicrosoftConfig, router *linear) error {
	shapes := make([][]int, len(n.Inputs))
	constants := make([]*constant, len(n.Inputs))
	shapes[moe.MicrosoftX] = []int{1, int(router.in())}
	shapes[moe.MicrosoftLogits] = []int{1, int(router.out())}
	for i := moe.MicrosoftLogits + 1; i < len(n.Inputs); i++ {
		if n.Input(i) == "" {
			continue
		}
		var err error
		if constants[i], err = x.scope.constant(n.Input(i)); err != nil {
			return fmt.Errorf("input %d is no constant: %w", i, err)
		}
		shapes[i] = make([]int, len(constants[i].dims))
		for j, d := range constants[i].dims {
			shapes[i][j] = int(d)
		}
	}
	shape, err := c.Shape(shapes)
	if err != nil {
		return err
	}
	x.Experts, x.DModel, x.DHidden = int64(shape.Experts), int64(shape.Model), int64(shape.Hidden)
	x.elementType = constants[c.Layers[0].Weight].elementType()
	if !computable(x.elementType) {
		return fmt.Errorf("its weights have element type %s", x.elementType)
	}
	x.stored = storage{elementType: x.elementType}
	x.setRouter(router)
	for i, slot := range []int{moe.InputFC1Weight, moe.InputFC2Weight, moe.InputFC3Weight} {
		layer := c.Layers[i]
		inTurn := c.Interleaved && i != 1
		if inTurn {
			layer = c.Layers[0]
		}
		for to, from := range map[int]int{slot: layer.Weight, slot + 1: layer.Bias} {
			if from >= len(constants) || constants[from] == nil {
				continue
			}
			view := constants[from]
			if shape.Legacy && to == slot {
				view = view.permuted(0, 2, 1)
			}
			if inTurn {
				view = view.along(1, part{start: int64(i / 2), step: 2, count: view.dims[1] / 2})
			}
			x.weights[to] = []*constant{view}
		}
	}
	x.Gated = x.weights[moe.InputFC3Weight] != nil
	return nil
}
