package devicetest

import "github.com/fmoe-go/fmoe/onnx"

func init() {
	integer, integers, text := onnx.IntAttribute, onnx.IntsAttribute, onnx.StringAttribute
	list := func(attributes ...*onnx.Attribute) []*onnx.Attribute { return attributes }
	vector := func(v ...int64) Input { return Fixed(v, len(v)) }
	scales := func(v ...float32) Input { return Fixed(v, len(v)) }
	none := Input{Absent: true}
	image := Random(2, 1, 3, 4)
	resize := func(name string, attributes []*onnx.Attribute, inputs ...Input) GradientCase {
		return GradientCase{Name: "Resize/" + name, OpType: "Resize", Inputs: append([]Input{image}, inputs...), Attributes: attributes}
	}
	linear, cubic := text("mode", "linear"), text("mode", "cubic")
	coordinates := func(s string) *onnx.Attribute { return text("coordinate_transformation_mode", s) }
	GradientCases = append(GradientCases,
		GradientCase{OpType: "AffineGrid", Inputs: []Input{Random(2, 2, 3), vector(2, 1, 3, 4)}},
		GradientCase{Name: "AffineGrid/corners", OpType: "AffineGrid", Inputs: []Input{Random(1, 3, 4), vector(1, 2, 2, 3, 4)}, Attributes: list(integer("align_corners", 1))},
		GradientCase{OpType: "Col2Im", Inputs: []Input{Random(1, 8, 6), vector(3, 4), vector(2, 2)}},
		GradientCase{Name: "Col2Im/padding", OpType: "Col2Im", Inputs: []Input{Random(2, 4, 6), vector(4, 5), vector(2, 2)},
			Attributes: list(integers("pads", 1, 0, 1, 1), integers("strides", 2, 2), integers("dilations", 2, 1))},

		GradientCase{OpType: "GridSample", Inputs: []Input{Random(2, 3, 4, 5), Random(2, 3, 2, 2)}},
		GradientCase{Name: "GridSample/image", OpType: "GridSample", Inputs: []Input{Random(2, 3, 4, 5), {Shape: []int{2, 3, 2, 2}, Frozen: true}}},
		GradientCase{Name: "GridSample/grid", OpType: "GridSample", Inputs: []Input{{Shape: []int{2, 3, 4, 5}, Frozen: true}, Random(2, 3, 2, 2)}},
		GradientCase{Name: "GridSample/nearest", OpType: "GridSample", Inputs: []Input{Random(1, 2, 4, 5), Random(1, 3, 2, 2)}, Attributes: list(text("mode", "nearest"))},
		GradientCase{Name: "GridSample/border", OpType: "GridSample", Inputs: []Input{Random(1, 2, 4, 5), Within(-2, 2, 1, 3, 4, 2)},
			Attributes: list(text("padding_mode", "border"), integer("align_corners", 1))},
		GradientCase{Name: "GridSample/reflection", OpType: "GridSample", Inputs: []Input{Random(1, 2, 4, 5), Within(-4, 4, 1, 3, 4, 2)}, Attributes: list(text("padding_mode", "reflection"))},
		GradientCase{Name: "GridSample/cubic", OpType: "GridSample", Inputs: []Input{Random(1, 2, 4, 5), Within(-2, 2, 1, 3, 4, 2)}, Attributes: list(text("mode", "cubic"))},
		GradientCase{Name: "GridSample/cubic reflection", OpType: "GridSample", Opset: 16, Inputs: []Input{Random(1, 2, 4, 5), Within(-2, 2, 1, 3, 4, 2)},
			Attributes: list(text("mode", "bicubic"), text("padding_mode", "reflection"), integer("align_corners", 1))},
		GradientCase{Name: "GridSample/volume", OpType: "GridSample", Inputs: []Input{Random(1, 1, 3, 4, 2), Random(1, 2, 1, 3, 3)}},
		resize("nearest", nil, none, scales(1, 1, 2, 1.5)),
		resize("nearest sizes", list(text("nearest_mode", "ceil")), none, none, vector(2, 1, 2, 5)),
		resize("linear", list(linear), none, scales(1, 1, 1.7, 0.6)),
		resize("linear sizes", list(linear, coordinates("align_corners"), integers("axes", 3)), none, none, vector(7)),
		resize("antialias", list(linear, integer("antialias", 1)), none, scales(1, 1, 0.6, 0.5)),
		resize("cubic", list(cubic, onnx.FloatAttribute("cubic_coeff_a", -0.5), integer("exclude_outside", 1)), none, none, vector(2, 1, 5, 3)),
		resize("ratio", list(text("keep_aspect_ratio_policy", "not_larger"), integers("axes", 2, 3)), none, none, vector(9, 8)),
		resize("crop", list(linear, coordinates("tf_crop_and_resize"), onnx.FloatAttribute("extrapolation_value", 10)),
			scales(0, 0, 0.2, -0.3, 1, 1, 0.9, 1.2), none, vector(2, 1, 3, 4)),
		GradientCase{Name: "Resize/10", OpType: "Resize", Opset: 10, Inputs: []Input{image, scales(1, 1, 0.6, 2)}},
		GradientCase{OpType: "Upsample", Opset: 9, Inputs: []Input{image, scales(1, 1, 2, 3)}, Attributes: list(linear)},
		GradientCase{Name: "Upsample/attribute", OpType: "Upsample", Opset: 7, Inputs: []Input{image},
			Attributes: list(&onnx.Attribute{Name: "scales", Type: onnx.AttributeFloats, Floats: []float32{1, 1, 2, 2}})},

		GradientCase{OpType: "Det", Inputs: []Input{Random(2, 3, 3)}},
		GradientCase{Name: "Det/singular", OpType: "Det", Inputs: []Input{With([]float64{1, 2, 3, 2, 4, 6, 1, 1, 5}, 3, 3)}},
		GradientCase{Name: "Det/number", OpType: "Det", Inputs: []Input{Random(1, 1)}},

		GradientCase{OpType: "STFT", Inputs: []Input{Random(2, 12, 1), element[int64](3), Random(5)}},
		GradientCase{Name: "STFT/complex", OpType: "STFT", Inputs: []Input{Random(1, 10, 2), element[int64](2), none, element[int64](4)}, Attributes: list(integer("onesided", 0))},
		GradientCase{Name: "STFT/matrix", OpType: "STFT", Inputs: []Input{Random(2, 10), element[int64](2), none, element[int64](4)}},
		GradientCase{OpType: "DFT", Inputs: []Input{Random(2, 5, 2)}},
		GradientCase{Name: "DFT/real", OpType: "DFT", Inputs: []Input{Random(2, 5, 1)}, Attributes: list(integer("onesided", 1))},
		GradientCase{Name: "DFT/longer", OpType: "DFT", Inputs: []Input{Random(5, 2, 1), element[int64](8), element[int64](0)}, Attributes: list(integer("onesided", 1))},
		GradientCase{Name: "DFT/shorter", OpType: "DFT", Opset: 17, Inputs: []Input{Random(2, 5, 2), element[int64](4)}, Attributes: list(integer("axis", 1))},
		GradientCase{Name: "DFT/inverse to real", OpType: "DFT", Inputs: []Input{Random(3, 4, 2), {Absent: true}, element[int64](1)},
			Attributes: list(integer("inverse", 1), integer("onesided", 1))},
		GradientCase{Name: "DFT/inverse to odd", OpType: "DFT", Inputs: []Input{Random(4, 3, 2), element[int64](5), element[int64](0)},
			Attributes: list(integer("inverse", 1), integer("onesided", 1))},
		GradientCase{Name: "DFT/inverse", OpType: "DFT", Inputs: []Input{Random(2, 5, 2)}, Attributes: list(integer("inverse", 1))},
	)
}
