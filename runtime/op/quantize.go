package op

import (
	"fmt"
	"math"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
)

// Quantization of ONNX. A tensor is quantized as a whole (scalar scale), along
// an axis (scale a vector of its length), or in blocks (scale of the tensor's
// rank, one element for block_size of them along the axis).
func init() {
	since := []int{10, 13, 19, 21, 23, 24, 25, 28}
	Register(
		// QuantizeLinear: saturate(round(x / scale) + zero point). Version 13
		// added axis, 19 float8 and saturate, 21 blocks and output_dtype, 23
		// precision, the others element types.
		Operator{Name: "QuantizeLinear", Since: since, Inputs: Between(2, 3), Outputs: Exactly(1),
			Attributes: []string{"axis", "saturate", "block_size", "output_dtype", "precision"}, Infer: inferQuantize, Gradient: refuseRounding},
		// DequantizeLinear: (x − zero point) · scale. Version 23 added
		// output_dtype, the others are as above.
		Operator{Name: "DequantizeLinear", Since: since, Inputs: Between(2, 3), Outputs: Exactly(1),
			Attributes: []string{"axis", "block_size", "output_dtype"}, Infer: inferDequantize, Gradient: refuseRounding},
		// DynamicQuantizeLinear, ONNX 11, chooses scale and zero point (outputs
		// 1 and 2) such that uint8 holds 0 and all elements.
		Operator{Name: "DynamicQuantizeLinear", Since: []int{11}, Inputs: Exactly(1), Outputs: Exactly(3), Infer: inferDynamicQuantize, Gradient: refuseRounding},
	)
}

// refuseRounding is the Gradient of operators that compute with few integers,
// and have a derivative of 0 or none.
func refuseRounding(b *Backward) {
	b.Fail(fmt.Errorf("what it rounds has %w; train the model in floating point, which \"fmoefy --dequantize\" makes of MLPs, "+
		"or freeze the weights before it by a group of parameters", ErrNoGradient))
}

func inferQuantize(c *Inference) error {
	n := c.Node
	for version, attributes := range map[int][]string{13: {"axis"}, 19: {"saturate"}, 21: {"block_size", "output_dtype"}, 23: {"precision"}} {
		if n.Since < version {
			if err := c.unwanted(attributes...); err != nil {
				return err
			}
		}
	}
	t, err := n.typeAttribute("output_dtype")
	if err != nil {
		return err
	}
	switch zero := c.Type(2); {
	case t == onnx.Undefined && zero != onnx.Undefined:
		t = zero
	case t == onnx.Undefined && !c.Has(2):
		t = onnx.Uint8
	case zero != onnx.Undefined && zero != t:
		return fmt.Errorf("zero point has elements of type %s, the output of %s", zero, t)
	}
	switch precision, err := n.typeAttribute("precision"); {
	case err != nil:
		return err
	case precision != onnx.Undefined && !slices.Contains(floatTypes, precision):
		return fmt.Errorf("precision %s is none of %v", precision, floatTypes)
	}
	c.Set(0, t, c.Shape(0))
	return c.checkScale()
}

func inferDequantize(c *Inference) error {
	n := c.Node
	for version, attributes := range map[int][]string{13: {"axis"}, 21: {"block_size"}, 23: {"output_dtype"}} {
		if n.Since < version {
			if err := c.unwanted(attributes...); err != nil {
				return err
			}
		}
	}
	if _, err := c.sameType(0, 2); err != nil {
		return err
	}
	t, err := n.typeAttribute("output_dtype")
	if err != nil {
		return err
	}
	if t == onnx.Undefined {
		t = c.Type(1)
	}
	if t != onnx.Undefined && !slices.Contains(floatTypes, t) {
		return fmt.Errorf("output of type %s is none of %v", t, floatTypes)
	}
	c.Set(0, t, c.Shape(0))
	return c.checkScale()
}

// checkScale checks the shapes of scale (input 1) and zero point (input 2)
// against the tensor's, where all are known.
func (c *Inference) checkScale() error {
	var shapes [3][]int
	for i := range shapes {
		if c.Has(i) {
			f := Fact{Type: onnx.Float32, Shape: c.Shape(i)}
			if !f.Concrete() {
				return nil
			}
			shapes[i] = f.Ints()
		}
	}
	_, err := NewGranularity(c.Node, shapes[0], shapes[1], shapes[2])
	return err
}

// Granularity says which element of a scale belongs to which element of a
// tensor: one for all, one for each place of an axis, or one for each block of
// places and each position in the other dimensions.
type Granularity struct {
	length int // of the axis; 0 where the whole tensor has one scale
	inner  int // elements at one place of the axis that follow one another
	block  int // places in a block
	blocks int // along the axis; 0 where each place has one scale
}

// NewGranularity returns the granularity of a QuantizeLinear or
// DequantizeLinear node from the shapes of its inputs. A nil zero is absent.
// It fails where they do not fit together.
func NewGranularity(n *Node, shape, scale, zero []int) (Granularity, error) {
	one := func(shape []int) bool { return !slices.ContainsFunc(shape, func(d int) bool { return d != 1 }) }
	if zero != nil && !slices.Equal(zero, scale) && !(one(zero) && one(scale)) {
		return Granularity{}, fmt.Errorf("scale of shape %v and zero point of shape %v, must have the same", scale, zero)
	}
	block := n.Int("block_size", 0)
	if one(scale) && block == 0 {
		return Granularity{}, nil
	}
	if n.Since < 13 {
		return Granularity{}, fmt.Errorf("scale of shape %v, version %d takes a scalar", scale, n.Since)
	}
	axis, err := Axis(n.Int("axis", 1), len(shape))
	if err != nil {
		return Granularity{}, err
	}
	g := Granularity{length: shape[axis], inner: 1}
	for _, d := range shape[axis+1:] {
		g.inner *= d
	}
	want := []int{g.length}
	if block < 0 {
		return g, fmt.Errorf("attribute block_size is %d", block)
	} else if block > 0 {
		g.block = int(min(block, int64(max(g.length, 1))))
		g.blocks = (g.length + g.block - 1) / g.block
		want = slices.Clone(shape)
		want[axis] = g.blocks
	}
	if !slices.Equal(scale, want) {
		return g, fmt.Errorf("scale of shape %v for a tensor of shape %v with axis %d and block_size %d, needs %v", scale, shape, axis, block, want)
	}
	return g, nil
}

// At returns the element of the scale for element i of the tensor, and how
// many elements from i on have the same.
func (g *Granularity) At(i int) (index, run int) {
	if g.length == 0 {
		return 0, math.MaxInt
	}
	place, within := i/g.inner, i%g.inner
	if g.blocks == 0 {
		return place % g.length, g.inner - within
	}
	outer, at := place/g.length, place%g.length
	run = 1
	if g.inner == 1 {
		run = min(g.block-at%g.block, g.length-at)
	}
	return (outer*g.blocks+at/g.block)*g.inner + within, run
}

func inferDynamicQuantize(c *Inference) error {
	if t := c.Type(0); t != onnx.Undefined && t != onnx.Float32 {
		return fmt.Errorf("input 0 has elements of type %s, needs float32", t)
	}
	c.Set(0, onnx.Uint8, c.Shape(0))
	c.Set(1, onnx.Float32, []Dim{})
	c.Set(2, onnx.Uint8, []Dim{})
	return nil
}
