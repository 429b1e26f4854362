package op

import (
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
)

func init() {
	attributes := append([]string{"group"}, windowAttributes...)
	Register(
		// Conv, ONNX 1, 11 and 22, over any number of spatial dimensions.
		Operator{Name: "Conv", Since: []int{1, 11, 22}, Inputs: Between(2, 3), Outputs: Exactly(1),
			Attributes: attributes, Infer: inferConv},
		// ConvTranspose, ONNX 1, 11 and 22.
		Operator{Name: "ConvTranspose", Since: []int{1, 11, 22}, Inputs: Between(2, 3), Outputs: Exactly(1),
			Attributes: append([]string{"output_padding", "output_shape"}, attributes...), Infer: inferConvTranspose},
		// ConvInteger, ONNX 10: 8-bit inputs with zero points, a sum in int32.
		Operator{Name: "ConvInteger", Since: []int{10}, Inputs: Between(2, 4), Outputs: Exactly(1),
			Attributes: attributes, Infer: inferConvInteger},
		// QLinearConv, ONNX 10: ConvInteger whose sum is scaled to 8 bits.
		Operator{Name: "QLinearConv", Since: []int{10}, Inputs: Between(8, 9), Outputs: Exactly(1),
			Attributes: attributes, Infer: inferQLinearConv},
	)
}

// ConvGroups returns the attribute group of a convolution.
func ConvGroups(n *Node) (int, error) {
	group := n.Int("group", 1)
	if group < 1 || group > maxWindowValue {
		return 0, fmt.Errorf("group is %d, needs a positive number", group)
	}
	return int(group), nil
}

// ConvWindows returns the windows of a convolution whose weight has the given
// shape, [M, C/group, …] or transposed [C, M/group, …].
func ConvWindows(n *Node, weight []int) (*Windows, error) {
	if len(weight) < 3 {
		return nil, fmt.Errorf("the weight has rank %d, needs at least 3", len(weight))
	}
	kernel := make([]int64, len(weight)-2)
	for i := range kernel {
		kernel[i] = int64(weight[i+2])
	}
	return WindowsOf(n, len(kernel), kernel)
}

// ConvTransposeWindows returns the windows of a transposed convolution and the
// spatial shape of its output. positions is that of its input.
func ConvTransposeWindows(n *Node, weight, positions []int) (*Windows, []int, error) {
	w, err := ConvWindows(n, weight)
	if err != nil {
		return nil, nil, err
	}
	extra, wanted := n.Ints("output_padding"), n.Ints("output_shape")
	if extra != nil && len(extra) != len(positions) || wanted != nil && len(wanted) != len(positions) {
		return nil, nil, fmt.Errorf("output_padding %v and output_shape %v need %d values", extra, wanted, len(positions))
	}
	image := make([]int, len(positions))
	for i, count := range positions {
		add, length := 0, -1
		if extra != nil {
			if extra[i] < 0 || extra[i] > maxWindowValue {
				return nil, nil, fmt.Errorf("output_padding is %v, needs small numbers that are not negative", extra)
			}
			add = int(extra[i])
		}
		if wanted != nil {
			if wanted[i] < 0 || wanted[i] > 1<<40 {
				return nil, nil, fmt.Errorf("output_shape is %v, needs a shape", wanted)
			}
			length = int(wanted[i])
		}
		if image[i], err = w.unslide(i, count, add, length); err != nil {
			return nil, nil, err
		}
	}
	return w, image, nil
}

func inferConv(c *Inference) error {
	t, err := c.typeAmong(floatTypes, 0, 1, 2)
	if err != nil {
		return err
	}
	return c.convolution(t, 0, 1, 2)
}

func inferConvInteger(c *Inference) error {
	if err := c.quantized(0, 2); err != nil {
		return err
	}
	if err := c.quantized(1, 3); err != nil {
		return err
	}
	if err := c.wantScales(1, 2); err != nil {
		return err
	}
	if err := c.wantScales(c.outputChannels(1), 3); err != nil {
		return err
	}
	return c.convolution(onnx.Int32, 0, 1)
}

// wantScales fails where one of the inputs is known to have neither one element
// nor one for each of the given channels.
func (c *Inference) wantScales(channels Dim, inputs ...int) error {
	for _, i := range inputs {
		shape := c.Shape(i)
		if len(shape) == 0 || len(shape) == 1 && shape[0] == 1 {
			continue
		}
		if err := c.wantShape(i, channels); err != nil {
			return err
		}
	}
	return nil
}

// outputChannels returns dimension 0 of a weight.
func (c *Inference) outputChannels(weight int) Dim {
	if shape := c.Shape(weight); len(shape) > 0 {
		return shape[0]
	}
	return c.Fresh()
}

func inferQLinearConv(c *Inference) error {
	for _, pair := range [][2]int{{0, 2}, {3, 5}, {7, 7}} {
		if err := c.quantized(pair[0], pair[1]); err != nil {
			return err
		}
	}
	if _, err := c.typeAmong([]onnx.DataType{onnx.Float32}, 1, 4, 6); err != nil {
		return err
	}
	if _, err := c.typeAmong([]onnx.DataType{onnx.Int32}, 8); err != nil {
		return err
	}
	if err := c.wantScales(1, 1, 2, 6, 7); err != nil {
		return err
	}
	if err := c.wantScales(c.outputChannels(3), 4, 5); err != nil {
		return err
	}
	return c.convolution(c.Type(7), 0, 3, 8)
}

// quantized fails unless an input and its zero point have one 8-bit type.
func (c *Inference) quantized(input, zeroPoint int) error {
	_, err := c.typeAmong([]onnx.DataType{onnx.Int8, onnx.Uint8}, input, zeroPoint)
	return err
}

// convolution states output 0 of a convolution whose image, weight and
// perhaps bias are the given inputs.
func (c *Inference) convolution(t onnx.DataType, image, weight int, bias ...int) error {
	groups, err := ConvGroups(c.Node)
	if err != nil {
		return err
	}
	x, w := c.Shape(image), c.Shape(weight)
	if x == nil && w == nil {
		c.Set(0, t, nil)
		return nil
	}
	rank := max(len(x), len(w))
	for _, i := range []int{image, weight} {
		if s := c.Shape(i); s != nil && (len(s) != rank || rank < 3) {
			return fmt.Errorf("shapes %s and %s are not of a batch of images and a weight", FormatDims(x), FormatDims(w))
		}
	}
	if x == nil {
		x = c.Unknown(rank)
	}
	if w == nil {
		w = c.Unknown(rank)
	}
	if x[1].Known() && w[1].Known() && int(x[1]) != c.groupTimes(w[1], groups) {
		return fmt.Errorf("image %s has other channels than weight %s with %d groups", FormatDims(x), FormatDims(w), groups)
	}
	if w[0].Known() && int(w[0])%groups != 0 {
		return fmt.Errorf("weight %s does not divide into %d groups", FormatDims(w), groups)
	}
	for _, i := range bias {
		if err := c.wantShape(i, w[0]); err != nil {
			return err
		}
	}
	out := c.Unknown(rank)
	out[0], out[1] = x[0], w[0]
	if allKnown(w[2:]) {
		windows, err := ConvWindows(c.Node, ints(w))
		if err != nil {
			return err
		}
		if err := c.slide(windows, x[2:], out[2:]); err != nil {
			return err
		}
	}
	c.Set(0, t, out)
	return nil
}

// slide states the number of windows along each axis whose length is known.
func (c *Inference) slide(w *Windows, image, out []Dim) error {
	for i, d := range image {
		out[i] = c.Fresh()
		if d.Known() {
			count, err := w.slide(i, int(d))
			if err != nil {
				return err
			}
			out[i] = Dim(count)
		}
	}
	return nil
}

func (c *Inference) groupTimes(d Dim, groups int) int { return int(c.Mul(d, Dim(groups))) }

func allKnown(shape []Dim) bool {
	for _, d := range shape {
		if !d.Known() {
			return false
		}
	}
	return true
}

func ints(shape []Dim) []int {
	f := Fact{Shape: shape}
	return f.Ints()
}

func inferConvTranspose(c *Inference) error {
	t, err := c.typeAmong(floatTypes, 0, 1, 2)
	if err != nil {
		return err
	}
	groups, err := ConvGroups(c.Node)
	if err != nil {
		return err
	}
	x, w := c.Shape(0), c.Shape(1)
	if x == nil || w == nil {
		c.Set(0, t, nil)
		return nil
	}
	if len(x) != len(w) || len(x) < 3 {
		return fmt.Errorf("shapes %s and %s are not of a batch of images and a weight", FormatDims(x), FormatDims(w))
	}
	if channels, err := Unify(x[1], w[0]); err != nil || channels.Known() && int(channels)%groups != 0 {
		return fmt.Errorf("image %s and weight %s do not match with %d groups", FormatDims(x), FormatDims(w), groups)
	}
	out := c.Unknown(len(x))
	out[0], out[1] = x[0], c.Mul(w[1], Dim(groups))
	if err := c.wantShape(2, out[1]); err != nil {
		return err
	}
	if allKnown(w[2:]) && allKnown(x[2:]) {
		_, image, err := ConvTransposeWindows(c.Node, ints(w), ints(x[2:]))
		if err != nil {
			return err
		}
		copy(out[2:], Dims(image...))
	} else if allKnown(w[2:]) {
		if _, err := ConvWindows(c.Node, ints(w)); err != nil {
			return err
		}
	}
	c.Set(0, t, out)
	return nil
}
