package devicetest

import (
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

func init() {
	entropy := func(name string, labels []int64, attributes ...*onnx.Attribute) GradientCase {
		return GradientCase{Name: "CrossEntropy/" + name, Domain: moe.Domain, OpType: "CrossEntropy", Outputs: 3, Attributes: attributes,
			Inputs: []Input{Random(2, 3, 5), Fixed(labels, 2, 3)}}
	}
	GradientCases = append(GradientCases,
		entropy("mean", []int64{4, 0, -100, 2, 2, 1}),
		entropy("ignored", []int64{4, 0, 2, 2, 3, 1}, onnx.IntAttribute("ignore_index", 2)),
		entropy("smooth", []int64{4, 0, -100, 2, 2, 1}, onnx.FloatAttribute("label_smoothing", 0.25)),
		entropy("z_loss", []int64{4, 0, -100, 2, 2, 1}, onnx.FloatAttribute("z_loss", 0.5), onnx.FloatAttribute("label_smoothing", 0.25)),
		GradientCase{Name: "CrossEntropy/nothing", Domain: moe.Domain, OpType: "CrossEntropy",
			Inputs: []Input{Random(2, 5), Fixed([]int64{-100, -100}, 2)}},
	)
}
