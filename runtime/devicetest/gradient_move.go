package devicetest

import (
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

func init() {
	integer, integers, text := onnx.IntAttribute, onnx.IntsAttribute, onnx.StringAttribute
	list := func(attributes ...*onnx.Attribute) []*onnx.Attribute { return attributes }
	vector := func(v ...int64) Input { return Fixed(v, len(v)) }
	GradientCases = append(GradientCases,
		GradientCase{OpType: "Identity", Inputs: []Input{Random(2, 3)}},
		GradientCase{OpType: "Cast", Inputs: []Input{Random(2, 3)}, Attributes: list(integer("to", int64(onnx.Float32))), Tolerance: 0.05},
		GradientCase{OpType: "CastLike", Inputs: []Input{Random(2, 3), element(0.0)}},
		GradientCase{OpType: "Reshape", Inputs: []Input{Random(2, 6), vector(0, 2, -1)}},
		GradientCase{OpType: "Flatten", Inputs: []Input{Random(2, 3, 2)}, Attributes: list(integer("axis", 2))},
		GradientCase{OpType: "Squeeze", Inputs: []Input{Random(2, 1, 3, 1), vector(1)}},
		GradientCase{OpType: "Unsqueeze", Inputs: []Input{Random(2, 3), vector(0, -1)}},
		GradientCase{OpType: "EyeLike", Inputs: []Input{Random(2, 3)}},

		GradientCase{OpType: "Transpose", Inputs: []Input{Random(2, 3, 4)}},
		GradientCase{Name: "Transpose/perm", OpType: "Transpose", Inputs: []Input{Random(2, 3, 4)}, Attributes: list(integers("perm", 1, 2, 0))},
		GradientCase{OpType: "DepthToSpace", Inputs: []Input{Random(1, 8, 2, 3)}, Attributes: list(integer("blocksize", 2))},
		GradientCase{Name: "DepthToSpace/CRD", OpType: "DepthToSpace", Inputs: []Input{Random(1, 8, 2, 3)}, Attributes: list(integer("blocksize", 2), text("mode", "CRD"))},
		GradientCase{OpType: "SpaceToDepth", Inputs: []Input{Random(2, 1, 4, 6)}, Attributes: list(integer("blocksize", 2))},

		GradientCase{OpType: "Concat", Inputs: []Input{Random(2, 3), Fixed([]float64{1, 2}, 2, 1), Random(2, 2)}, Attributes: list(integer("axis", 1))},
		GradientCase{Name: "Concat/last", OpType: "Concat", Inputs: []Input{Random(2, 3), Random(2, 1)}, Attributes: list(integer("axis", -1))},
		GradientCase{OpType: "Split", Outputs: 2, Inputs: []Input{Random(4, 3)}, Attributes: list(integer("num_outputs", 2))},
		GradientCase{Name: "Split/lengths", OpType: "Split", Outputs: 3, Inputs: []Input{Random(2, 6), vector(1, 2, 3)}, Attributes: list(integer("axis", -1))},
		GradientCase{Name: "Split/unused", OpType: "Split", Outputs: 3, Ignore: []int{1}, Inputs: []Input{Random(2, 6), vector(1, 2, 3)}, Attributes: list(integer("axis", 1))},
		GradientCase{Name: "Split/attribute", OpType: "Split", Opset: 11, Outputs: 2, Inputs: []Input{Random(3, 2)}, Attributes: list(integers("split", 1, 2))},

		GradientCase{OpType: "Slice", Inputs: []Input{Random(4, 5), vector(1, -3), vector(3, 100)}},
		GradientCase{Name: "Slice/steps", OpType: "Slice", Inputs: []Input{Random(3, 7), vector(1), vector(7), vector(-1), vector(3)}},
		GradientCase{Name: "Slice/negative", OpType: "Slice", Inputs: []Input{Random(6, 2), vector(-1), vector(-100), vector(0), vector(-2)}},
		GradientCase{Name: "Slice/nothing", OpType: "Slice", Inputs: []Input{Random(2, 3), vector(2), vector(1)}},
		GradientCase{Name: "Slice/attributes", OpType: "Slice", Opset: 9, Inputs: []Input{Random(4, 5)},
			Attributes: list(integers("starts", 1), integers("ends", 4), integers("axes", 1))},
		GradientCase{Name: "Slice/all axes", OpType: "Slice", Opset: 9, Inputs: []Input{Random(4, 5)}, Attributes: list(integers("starts", 1, 0), integers("ends", 4, 2))},

		GradientCase{OpType: "Expand", Inputs: []Input{Random(3, 1), vector(2, 1, 4)}},
		GradientCase{Name: "Expand/scalar", OpType: "Expand", Inputs: []Input{Random(), vector(2, 3)}},
		GradientCase{OpType: "Tile", Inputs: []Input{Random(2, 3), vector(2, 3)}},
		GradientCase{Name: "Tile/scalar", OpType: "Tile", Inputs: []Input{Random(), vector()}},

		GradientCase{OpType: "Gather", Inputs: []Input{Random(5, 3), Fixed([]int64{4, 0, -1, 0, 2, 0}, 2, 3)}},
		GradientCase{Name: "Gather/axis", OpType: "Gather", Inputs: []Input{Random(2, 4, 3), Fixed([]int32{1, 3, 1}, 3)}, Attributes: list(integer("axis", 1))},
		GradientCase{Name: "Gather/last", OpType: "Gather", Inputs: []Input{Random(2, 4), element[int64](-2)}, Attributes: list(integer("axis", -1))},
		GradientCase{OpType: "GatherElements", Inputs: []Input{Random(3, 4), Fixed([]int64{2, 0, 2, 1, 0, -1}, 2, 3)}},
		GradientCase{Name: "GatherElements/axis", OpType: "GatherElements", Inputs: []Input{Random(2, 4), Fixed([]int64{3, 3, 0, 1, 1, 1}, 2, 3)}, Attributes: list(integer("axis", 1))},
		GradientCase{OpType: "GatherND", Inputs: []Input{Random(2, 3, 4), Fixed([]int64{1, 2, 0, 0, 1, 2}, 3, 2)}},
		GradientCase{Name: "GatherND/elements", OpType: "GatherND", Inputs: []Input{Random(2, 3), Fixed([]int64{1, 2, -2, 0, 1, 2}, 3, 2)}},
		GradientCase{Name: "GatherND/batch", OpType: "GatherND", Inputs: []Input{Random(2, 3, 4), Fixed([]int64{2, 0, 1, 1}, 2, 2, 1)}, Attributes: list(integer("batch_dims", 1))},
		GradientCase{OpType: "Compress", Inputs: []Input{Random(2, 3), Fixed([]bool{true, false, true, true}, 4)}},
		GradientCase{Name: "Compress/axis", OpType: "Compress", Inputs: []Input{Random(2, 3), Fixed([]bool{true, false, true}, 3)}, Attributes: list(integer("axis", 1))},
		GradientCase{OpType: "ReverseSequence", Inputs: []Input{Random(4, 3, 2), vector(1, 4, 3)}},
		GradientCase{Name: "ReverseSequence/batch first", OpType: "ReverseSequence", Inputs: []Input{Random(2, 4), vector(3, 2)},
			Attributes: list(integer("batch_axis", 0), integer("time_axis", 1))},

		GradientCase{OpType: "Trilu", Inputs: []Input{Random(2, 3, 4)}},
		GradientCase{Name: "Trilu/lower", OpType: "Trilu", Inputs: []Input{Random(3, 4), element[int64](-1)}, Attributes: list(integer("upper", 0))},
	)
	for _, mode := range []string{"reflect", "edge", "wrap"} {
		GradientCases = append(GradientCases, GradientCase{Name: "Pad/" + mode, OpType: "Pad",
			Inputs: []Input{Random(3, 4), vector(1, 2, -1, 3)}, Attributes: list(text("mode", mode))})
	}
	step := func(n int64) []Input { return []Input{Random(5, 7), element(0.3), element(n)} }
	GradientCases = append(GradientCases,
		GradientCase{OpType: "Pad", Inputs: []Input{Random(3, 4), vector(1, 2, 0, 3)}},
		GradientCase{Name: "Pad/value", OpType: "Pad", Inputs: []Input{Random(3, 4), vector(1, -1, -1, 3), Random()}},
		GradientCase{Name: "Pad/axes", OpType: "Pad", Inputs: []Input{Random(3, 4), vector(1, 2), {Absent: true}, vector(-1)}},
		GradientCase{Name: "Pad/attributes", OpType: "Pad", Opset: 10, Inputs: []Input{Random(3, 4)}, Attributes: list(integers("pads", 1, 0, 0, 2))},
		GradientCase{Name: "Pad/reflected axes", OpType: "Pad", Inputs: []Input{Random(3, 4), vector(1, 2), {Absent: true}, vector(-1)}, Attributes: list(text("mode", "reflect"))},
		GradientCase{OpType: "CenterCropPad", Inputs: []Input{Random(5, 4), vector(2, 7)}},
		GradientCase{Name: "CenterCropPad/axes", OpType: "CenterCropPad", Inputs: []Input{Random(2, 3, 6), vector(3, 4)}, Attributes: list(integers("axes", -1, 0))},

		GradientCase{Name: "ScatterElements", OpType: "ScatterElements", Inputs: []Input{Random(3, 3), Fixed([]int64{1, 0, 2, 0, 2, 1}, 2, 3), Random(2, 3)}},
		GradientCase{OpType: "ScatterND", Inputs: []Input{Random(4, 3), Fixed([]int64{2, 0}, 2, 1), Random(2, 3)}},
		GradientCase{OpType: "Scatter", Opset: 9, Inputs: []Input{Random(2, 4), Fixed([]int64{1, 3}, 1, 2), Random(1, 2)}, Attributes: list(integer("axis", 1))},

		GradientCase{OpType: "OneHot", Inputs: []Input{Fixed([]int64{0, 2, -1}, 3), element[int64](4), Random(2)}},
		GradientCase{Name: "OneHot/axis", OpType: "OneHot", Inputs: []Input{Fixed([]int64{0, 2, 9}, 3), element[int64](4), Random(2)}, Attributes: list(integer("axis", 0))},
		GradientCase{OpType: "Unique", Outputs: 4, Inputs: []Input{With([]float64{2, 1, 3, 4}, 2, 2)}},
		GradientCase{Name: "Unique/axis", OpType: "Unique", Inputs: []Input{Random(3, 2)}, Attributes: list(integer("axis", 0), integer("sorted", 0))},

		GradientCase{OpType: "Dropout", Inputs: []Input{Random(3, 4)}},
		GradientCase{Name: "Dropout/ratio", OpType: "Dropout", Inputs: []Input{Random(3, 4), element(0.3)}},
		GradientCase{Name: "Dropout/attribute", OpType: "Dropout", Opset: 10, Inputs: []Input{Random(3, 4)}, Attributes: list(onnx.FloatAttribute("ratio", 0.3))},
		GradientCase{Name: "Dropout/not training", OpType: "Dropout", Inputs: []Input{Random(3, 4), element(0.3), element(false)}},
		GradientCase{Name: "Dropout/nothing dropped", OpType: "Dropout", Outputs: 2, Inputs: []Input{Random(3, 4), element(0.0), element(true)}},
		GradientCase{Name: "Dropout/ai.fmoe", Domain: moe.Domain, OpType: "Dropout", Inputs: step(0)},
		GradientCase{Name: "Dropout/ai.fmoe step", Domain: moe.Domain, OpType: "Dropout", Inputs: step(7), Attributes: list(integer("seed", -5), integer("layer", 3))},
	)
	for _, reduction := range []string{"add", "mul", "max", "min"} {
		attributes := list(text("reduction", reduction), integer("axis", 1))
		GradientCases = append(GradientCases,
			GradientCase{Name: "ScatterElements/" + reduction, OpType: "ScatterElements", Attributes: attributes,
				Inputs: []Input{Random(2, 4), Fixed([]int64{0, 3, -1, 1, 1, 1}, 2, 3), Random(2, 3)}},
			GradientCase{Name: "ScatterND/" + reduction, OpType: "ScatterND", Attributes: attributes[:1],
				Inputs: []Input{Random(4, 2), Fixed([]int64{2, 0, 2}, 3, 1), Random(3, 2)}})
	}
	GradientCases = append(GradientCases,
		GradientCase{Name: "ScatterElements/zeros", OpType: "ScatterElements", Attributes: list(text("reduction", "mul"), integer("axis", 1)),
			Inputs: []Input{With([]float64{1, 0, 2, 3}, 2, 2), Fixed([]int64{0, 1, 0, 1, 1, 0, 0, 0}, 2, 4), With([]float64{0, 2, 3, 4, 0, 0, 5, 6}, 2, 4)}})
	for _, e := range []struct {
		equation string
		shapes   [][]int
	}{
		{"ij,jk->ik", [][]int{{2, 3}, {3, 4}}},
		{"bhqd, bhkd -> bhqk", [][]int{{2, 3, 4, 5}, {2, 3, 2, 5}}},
		{"ij->ji", [][]int{{2, 3}}},
		{"ij->j", [][]int{{2, 3}}},
		{"ij", [][]int{{2, 3}}},
		{"ii", [][]int{{3, 3}}},
		{"ii->i", [][]int{{3, 3}}},
		{"iij,jk->ki", [][]int{{3, 3, 2}, {2, 2}}},
		{"i,j,k->", [][]int{{2}, {3}, {4}}},
		{"...ij,...jk->...ik", [][]int{{2, 1, 3, 4}, {5, 4, 2}}},
		{"...i->...", [][]int{{2, 3, 4}}},
		{"ij,ij->ij", [][]int{{2, 3}, {1, 3}}},
		{",i->i", [][]int{{}, {3}}},
	} {
		c := GradientCase{Name: "Einsum/" + e.equation, OpType: "Einsum", Attributes: list(text("equation", e.equation))}
		for _, shape := range e.shapes {
			c.Inputs = append(c.Inputs, Random(shape...))
		}
		GradientCases = append(GradientCases, c)
	}
}
