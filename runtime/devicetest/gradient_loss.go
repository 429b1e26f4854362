package devicetest

import (
	"fmt"

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

	labels := Fixed([]int64{1, 0, 3, 3, 2, 1}, 2, 3)
	weights := Fixed([]float64{0.5, 2, 1, 0.25}, 4)
	for _, reduction := range []string{"mean", "sum", "none"} {
		for _, opset := range []int64{12, 13, 24} {
			attributes := []*onnx.Attribute{onnx.StringAttribute("reduction", reduction)}
			for _, opType := range []string{"SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss"} {
				GradientCases = append(GradientCases,
					GradientCase{Name: fmt.Sprintf("%s/%s/%d", opType, reduction, opset), OpType: opType, Opset: opset, Attributes: attributes,
						Inputs: []Input{Random(2, 4, 3), labels}},
					GradientCase{Name: fmt.Sprintf("%s/%s/%d/weights", opType, reduction, opset), OpType: opType, Opset: opset,
						Attributes: append(attributes, onnx.IntAttribute("ignore_index", 3)), Inputs: []Input{Random(2, 4, 3), labels, weights}})
			}
		}
	}
	GradientCases = append(GradientCases,
		GradientCase{Name: "SoftmaxCrossEntropyLoss/logarithms", OpType: "SoftmaxCrossEntropyLoss", Outputs: 2, Inputs: []Input{Random(2, 4, 3), labels}},
		GradientCase{Name: "SoftmaxCrossEntropyLoss/matrix", OpType: "SoftmaxCrossEntropyLoss", Inputs: []Input{Random(3, 4), Fixed([]int32{1, 0, 3}, 3)}},
	)
}
