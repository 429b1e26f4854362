package devicetest

import (
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	const microsoft = "com.microsoft"
	add := func(c GradientCase) { GradientCases = append(GradientCases, c) }
	axis := func(a int64) []*onnx.Attribute {
		return []*onnx.Attribute{onnx.IntAttribute("axis", a), onnx.FloatAttribute("epsilon", 0.01)}
	}
	absent := Input{Absent: true}
	for _, n := range []struct {
		domain, opType string
		opset          int64
		bias           bool
	}{
		{"", "LayerNormalization", 24, true}, {"", "LayerNormalization", 16, true}, {"", "RMSNormalization", 24, false},
		{"", "SimplifiedLayerNormalization", 24, false}, {microsoft, "SimplifiedLayerNormalization", 1, false},
	} {
		for _, c := range []struct {
			axis               int64
			shape, scale, bias []int
		}{
			{-1, []int{2, 3, 7}, []int{7}, []int{7}},
			{1, []int{40, 2, 3}, []int{2, 3}, []int{2, 3}}, // more than a block of lines
			{0, []int{2, 5}, []int{2, 5}, nil},
			{-1, []int{2, 3, 5}, []int{5}, []int{1}},
			{-2, []int{2, 3, 5}, []int{5}, []int{3, 1}},
			{-1, []int{2, 3, 5}, []int{3, 1}, nil},
		} {
			in := []Input{Random(c.shape...), Random(c.scale...)}
			if n.bias && c.bias != nil {
				in = append(in, Random(c.bias...))
			}
			add(GradientCase{Name: fmt.Sprintf("%s%s/%d/%d/%v/%v", n.domain, n.opType, n.opset, c.axis, c.scale, c.bias), Domain: n.domain, OpType: n.opType, Opset: n.opset,
				Inputs: in, Attributes: axis(c.axis)})
		}
	}
	epsilon := []*onnx.Attribute{onnx.FloatAttribute("epsilon", 0.01)}
	x, line := Random(2, 3, 5), Random(5)
	for _, outputs := range []int{1, 4} {
		ignore := []int{1, 2}
		if outputs == 1 {
			ignore = nil
		}
		add(GradientCase{Name: fmt.Sprint("SkipLayerNormalization/", outputs), Domain: microsoft, OpType: "SkipLayerNormalization", Outputs: outputs, Ignore: ignore,
			Inputs: []Input{x, x, line, line, line}, Attributes: epsilon})
		add(GradientCase{Name: fmt.Sprint("SkipSimplifiedLayerNormalization/", outputs), Domain: microsoft, OpType: "SkipSimplifiedLayerNormalization", Outputs: outputs,
			Ignore: ignore, Inputs: []Input{x, Random(1, 3, 5), line, line}, Attributes: epsilon})
	}
	add(GradientCase{Name: "SkipLayerNormalization/bare", Domain: microsoft, OpType: "SkipLayerNormalization", Inputs: []Input{x, Random(3, 5), line}, Attributes: epsilon})
	ids := func(rows ...int32) Input { return Input{Value: tensor.FromSlice(rows, 2, 3)} }
	words, tokens := ids(1, 4, 1, 0, 5, 1), ids(0, 1, 1, 0, 0, 1)
	add(GradientCase{Name: "EmbedLayerNormalization", Domain: microsoft, OpType: "EmbedLayerNormalization", Outputs: 3, Ignore: []int{1}, Attributes: epsilon,
		Inputs: []Input{words, tokens, Random(6, 5), Random(4, 5), Random(2, 5), line, line}})
	add(GradientCase{Name: "EmbedLayerNormalization/positions", Domain: microsoft, OpType: "EmbedLayerNormalization", Outputs: 2, Ignore: []int{1}, Attributes: epsilon,
		Inputs: []Input{words, absent, Random(6, 5), Random(4, 5), absent, line, line, absent, {Value: tensor.FromSlice([]int32{3, 1, 3}, 1, 3)}}})

	image, channels := Random(2, 4, 3, 2), Random(4)
	for _, opset := range []int64{7, 9, 24} {
		add(GradientCase{Name: fmt.Sprint("BatchNormalization/", opset), OpType: "BatchNormalization", Opset: opset, Attributes: epsilon,
			Inputs: []Input{image, channels, channels, channels, Within(0.5, 1, 4)}})
	}
	training := append([]*onnx.Attribute{onnx.IntAttribute("training_mode", 1)}, epsilon...)
	add(GradientCase{Name: "BatchNormalization/training", OpType: "BatchNormalization", Outputs: 3, Ignore: []int{1, 2}, Attributes: training,
		Inputs: []Input{image, channels, channels, Fixed(make([]float64, 4), 4), Fixed(make([]float64, 4), 4)}})
	add(GradientCase{Name: "BatchNormalization/vector", OpType: "BatchNormalization", Attributes: training,
		Inputs: []Input{Random(6), Random(1), Random(1), Fixed([]float64{0}, 1), Fixed([]float64{1}, 1)}})
	add(GradientCase{OpType: "InstanceNormalization", Inputs: []Input{image, channels, channels}, Attributes: epsilon})
	add(GradientCase{Name: "InstanceNormalization/6", OpType: "InstanceNormalization", Opset: 6, Inputs: []Input{image, channels, channels}, Attributes: epsilon})
	groups := append([]*onnx.Attribute{onnx.IntAttribute("num_groups", 2)}, epsilon...)
	add(GradientCase{OpType: "GroupNormalization", Inputs: []Input{image, channels, channels}, Attributes: groups})
	add(GradientCase{Name: "GroupNormalization/18", OpType: "GroupNormalization", Opset: 18, Inputs: []Input{image, Random(2), Random(2)}, Attributes: groups})
	add(GradientCase{OpType: "MeanVarianceNormalization", Inputs: []Input{image}})
	add(GradientCase{Name: "MeanVarianceNormalization/axes", OpType: "MeanVarianceNormalization", Inputs: []Input{image}, Attributes: []*onnx.Attribute{onnx.IntsAttribute("axes", 1, -1)}})
	for p := range int64(2) {
		add(GradientCase{Name: fmt.Sprint("LpNormalization/", p+1), OpType: "LpNormalization", Inputs: []Input{Within(0.1, 1, 3, 4, 2)},
			Attributes: []*onnx.Attribute{onnx.IntAttribute("p", p+1), onnx.IntAttribute("axis", 1)}})
	}
	for _, size := range []int64{1, 2, 3, 9} {
		add(GradientCase{Name: fmt.Sprint("LRN/", size), OpType: "LRN", Inputs: []Input{image},
			Attributes: []*onnx.Attribute{onnx.IntAttribute("size", size), onnx.FloatAttribute("alpha", 0.5), onnx.FloatAttribute("bias", 2)}})
	}
}
