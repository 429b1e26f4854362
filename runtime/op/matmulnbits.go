package op

import (
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
)

func init() {
	Register(
		// MatMulNBits of ONNX Runtime, com.microsoft 1: A·Bᵀ + bias, where B
		// [N, K] has 2, 4 or 8-bit integers; see PackedWeight.
		Operator{Domain: "com.microsoft", Name: "MatMulNBits", Since: []int{1}, Inputs: Between(3, 6), Outputs: Exactly(1),
			Attributes: []string{"K", "N", "bits", "block_size", "accuracy_level", "weight_prepacked"}, Infer: inferMatMulNBits, Gradient: refuseRounding},
	)
}

// PackedWeight is the second operand of a MatMulNBits node: N rows of K
// integers of some bits, in blocks that share a scale and a zero point.
type PackedWeight struct{ Rows, Columns, Bits, Block, Blocks int }

// NewPackedWeight reads the attributes of a MatMulNBits node.
func NewPackedWeight(n *Node) (PackedWeight, error) {
	const most = 1 << 28 // so that no product below overflows
	k, rows, bits, block := n.Int("K", 0), n.Int("N", 0), n.Int("bits", 4), n.Int("block_size", 0)
	switch {
	case k < 1 || k > most || rows < 1 || rows > most:
		return PackedWeight{}, fmt.Errorf("attributes K and N are %d and %d, must be the sizes of B", k, rows)
	case bits != 2 && bits != 4 && bits != 8:
		return PackedWeight{}, fmt.Errorf("attribute bits is %d; it can be 2, 4 or 8", bits)
	case block < 16 || block > most || block&(block-1) != 0:
		return PackedWeight{}, fmt.Errorf("attribute block_size is %d; it can be a power of two from 16", block)
	case n.Int("weight_prepacked", 0) != 0:
		return PackedWeight{}, fmt.Errorf("a prepacked B is not supported")
	}
	w := PackedWeight{Rows: int(rows), Columns: int(k), Bits: int(bits), Block: int(block)}
	w.Blocks = (w.Columns + w.Block - 1) / w.Block
	return w, nil
}

func inferMatMulNBits(c *Inference) error {
	w, err := NewPackedWeight(c.Node)
	if err != nil {
		return err
	}
	t, err := c.typeAmong([]onnx.DataType{onnx.Float32, onnx.Float16, onnx.BFloat16}, 0, 2, 5)
	if err != nil {
		return err
	}
	if _, err := c.typeAmong([]onnx.DataType{onnx.Uint8}, 1); err != nil {
		return err
	}
	if _, err := c.typeAmong([]onnx.DataType{onnx.Int32}, 4); err != nil {
		return err
	}
	zeros := w.Rows * ((w.Blocks*w.Bits + 7) / 8)
	if c.Type(3) != onnx.Uint8 {
		zeros = w.Rows * w.Blocks
		if c.Type(3) != onnx.Undefined && c.Type(3) != t {
			return fmt.Errorf("input 3 has elements of type %s, needs uint8 or %s", c.Type(3), t)
		}
	}
	for input, want := range map[int]int{
		1: w.Rows * w.Blocks * w.Block * w.Bits / 8, 2: w.Rows * w.Blocks, 3: zeros, 5: w.Rows,
	} {
		if err := c.wantElements(input, want); err != nil {
			return err
		}
	}
	// g_idx may go on to the end of the last block.
	if s := c.Shape(4); len(s) > 0 && s[0].Known() && int(s[0]) < w.Columns {
		return fmt.Errorf("input 4 has %d elements, needs one for each of %d columns", s[0], w.Columns)
	}
	shape := c.Shape(0)
	if shape == nil {
		c.Set(0, t, nil)
		return nil
	}
	if len(shape) == 0 || shape[len(shape)-1].Known() && shape[len(shape)-1] != Dim(w.Columns) {
		return fmt.Errorf("input A has shape %s, its rows must have K = %d elements", FormatDims(shape), w.Columns)
	}
	c.Set(0, t, replaced(shape, len(shape)-1, Dim(w.Rows)))
	return nil
}

// wantElements fails where an input is known to have another number of
// elements.
func (c *Inference) wantElements(input, want int) error {
	f := Fact{Type: onnx.Uint8, Shape: c.Shape(input)}
	if !f.Concrete() {
		return nil
	}
	n := 1
	for _, d := range f.Ints() {
		n *= d
	}
	if n != want {
		return fmt.Errorf("input %d has shape %s, needs %d elements", input, FormatDims(f.Shape), want)
	}
	return nil
}
