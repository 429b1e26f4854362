package op

import (
	"errors"
	"fmt"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
)

func init() {
	attributes := append([]string{"group"}, windowAttributes...)
	Register(
		// Conv, ONNX 1, 11 and 22, over any number of spatial dimensions.
		Operator{Name: "Conv", Since: []int{1, 11, 22}, Inputs: Between(2, 3), Outputs: Exactly(1),
			Attributes: attributes, Infer: inferConv, Gradient: convGradient},
		// ConvTranspose, ONNX 1, 11 and 22.
		Operator{Name: "ConvTranspose", Since: []int{1, 11, 22}, Inputs: Between(2, 3), Outputs: Exactly(1),
			Attributes: append([]string{"output_padding", "output_shape"}, attributes...), Infer: inferConvTranspose,
			Gradient: convTransposeGradient},
		// ConvInteger, ONNX 10: 8-bit inputs with zero points, a sum in int32.
		Operator{Name: "ConvInteger", Since: []int{10}, Inputs: Between(2, 4), Outputs: Exactly(1),
			Attributes: attributes, Infer: inferConvInteger, Gradient: refuseRounding},
		// QLinearConv, ONNX 10: ConvInteger whose sum is scaled to 8 bits.
		Operator{Name: "QLinearConv", Since: []int{10}, Inputs: Between(8, 9), Outputs: Exactly(1),
			Attributes: attributes, Infer: inferQLinearConv, Gradient: refuseRounding},
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

// known returns the dimensions of a value from the given one on, and fails
// where one of them is not known before a run.
func (b *Backward) known(v Value, from int) []int {
	shape := b.Fact(v).Shape
	if len(shape) <= from || !allKnown(shape[from:]) {
		b.Fail(errors.New("the gradient needs the dimensions of images and kernels, which are not known before a run; state the shapes of the model's inputs"))
		return nil
	}
	return ints(shape[from:])
}

// windowing makes attributes of windows, with padding of the image.
func windowing(stride, dilation, before, after []int) []*onnx.Attribute {
	wide := func(lists ...[]int) (out []int64) {
		for _, list := range lists {
			for _, n := range list {
				out = append(out, int64(n))
			}
		}
		return out
	}
	return []*onnx.Attribute{onnx.IntsAttribute("strides", wide(stride)...), onnx.IntsAttribute("dilations", wide(dilation)...),
		onnx.IntsAttribute("pads", wide(before, after)...)}
}

// transposed returns the attributes of the ConvTranspose that gives an image of
// the given shape for its windows.
func (w *Windows) transposed(image, positions []int) []*onnx.Attribute {
	after, extra := make([]int, len(image)), make([]int64, len(image))
	for i, length := range image {
		surplus := (positions[i]-1)*w.Stride[i] + w.extent(i) - w.Before[i] - length
		after[i], extra[i] = max(surplus, 0), int64(max(-surplus, 0))
	}
	return append(windowing(w.Stride, w.Dilation, w.Before, after), onnx.IntsAttribute("output_padding", extra...))
}

// convGradient: with respect to the image, a convolution is transposed.
func convGradient(b *Backward) {
	g, x, weight := b.Gradient(0), b.Input(0), b.Input(1)
	image, kernel := b.known(x, 2), b.known(weight, 0)
	if b.err != nil {
		return
	}
	w, groups, positions, err := b.convolved(kernel, image)
	if err != nil {
		b.Fail(err)
		return
	}
	if b.Wants(0) {
		n := &onnx.Node{OpType: "ConvTranspose", Attributes: append(w.transposed(image, positions), onnx.IntAttribute("group", groups))}
		b.Set(0, b.Add(n, g, weight))
	}
	if b.Wants(1) {
		b.Set(1, b.kernelGradient(x, g, w, groups, kernel[2:]))
	}
	if b.Wants(2) {
		b.Set(2, b.Reshape(b.Op("ReduceSum", g, b.otherAxes(len(kernel))), b.Input(2)))
	}
}

// convolved returns the windows of a convolution, its groups, and how many
// windows an image has.
func (b *Backward) convolved(kernel, image []int) (w *Windows, groups int64, positions []int, err error) {
	if w, err = ConvWindows(b.Node, kernel); err != nil {
		return nil, 0, nil, err
	}
	positions, err = w.Positions(image)
	return w, b.Node.Int("group", 1), positions, err
}

// convTransposeGradient: with respect to the input, a transposed convolution is
// a convolution.
func convTransposeGradient(b *Backward) {
	g, x, weight := b.Gradient(0), b.Input(0), b.Input(1)
	positions, kernel := b.known(x, 2), b.known(weight, 0)
	if b.err != nil {
		return
	}
	w, image, err := ConvTransposeWindows(b.Node, kernel, positions)
	if err != nil {
		b.Fail(err)
		return
	}
	groups := b.Node.Int("group", 1)
	w.autoPad = "" // the padding is decided
	if fits, err := w.Positions(image); err != nil || !slices.Equal(fits, positions) {
		b.Fail(fmt.Errorf("an output of shape %v, larger than the windows, has %w", image, ErrNoGradient))
		return
	}
	if b.Wants(0) {
		n := &onnx.Node{OpType: "Conv", Attributes: append(windowing(w.Stride, w.Dilation, w.Before, w.After), onnx.IntAttribute("group", groups))}
		b.Set(0, b.Add(n, g, weight))
	}
	if b.Wants(1) {
		b.Set(1, b.kernelGradient(g, x, w, groups, kernel[2:]))
	}
	if b.Wants(2) {
		b.Set(2, b.Reshape(b.Op("ReduceSum", g, b.otherAxes(len(kernel))), b.Input(2)))
	}
}

// kernelGradient returns the gradient [groups·M, C, kernel…] of a kernel that
// slides over images [N, groups·C, …], where g [N, groups·M, …] belongs to its
// positions: a convolution of the images by g, whose steps are the kernel's
// dilations, with images and channels exchanged.
func (b *Backward) kernelGradient(images, g Value, w *Windows, groups int64, kernel []int) Value {
	shape := b.known(images, 2)
	swap := []int64{1, 0}
	for i := range shape {
		swap = append(swap, int64(i+2))
	}
	spatial := func(front ...int64) Value {
		for _, n := range shape {
			front = append(front, int64(n))
		}
		return b.Ints(front...)
	}
	x := b.Transpose(images, swap...)
	if groups > 1 { // [N, groups, C, …] becomes [C, groups·N, …]
		perm := []int64{2, 1, 0}
		for i := range shape {
			perm = append(perm, int64(i+3))
		}
		x = b.Op("Reshape", b.Transpose(b.Op("Reshape", images, spatial(0, groups, -1)), perm...), spatial(0, -1))
	}
	n := &onnx.Node{OpType: "Conv", Attributes: append(windowing(w.Dilation, w.Stride, w.Before, w.After), onnx.IntAttribute("group", groups))}
	d := b.Add(n, x, b.Transpose(g, swap...))
	// Images may reach beyond the last windows.
	ends, starts, axes := make([]int64, len(kernel)), make([]int64, len(kernel)), make([]int64, len(kernel))
	for i, size := range kernel {
		ends[i], axes[i] = int64(size), int64(i+2)
	}
	return b.Transpose(b.Op("Slice", d, b.Ints(starts...), b.Ints(ends...), b.Ints(axes...)), swap...)
}
