package devicetest

import (
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
)

func init() {
	type attributes = []*onnx.Attribute
	number, numbers, text := onnx.IntAttribute, onnx.IntsAttribute, onnx.StringAttribute
	add := func(opType, name string, opset int64, a attributes, in ...Input) {
		GradientCases = append(GradientCases, GradientCase{Name: opType + "/" + name, OpType: opType, Opset: opset, Inputs: in, Attributes: a})
	}
	for _, c := range []struct {
		name                string
		attributes          attributes
		image, kernel, bias []int
	}{
		{"line", nil, []int{2, 3, 7}, []int{4, 3, 3}, []int{4}},
		{"pads", attributes{numbers("pads", 1, 0, 2, 1)}, []int{2, 2, 5, 6}, []int{3, 2, 3, 2}, []int{3}},
		{"strides", attributes{numbers("strides", 2, 3)}, []int{2, 2, 6, 9}, []int{3, 2, 3, 2}, nil},
		{"dilations", attributes{numbers("dilations", 2, 3), numbers("strides", 2, 1)}, []int{1, 2, 8, 7}, []int{3, 2, 3, 2}, nil},
		{"groups", attributes{number("group", 2), numbers("pads", 1, 1, 1, 1)}, []int{2, 4, 4, 4}, []int{6, 2, 3, 3}, []int{6}},
		{"depthwise", attributes{number("group", 3)}, []int{2, 3, 5, 4}, []int{3, 1, 2, 2}, nil},
		{"patches", attributes{numbers("strides", 2, 2)}, []int{2, 3, 4, 6}, []int{5, 3, 2, 2}, []int{5}},
		{"volume", nil, []int{1, 2, 3, 4, 3}, []int{2, 2, 2, 3, 2}, nil},
		{"same", attributes{text("auto_pad", "SAME_UPPER"), numbers("strides", 2, 2)}, []int{1, 2, 5, 6}, []int{2, 2, 3, 2}, nil},
		{"same lower", attributes{text("auto_pad", "SAME_LOWER")}, []int{1, 2, 5, 6}, []int{2, 2, 2, 2}, nil},
		{"pixels", nil, []int{2, 3, 2, 2}, []int{4, 3, 1, 1}, []int{4}},
	} {
		in := []Input{Random(c.image...), Random(c.kernel...)}
		if c.bias != nil {
			in = append(in, Random(c.bias...))
		}
		add("Conv", c.name, 24, c.attributes, in...)
	}
	add("Conv", "version 1", 10, nil, Random(2, 3, 7), Random(4, 3, 3))
	for _, c := range []struct {
		name          string
		attributes    attributes
		image, kernel []int
	}{
		{"line", nil, []int{2, 3, 4}, []int{3, 2, 3}},
		{"strides", attributes{numbers("strides", 2, 3), numbers("output_padding", 1, 0)}, []int{1, 2, 3, 2}, []int{2, 3, 3, 3}},
		{"pads", attributes{numbers("pads", 1, 0, 0, 1), numbers("dilations", 2, 1)}, []int{2, 2, 3, 3}, []int{2, 3, 2, 3}},
		{"groups", attributes{number("group", 2), numbers("strides", 2, 2)}, []int{2, 4, 2, 3}, []int{4, 3, 2, 2}},
		{"shape", attributes{numbers("output_shape", 6, 7), numbers("strides", 2, 2)}, []int{1, 2, 3, 3}, []int{2, 2, 3, 3}},
		{"same", attributes{text("auto_pad", "SAME_UPPER"), numbers("strides", 2)}, []int{1, 2, 3}, []int{2, 2, 3}},
	} {
		in := []Input{Random(c.image...), Random(c.kernel...)}
		add("ConvTranspose", c.name, 24, c.attributes, in...)
	}
	add("ConvTranspose", "bias", 24, attributes{number("group", 2)}, Random(2, 4, 3), Random(4, 3, 2), Random(6))

	image := Random(2, 3, 5, 6)
	window := numbers("kernel_shape", 3, 2)
	for name, a := range map[string]attributes{
		"plain":     {window},
		"strides":   {window, numbers("strides", 2, 2)},
		"pads":      {window, numbers("pads", 1, 1, 1, 0), number("ceil_mode", 1), numbers("strides", 2, 2)},
		"dilations": {window, numbers("dilations", 2, 3)},
		"same":      {window, text("auto_pad", "SAME_LOWER")},
	} {
		add("MaxPool", name, 24, a, image)
		add("AveragePool", name, 24, a, image)
		add("AveragePool", name+"/padding counts", 24, append(attributes{number("count_include_pad", 1)}, a...), image)
		for p := range int64(3) {
			add("LpPool", fmt.Sprint(name, "/", p+1), 24, append(attributes{number("p", p+1)}, a...), Within(0.1, 1, 2, 3, 5, 6))
		}
	}
	GradientCases = append(GradientCases, GradientCase{Name: "MaxPool/indices", OpType: "MaxPool", Outputs: 2, Inputs: []Input{image}, Attributes: attributes{window}})
	for _, opType := range []string{"GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool"} {
		add(opType, "image", 24, nil, image)
		add(opType, "matrix", 24, nil, Random(2, 3))
	}
	add("GlobalLpPool", "1", 24, attributes{number("p", 1)}, image)
	indices := Fixed([]int64{1, 3, 8, 10}, 1, 1, 2, 2)
	add("MaxUnpool", "plain", 24, attributes{numbers("kernel_shape", 2, 2), numbers("strides", 2, 2)}, Random(1, 1, 2, 2), indices)
	add("MaxUnpool", "shape", 24, attributes{numbers("kernel_shape", 2, 2), numbers("strides", 2, 2)}, Random(1, 1, 2, 2), indices, Fixed([]int64{1, 1, 5, 6}, 4))
}
