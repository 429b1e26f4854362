package devicetest

import (
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	GradientCases = append(GradientCases,
		GradientCase{OpType: "Add", Inputs: []Input{Random(2, 3), Random(2, 3)}},
		GradientCase{Name: "Add/broadcast", OpType: "Add", Inputs: []Input{Random(2, 3, 4), Random(3, 1)}},
		GradientCase{Name: "Sub/broadcast", OpType: "Sub", Inputs: []Input{Random(3, 1), Random(2, 3, 4)}},
		GradientCase{Name: "Mul/broadcast", OpType: "Mul", Inputs: []Input{Random(3, 1), Random(2, 1, 4)}},

		GradientCase{OpType: "Div", Inputs: []Input{Random(2, 3), Within(1, 2, 2, 3)}},
		GradientCase{Name: "Div/broadcast", OpType: "Div", Inputs: []Input{Random(3, 1), Within(-2, -1, 2, 1, 4)}},
		GradientCase{Name: "Div/constant", OpType: "Div", Inputs: []Input{Random(3, 2), Fixed([]float64{3})}},
		GradientCase{OpType: "Mod", Opset: 28, Inputs: []Input{Fixed([]float64{5.5, -5.5}, 2, 1), Within(2, 2.1, 3)}},
		GradientCase{Name: "Mod/dividend", OpType: "Mod", Opset: 28, Inputs: []Input{Within(4.5, 5.5, 2, 3), Within(-2.1, -2, 3)}},
		GradientCase{Name: "Mod/fmod", OpType: "Mod", Inputs: []Input{Within(-5.5, -4.5, 2, 3), Within(2, 2.2, 3)},
			Attributes: []*onnx.Attribute{onnx.IntAttribute("fmod", 1)}},
		GradientCase{OpType: "Pow", Inputs: []Input{Within(0.5, 2, 2, 3), Random(3)}},
		GradientCase{Name: "Pow/square", OpType: "Pow", Inputs: []Input{Random(2, 3), Fixed([]float64{2})}},
		GradientCase{Name: "Pow/integers", OpType: "Pow", Inputs: []Input{Random(2, 3), Fixed([]int64{3})}},
		GradientCase{Name: "Pow/exponents", OpType: "Pow", Inputs: []Input{Fixed([]float64{0, 2}, 2), Within(1, 2, 3, 2)}},
		GradientCase{Name: "Pow/constants", OpType: "Pow", Inputs: []Input{Within(-2, -1, 2, 3), Fixed([]float64{0, 1, 2}, 3)}},
		GradientCase{OpType: "PRelu", Inputs: []Input{Within(-2, -1, 2, 3), Random(3)}},
		GradientCase{Name: "PRelu/positive", OpType: "PRelu", Inputs: []Input{Within(1, 2, 2, 3), Random(2, 1)}},
		GradientCase{OpType: "Sum", Inputs: []Input{Random(2, 3), Random(3), Random(2, 1)}},
		GradientCase{Name: "Sum/one", OpType: "Sum", Inputs: []Input{Random(2, 3)}},
		GradientCase{OpType: "Mean", Inputs: []Input{Random(2, 3), Random(3), Random(2, 1)}},
		GradientCase{OpType: "Max", Inputs: []Input{Random(2, 3), Random(3), Random(2, 1)}},
		GradientCase{OpType: "Min", Inputs: []Input{Random(2, 3), Random(3), Fixed([]float64{0.1})}},
		GradientCase{OpType: "Clip", Inputs: []Input{Random(4, 5), Within(-0.5, -0.4), Within(0.4, 0.5)}},
		GradientCase{Name: "Clip/below", OpType: "Clip", Inputs: []Input{Random(4, 5), {Absent: true}, Within(0.4, 0.5)}},
		GradientCase{Name: "Clip/above", OpType: "Clip", Inputs: []Input{Random(4, 5), Within(-0.5, -0.4)}},
		GradientCase{Name: "Clip/crossed", OpType: "Clip", Inputs: []Input{Random(4, 5), Within(0.4, 0.5), Within(-0.5, -0.4)}},
		GradientCase{Name: "Clip/no limits", OpType: "Clip", Inputs: []Input{Random(4, 5)}},
		GradientCase{Name: "Clip/attributes", OpType: "Clip", Opset: 10, Inputs: []Input{Random(4, 5)},
			Attributes: []*onnx.Attribute{onnx.FloatAttribute("min", -0.3), onnx.FloatAttribute("max", 0.3)}},
		GradientCase{OpType: "Where", Inputs: []Input{Fixed([]bool{true, false, true}, 3), Random(2, 3), Random(2, 1)}},
		GradientCase{Name: "Where/broadcast", OpType: "Where", Inputs: []Input{Fixed([]bool{true, false}, 2, 1), Random(3), Random()}},
	)
	for _, f := range []struct {
		name      string
		low, high float64
	}{
		{"Abs", 0.1, 1}, {"Neg", -1, 1}, {"Sign", 0.1, 1}, {"Floor", 0.1, 0.9}, {"Ceil", 0.1, 0.9}, {"Round", 0.1, 0.4},
		{"Sqrt", 0.5, 2}, {"Reciprocal", 0.5, 2}, {"Exp", -1, 1}, {"Log", 0.5, 2}, {"Erf", -2, 2}, {"Sin", -2, 2}, {"Cos", -2, 2},
		{"Tan", -1, 1}, {"Asin", -0.9, 0.9}, {"Acos", -0.9, 0.9}, {"Atan", -2, 2}, {"Sinh", -2, 2}, {"Cosh", -2, 2}, {"Tanh", -2, 2},
		{"Asinh", -2, 2}, {"Acosh", 1.5, 2}, {"Atanh", -0.9, 0.9}, {"Sigmoid", -2, 2},
		{"Relu", 0.1, 1}, {"LeakyRelu", 0.1, 1}, {"ThresholdedRelu", 1.1, 2}, {"Elu", 0.1, 1}, {"Selu", 0.1, 1}, {"Celu", 0.1, 1},
		{"HardSigmoid", -1, 1}, {"HardSwish", -2.9, 2.9}, {"Softplus", -2, 2}, {"Softsign", 0.1, 2}, {"Shrink", 0.6, 1},
		{"Mish", -2, 2}, {"Gelu", -3, 3}, {"Swish", -3, 3},
	} {
		// Most functions with a kink have it at 0: both sides are tested.
		GradientCases = append(GradientCases,
			GradientCase{OpType: f.name, Inputs: []Input{Within(f.low, f.high, 3, 4)}})
		if f.low > 0 && f.name != "Sqrt" && f.name != "Log" && f.name != "Acosh" {
			GradientCases = append(GradientCases,
				GradientCase{Name: f.name + "/negative", OpType: f.name, Inputs: []Input{Within(-f.high, -f.low, 3, 4)}})
		}
	}
	activation := func(name, opType string, x Input, attributes ...*onnx.Attribute) GradientCase {
		return GradientCase{Name: opType + "/" + name, OpType: opType, Inputs: []Input{x}, Attributes: attributes}
	}
	real := onnx.FloatAttribute
	ort := func(c GradientCase) GradientCase {
		c.Domain = "com.microsoft"
		return c
	}
	tanh := onnx.StringAttribute("approximate", "tanh")
	GradientCases = append(GradientCases,
		activation("alpha", "LeakyRelu", Within(-1, -0.1, 7), real("alpha", 0.3)),
		activation("alpha", "ThresholdedRelu", Within(-2, -1.3, 7), real("alpha", -1.2)),
		activation("alpha", "Elu", Within(-2, -0.1, 7), real("alpha", 1.7)),
		activation("parameters", "Selu", Within(-2, -0.1, 7), real("alpha", 1.2), real("gamma", 0.7)),
		activation("alpha", "Celu", Within(-2, -0.1, 7), real("alpha", 1.7)),
		activation("parameters", "HardSigmoid", Within(-1, 1, 9), real("alpha", 0.9), real("beta", 0.3)),
		activation("flat", "HardSigmoid", Within(3, 4, 3)),
		activation("flat", "HardSwish", Within(-4, -3.1, 3)),
		activation("linear", "HardSwish", Within(3.1, 4, 3)),
		activation("inside", "Shrink", Within(-0.4, 0.4, 3)),
		activation("parameters", "Shrink", Within(-2, -0.4, 7), real("lambd", 0.3), real("bias", 0.2)),
		activation("far", "Gelu", With([]float64{-50, 50}, 2)),
		activation("tanh", "Gelu", Within(-3, 3, 9), tanh),
		activation("alpha", "Swish", Within(-3, 3, 9), real("alpha", 1.3)),
		GradientCase{OpType: "SwiGLU", Opset: 28, Inputs: []Input{Random(2, 3), Random(2, 3)}, Attributes: []*onnx.Attribute{real("alpha", 1.3)}},
		ort(GradientCase{Name: "Gelu/com.microsoft", OpType: "Gelu", Inputs: []Input{Within(-3, 3, 9)}}),
		ort(GradientCase{OpType: "QuickGelu", Inputs: []Input{Within(-3, 3, 9)}}),
		ort(GradientCase{Name: "QuickGelu/alpha", OpType: "QuickGelu", Inputs: []Input{Within(-3, 3, 9)}, Attributes: []*onnx.Attribute{real("alpha", 1)}}),
		ort(GradientCase{OpType: "FastGelu", Inputs: []Input{Within(-3, 3, 4, 3)}}),
		ort(GradientCase{Name: "FastGelu/bias", OpType: "FastGelu", Inputs: []Input{Within(-3, 3, 4, 3), Random(3)}}),
		ort(GradientCase{OpType: "BiasGelu", Inputs: []Input{Within(-3, 3, 2, 4, 3), Random(3)}}),
	)
}

// element is a constant with one element.
func element[T tensor.Element](v T) Input { return Fixed([]T{v}) }
