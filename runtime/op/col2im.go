package op

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
)

func init() {
	Register(
		// Col2Im, ONNX 18: adds up overlapping blocks to an image.
		Operator{Name: "Col2Im", Since: []int{18}, Inputs: Exactly(3), Outputs: Exactly(1),
			Attributes: []string{"dilations", "pads", "strides"}, Parameters: []int{1, 2}, Infer: inferCol2Im, Gradient: col2ImGradient},
	)
}

// BlockAxis is one spatial axis of a Col2Im: Count blocks of Length elements,
// which are Dilation apart, start Stride apart, the first of them Pad before
// the image of Image elements.
type BlockAxis struct {
	Image, Length, Dilation, Stride, Pad, Count int
}

// BlockAxes returns the spatial axes of a Col2Im node, nil where they are not
// known.
func BlockAxes(n *Node, content Content) ([]BlockAxis, error) {
	image, imageKnown := content(1)
	block, blockKnown := content(2)
	if !imageKnown || !blockKnown {
		return nil, nil
	}
	rank := len(image)
	list := func(attribute string, length int, fallback int64) ([]int64, error) {
		if n.Attribute(attribute) == nil {
			values := make([]int64, length)
			for i := range values {
				values[i] = fallback
			}
			return values, nil
		}
		if values := n.Ints(attribute); len(values) == length {
			return values, nil
		}
		return nil, fmt.Errorf("attribute %s has %d elements, needs %d", attribute, len(n.Ints(attribute)), length)
	}
	dilations, err1 := list("dilations", rank, 1)
	pads, err2 := list("pads", 2*rank, 0)
	strides, err3 := list("strides", rank, 1)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	if len(block) != rank {
		return nil, fmt.Errorf("image shape %v and block shape %v differ in length", image, block)
	}
	axes := make([]BlockAxis, rank)
	for i := range axes {
		const limit = math.MaxInt32
		for _, v := range []int64{image[i], block[i], dilations[i], strides[i], pads[i] + 1, pads[i+rank] + 1} {
			if v < 1 || v > limit {
				return nil, fmt.Errorf("image shape, block shape, dilations, strides or pads of axis %d are not positive, or too large", i)
			}
		}
		space := image[i] + pads[i] + pads[i+rank] - dilations[i]*(block[i]-1) - 1
		if space < 0 {
			return nil, fmt.Errorf("a block exceeds the image along axis %d", i)
		}
		axes[i] = BlockAxis{Image: int(image[i]), Length: int(block[i]), Dilation: int(dilations[i]), Stride: int(strides[i]),
			Pad: int(pads[i]), Count: int(space/strides[i]) + 1}
	}
	return axes, nil
}

// col2ImGradient gathers the blocks again, from the image with a zero behind
// it for what is padding.
func col2ImGradient(b *Backward) {
	axes, err := BlockAxes(b.Node, b.constantInts)
	if err != nil || axes == nil {
		b.Fail(errors.Join(errors.New("the gradient needs constant shapes of image and block"), err))
		return
	}
	length, count, image := 1, 1, 1
	for _, a := range axes {
		length, count, image = length*a.Length, count*a.Count, image*a.Image
		if length > 1<<24 || count > 1<<24/length || image > math.MaxInt32 {
			b.Fail(errors.New("there are too many blocks for a gradient"))
			return
		}
	}
	positions := make([]int64, length*count)
	for i := range positions {
		element, block, stride := i/count, i%count, 1
		for _, a := range slices.Backward(axes) {
			at := block%a.Count*a.Stride - a.Pad + element%a.Length*a.Dilation
			if at < 0 || at >= a.Image {
				positions[i] = int64(image)
				break
			}
			positions[i] += int64(at * stride)
			element, block, stride = element/a.Length, block/a.Count, stride*a.Image
		}
	}
	g := b.Op("Reshape", b.Gradient(0), b.Ints(0, 0, int64(image)))
	g = b.Op("Pad", g, b.Ints(0, 1), NoValue, b.Ints(-1))
	g = b.Add(&onnx.Node{OpType: "Gather", Attributes: []*onnx.Attribute{onnx.IntAttribute("axis", -1)}}, g, b.Ints(positions...))
	b.Set(0, b.Reshape(g, b.Input(0)))
}

// constantInts is the Content of a node whose gradient is built.
func (b *Backward) constantInts(input int) ([]int64, bool) {
	v := b.Fact(b.Input(input)).Value
	if v == nil {
		return nil, false
	}
	list, err := v.Ints()
	return list, err == nil
}

func inferCol2Im(c *Inference) error {
	if err := c.wantParameters(1, 2); err != nil {
		return err
	}
	axes, err := BlockAxes(c.Node, c.Ints)
	if err != nil {
		return err
	}
	columns := c.Shape(0)
	if columns != nil && len(columns) != 3 {
		return fmt.Errorf("input has shape %s, needs three dimensions", FormatDims(columns))
	}
	if axes == nil || columns == nil {
		c.Set(0, c.Type(0), nil)
		return nil
	}
	blocks, elements := Dim(1), Dim(1)
	var image []Dim
	for _, a := range axes {
		blocks, elements = c.Mul(blocks, Dim(a.Count)), c.Mul(elements, Dim(a.Length))
		image = append(image, Dim(a.Image))
	}
	if _, err := Unify(columns[2], blocks); err != nil {
		return fmt.Errorf("input of shape %s has not the %d blocks that the image has", FormatDims(columns), blocks)
	}
	channels, err := c.quotient(columns[1:2], []Dim{elements})
	if err != nil {
		return fmt.Errorf("the channels of %s are no multiple of the %d elements of a block", FormatDims(columns), elements)
	}
	c.Set(0, c.Type(0), append([]Dim{columns[0], channels}, image...))
	return nil
}
