package devicetest

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// GradientCase is a node whose gradients are compared with central
// differences, in float64 unless an input has another type.
type GradientCase struct {
	Name    string // "" is the operator's
	Domain  string
	OpType  string
	Opset   int64 // of Domain; 0 is 24 of ONNX's own operators, 1 of others
	Inputs  []Input
	Outputs int // 0 is 1
	// Ignore lists outputs, such as counts, that are not part of the loss.
	Ignore     []int
	Attributes []*onnx.Attribute
	// Tolerance is the largest relative error; 0 is 1e-6.
	Tolerance float64
}

// GradientCases are the cases of all operators, which the files of this package
// add family by family.
var GradientCases []GradientCase

// Input is an input of a GradientCase.
type Input struct {
	// Shape of a float64 tensor of random numbers from Low to High, where
	// both are 0 from -1 to 1; the gradient is wanted.
	Shape     []int
	Low, High float64
	// Numbers, where they are there, are its elements in place of random ones.
	Numbers []float64
	// Value, where it is there, is the input, a constant of the model, in
	// place of random numbers.
	Value *tensor.Tensor
	// Frozen: no gradient is wanted.
	Frozen bool
	// Absent: the node does not have this optional input.
	Absent bool
}

// Random is an input of random numbers from -1 to 1.
func Random(shape ...int) Input { return Input{Shape: shape} }

// Within is an input of random numbers from low to high.
func Within(low, high float64, shape ...int) Input {
	return Input{Shape: shape, Low: low, High: high}
}

// With is an input whose gradient is wanted, of given numbers.
func With(v []float64, shape ...int) Input { return Input{Shape: shape, Numbers: v} }

// Fixed is a constant input without a gradient.
func Fixed[T tensor.Element](v []T, shape ...int) Input {
	return Input{Value: tensor.FromSlice(v, shape...)}
}

// Gradients compares the gradients of one node with central differences of the
// loss Σ r·y over its outputs y, where r are random numbers.
func Gradients(t *testing.T, o runtime.Options, cases []GradientCase) {
	for _, c := range cases {
		name := c.Name
		if name == "" {
			name = c.OpType
		}
		t.Run(name, func(t *testing.T) {
			if err := c.check(o); err != nil {
				t.Error(err)
			}
		})
	}
}

func (c *GradientCase) check(o runtime.Options) error {
	random := rand.New(rand.NewPCG(1, uint64(len(c.OpType))))
	m, with, inputs := c.model(random)
	// The outputs' shapes are not known before a run.
	forward, err := runtime.New(m, runtime.Options{Device: o.Device, Threads: o.Threads})
	if err != nil {
		return err
	}
	out, err := forward.Run(context.Background(), inputs)
	forward.Close()
	if err != nil {
		return err
	}
	c.loss(m, out, random)
	if err := onnx.Check(m); err != nil {
		return err
	}
	o.Gradient = &runtime.Gradient{Of: "loss", With: with}
	s, err := runtime.New(m, o)
	if err != nil {
		return err
	}
	defer s.Close()
	return CompareGradients(s, with, inputs, c.Tolerance)
}

// CompareGradients compares the gradients that a session computes of "loss"
// with central differences, at up to 40 elements of each tensor, and fails
// where the relative error is above tolerance, where 0 is 1e-6.
func CompareGradients(s *runtime.Session, with []string, inputs map[string]*tensor.Tensor, tolerance float64) error {
	if tolerance == 0 {
		tolerance = 1e-6
	}
	inputs[runtime.GradientName("loss")] = tensor.Scalar(1.0)
	defer delete(inputs, runtime.GradientName("loss"))
	got, err := s.Run(context.Background(), inputs)
	if err != nil {
		return err
	}
	loss := func() (float64, error) {
		out, err := s.Run(context.Background(), inputs)
		if err != nil {
			return 0, err
		}
		x, err := tensor.Float64s(out["loss"])
		return x[0], err
	}
	for _, name := range with {
		x := inputs[name]
		elements := tensor.Of[float64](x)
		gradient := make([]float64, len(elements))
		if g := got[runtime.GradientName(name)]; g != nil {
			if !slices.Equal(g.Shape, x.Shape) || g.Type != x.Type {
				return fmt.Errorf("the gradient of %s is %s, the tensor %s", name, g, x)
			}
			copy(gradient, tensor.Of[float64](g))
		}
		for i := 0; i < len(elements); i += max(1, len(elements)/40) {
			was := elements[i]
			step := 1e-5 * max(1, math.Abs(was))
			elements[i] = was + step
			above, err := loss()
			if err != nil {
				return err
			}
			elements[i] = was - step
			below, err := loss()
			if err != nil {
				return err
			}
			elements[i] = was
			want := (above - below) / (2 * step)
			if !(math.Abs(gradient[i]-want) <= tolerance*max(1, math.Abs(want))) {
				return fmt.Errorf("the gradient of %s at element %d is %.9g, the central difference is %.9g", name, i, gradient[i], want)
			}
		}
	}
	return nil
}

// model makes the model of the node alone, whose random inputs are inputs.
func (c *GradientCase) model(random *rand.Rand) (m *onnx.Model, with []string, inputs map[string]*tensor.Tensor) {
	n := &onnx.Node{Name: c.OpType, Domain: c.Domain, OpType: c.OpType, Attributes: c.Attributes}
	g := &onnx.Graph{Name: "gradient", Nodes: []*onnx.Node{n}}
	inputs = map[string]*tensor.Tensor{}
	for i, in := range c.Inputs {
		name := fmt.Sprintf("x%d", i)
		if in.Absent {
			name = ""
		}
		n.Inputs = append(n.Inputs, name)
		switch {
		case in.Absent:
		case in.Value != nil:
			g.Initializers = append(g.Initializers, in.Value.ToONNX(name))
		default:
			low, high := in.Low, in.High
			if low == 0 && high == 0 {
				low, high = -1, 1
			}
			x := tensor.New(onnx.Float64, in.Shape...)
			for i := range tensor.Of[float64](x) {
				tensor.Of[float64](x)[i] = low + (high-low)*random.Float64()
			}
			copy(tensor.Of[float64](x), in.Numbers)
			inputs[name] = x
			g.Inputs = append(g.Inputs, declare(name, x))
			if !in.Frozen {
				with = append(with, name)
			}
		}
	}
	for i := range max(c.Outputs, 1) {
		name := fmt.Sprintf("y%d", i)
		n.Outputs = append(n.Outputs, name)
		g.Outputs = append(g.Outputs, &onnx.ValueInfo{Name: name})
	}
	m = &onnx.Model{IRVersion: 10, Graph: g, OpsetImports: []onnx.OpsetImport{{Version: 24}, {Domain: moe.Domain, Version: moe.Version}, {Domain: "com.microsoft", Version: 1}}}
	for i := range m.OpsetImports {
		if c.Opset != 0 && m.OpsetImports[i].Domain == c.Domain {
			m.OpsetImports[i].Version = c.Opset
		}
	}
	return m, with, inputs
}

// loss adds the loss to a model whose outputs have the given values.
func (c *GradientCase) loss(m *onnx.Model, out map[string]*tensor.Tensor, random *rand.Rand) {
	g := m.Graph
	var sums []string
	add := func(opType, name string, inputs ...string) string {
		g.Nodes = append(g.Nodes, &onnx.Node{Name: name, OpType: opType, Inputs: inputs, Outputs: []string{name}})
		return name
	}
	for i, v := range g.Outputs {
		y := out[v.Name]
		if slices.Contains(c.Ignore, i) || y == nil || !y.Type.IsFloat() {
			continue
		}
		r := tensor.New(onnx.Float64, y.Len(), 1)
		for i := range tensor.Of[float64](r) {
			tensor.Of[float64](r)[i] = 2*random.Float64() - 1
		}
		weights := fmt.Sprintf("r%d", i)
		g.Initializers = append(g.Initializers, r.ToONNX(weights))
		wide := v.Name
		if y.Type != onnx.Float64 {
			wide = v.Name + "/wide"
			g.Nodes = append(g.Nodes, &onnx.Node{Name: wide, OpType: "Cast", Inputs: []string{v.Name}, Outputs: []string{wide},
				Attributes: []*onnx.Attribute{onnx.IntAttribute("to", int64(onnx.Float64))}})
		}
		row := fmt.Sprintf("row%d", i)
		g.Nodes = append(g.Nodes, &onnx.Node{Name: row, OpType: "Flatten", Inputs: []string{wide}, Outputs: []string{row},
			Attributes: []*onnx.Attribute{onnx.IntAttribute("axis", 0)}})
		sums = append(sums, add("MatMul", fmt.Sprintf("sum%d", i), row, weights))
	}
	g.Initializers = append(g.Initializers, tensor.FromSlice([]int64{}, 0).ToONNX("scalar"))
	total := sums[0]
	for i, s := range sums[1:] {
		total = add("Add", fmt.Sprintf("total%d", i), total, s)
	}
	g.Nodes = append(g.Nodes, &onnx.Node{Name: "loss", OpType: "Reshape", Inputs: []string{total, "scalar"}, Outputs: []string{"loss"}})
	g.Outputs = append(g.Outputs, &onnx.ValueInfo{Name: "loss"})
}

func declare(name string, t *tensor.Tensor) *onnx.ValueInfo {
	shape := &onnx.Shape{}
	for _, d := range t.Shape {
		shape.Dims = append(shape.Dims, onnx.Dim{Known: true, Value: int64(d)})
	}
	return &onnx.ValueInfo{Name: name, Type: &onnx.Type{Kind: onnx.KindTensor, ElemType: t.Type, Shape: shape}}
}
