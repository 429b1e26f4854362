package devicetest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// GradientTypes compares the gradients of nodes whose elements are of narrower
// types with those in float64. The error may be tolerance times what the
// gradient is, at least 1.
func GradientTypes(t *testing.T, o runtime.Options, cases []GradientCase) {
	for kind, tolerance := range map[onnx.DataType]float64{onnx.Float32: 1e-4, onnx.Float16: 0.03, onnx.BFloat16: 0.15} {
		for _, c := range cases {
			t.Run(kind.String()+"/"+c.OpType+"/"+c.Name, func(t *testing.T) {
				got, err := c.gradients(o, kind)
				if errors.Is(err, errForward) {
					t.Skip(err)
				}
				if err != nil {
					t.Fatal(err)
				}
				want, err := c.gradients(o, onnx.Float64)
				if err != nil {
					t.Fatal(err)
				}
				for name, w := range want {
					g, err := tensor.Float64s(got[name])
					if err != nil {
						t.Fatal(err)
					}
					for i, x := range tensor.Of[float64](w) {
						if !(math.Abs(g[i]-x) <= tolerance*max(1, math.Abs(x))) {
							t.Fatalf("the gradient of %s at element %d is %g, in float64 %g", name, i, g[i], x)
						}
					}
				}
			})
		}
	}
}

// errForward says that the operator itself does not take a type.
var errForward = errors.New("without gradients")

// gradients returns the gradients of the node's random inputs, by name, with
// all float64 tensors converted to another type.
func (c *GradientCase) gradients(o runtime.Options, kind onnx.DataType) (map[string]*tensor.Tensor, error) {
	random := rand.New(rand.NewPCG(1, uint64(len(c.OpType))))
	m, with, inputs := c.model(random)
	convert := func(x *tensor.Tensor) *tensor.Tensor {
		if x.Type != onnx.Float64 {
			return x
		}
		y := tensor.New(kind, x.Shape...)
		tensor.ConvertFloat(y, x)
		return y
	}
	for _, v := range m.Graph.Inputs {
		inputs[v.Name] = convert(inputs[v.Name])
		v.Type.ElemType = inputs[v.Name].Type
	}
	for i, v := range m.Graph.Initializers {
		x, err := tensor.FromONNX(v)
		if err != nil {
			return nil, err
		}
		m.Graph.Initializers[i] = convert(x).ToONNX(v.Name)
	}
	forward, err := runtime.New(m, runtime.Options{Device: o.Device, Threads: o.Threads})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errForward, err)
	}
	out, err := forward.Run(context.Background(), inputs)
	forward.Close()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errForward, err)
	}
	c.loss(m, out, random)
	o.Gradient = &runtime.Gradient{Of: "loss", With: with}
	s, err := runtime.New(m, o)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	inputs[runtime.GradientName("loss")] = tensor.Scalar(1.0)
	if out, err = s.Run(context.Background(), inputs); err != nil {
		return nil, err
	}
	gradients := map[string]*tensor.Tensor{}
	for _, name := range with {
		if g := out[runtime.GradientName(name)]; g != nil {
			gradients[name] = g
		}
	}
	return gradients, nil
}
