package devicetest

import "github.com/fmoe-go/fmoe/onnx"

func init() {
	integer, integers := onnx.IntAttribute, onnx.IntsAttribute
	for _, name := range []string{"Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare"} {
		opType := "Reduce" + name
		add := func(name string, c GradientCase) {
			c.Name, c.OpType = opType+"/"+name, opType
			GradientCases = append(GradientCases, c)
		}
		x := Within(0.5, 2, 2, 3, 4)
		add("all", GradientCase{Inputs: []Input{x}})
		add("all dropped", GradientCase{Inputs: []Input{x}, Attributes: []*onnx.Attribute{integer("keepdims", 0)}})
		add("axes", GradientCase{Inputs: []Input{x, Fixed([]int64{-1, 0}, 2)}})
		add("axes dropped", GradientCase{Inputs: []Input{x, Fixed([]int64{1}, 1)}, Attributes: []*onnx.Attribute{integer("keepdims", 0)}})
		add("nothing", GradientCase{Inputs: []Input{x, Fixed([]int64{}, 0)}, Attributes: []*onnx.Attribute{integer("noop_with_empty_axes", 1), integer("keepdims", 0)}})
		add("empty axes", GradientCase{Inputs: []Input{x, Fixed([]int64{}, 0)}, Attributes: []*onnx.Attribute{integer("keepdims", 0)}})
		add("attribute", GradientCase{Opset: 11, Inputs: []Input{x}, Attributes: []*onnx.Attribute{integers("axes", 0, 2), integer("keepdims", 0)}})
		add("scalar", GradientCase{Inputs: []Input{Within(0.5, 2)}})
	}
	axis, last := []*onnx.Attribute{integer("axis", 1)}, []*onnx.Attribute{integer("axis", -1)}
	GradientCases = append(GradientCases,
		GradientCase{Name: "ReduceL1/negative", OpType: "ReduceL1", Inputs: []Input{Within(-2, -1, 2, 3)}},
		// One zero leaves the product of the others as its derivative, two
		// leave nothing.
		GradientCase{Name: "ReduceProd/zeros", OpType: "ReduceProd",
			Inputs: []Input{With([]float64{1, 0, 2, 0, 3, 0, 2, 3, 4}, 3, 3), Fixed([]int64{1}, 1)}},

		GradientCase{OpType: "Softmax", Inputs: []Input{Random(3, 7)}},
		GradientCase{Name: "Softmax/axis", OpType: "Softmax", Inputs: []Input{Random(2, 3, 4)}, Attributes: axis},
		GradientCase{Name: "Softmax/matrix", OpType: "Softmax", Opset: 11, Inputs: []Input{Random(2, 3, 4)}, Attributes: axis},
		GradientCase{OpType: "LogSoftmax", Inputs: []Input{Random(3, 7)}, Attributes: last},
		GradientCase{Name: "LogSoftmax/axis", OpType: "LogSoftmax", Inputs: []Input{Random(2, 3, 4)}, Attributes: axis},
		GradientCase{Name: "LogSoftmax/matrix", OpType: "LogSoftmax", Opset: 11, Inputs: []Input{Random(2, 3, 4)}},
		GradientCase{OpType: "Hardmax", Inputs: []Input{Random(3, 4)}},

		GradientCase{OpType: "CumSum", Inputs: []Input{Random(2, 4), element[int64](1)}},
		GradientCase{Name: "CumSum/exclusive", OpType: "CumSum", Inputs: []Input{Random(4, 2), element[int64](0)}, Attributes: []*onnx.Attribute{integer("exclusive", 1)}},
		GradientCase{Name: "CumSum/reverse", OpType: "CumSum", Inputs: []Input{Random(2, 4), element[int64](-1)}, Attributes: []*onnx.Attribute{integer("reverse", 1)}},
		GradientCase{Name: "CumSum/both", OpType: "CumSum", Inputs: []Input{Random(2, 4), element[int64](1)},
			Attributes: []*onnx.Attribute{integer("reverse", 1), integer("exclusive", 1)}},
		GradientCase{OpType: "CumProd", Opset: 26, Inputs: []Input{Within(0.5, 2, 2, 4), element[int64](1)}},
		GradientCase{Name: "CumProd/a zero", OpType: "CumProd", Opset: 26, Inputs: []Input{With([]float64{2, 0, 3, -1, 0, 0, 2, 3}, 2, 4), element[int64](1)}},
		GradientCase{Name: "CumProd/exclusive zeros", OpType: "CumProd", Opset: 26, Inputs: []Input{With([]float64{0, 5, 2, 0, 3, 0, -1, 2}, 4, 2), element[int64](0)},
			Attributes: []*onnx.Attribute{integer("exclusive", 1)}},
		GradientCase{Name: "CumProd/reverse", OpType: "CumProd", Opset: 26, Inputs: []Input{With([]float64{2, 0, 3, -1, 0, 1, 2, 3}, 2, 4), element[int64](1)},
			Attributes: []*onnx.Attribute{integer("reverse", 1)}},
		GradientCase{Name: "CumProd/both", OpType: "CumProd", Opset: 26, Inputs: []Input{Within(0.5, 2, 4, 2), element[int64](0)},
			Attributes: []*onnx.Attribute{integer("reverse", 1), integer("exclusive", 1)}},

		GradientCase{OpType: "TopK", Outputs: 2, Inputs: []Input{Random(3, 5), Fixed([]int64{2}, 1)}},
		GradientCase{Name: "TopK/smallest", OpType: "TopK", Outputs: 2, Inputs: []Input{Random(5, 3), Fixed([]int64{2}, 1)},
			Attributes: []*onnx.Attribute{integer("axis", 0), integer("largest", 0)}},
		GradientCase{Name: "TopK/values alone", OpType: "TopK", Opset: 9, Inputs: []Input{Random(3, 5)}, Attributes: []*onnx.Attribute{integer("k", 3)}},
	)
}
