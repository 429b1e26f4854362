package op

import (
	"fmt"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
)

func init() {
	Register(
		// Transpose, ONNX 1 to 25; later versions added element types.
		Operator{Name: "Transpose", Since: []int{1, 13, 21, 23, 24, 25}, Inputs: Exactly(1), Outputs: Exactly(1),
			Attributes: []string{"perm"}, Infer: inferTranspose, Gradient: transposeGradient},
		// DepthToSpace, ONNX 1 to 28, moves channels into square blocks of
		// height and width; version 11 added the order CRD of the channels.
		// SpaceToDepth, ONNX 1 to 28, is its reverse, with CRD since 28.
		Operator{Name: "DepthToSpace", Since: []int{1, 11, 13, 28}, Inputs: Exactly(1), Outputs: Exactly(1),
			Attributes: []string{"blocksize", "mode"}, Infer: inferDepthToSpace, Gradient: reverseGradient("SpaceToDepth")},
		Operator{Name: "SpaceToDepth", Since: []int{1, 13, 28}, Inputs: Exactly(1), Outputs: Exactly(1),
			Attributes: []string{"blocksize", "mode"}, Infer: inferSpaceToDepth, Gradient: reverseGradient("DepthToSpace")},
	)
}

// Permutation returns a Transpose node's axes: axis i of the output is axis
// Permutation[i] of the input, of the given rank.
func Permutation(n *Node, rank int) ([]int, error) {
	perm := make([]int, rank)
	for i := range perm {
		perm[i] = rank - 1 - i
	}
	if n.Attribute("perm") == nil {
		return perm, nil
	}
	given := n.Ints("perm")
	seen := make([]bool, rank)
	for i, p := range given {
		if len(given) != rank || p < 0 || p >= int64(rank) || seen[p] {
			return nil, fmt.Errorf("attribute perm is %v, no permutation of the axes of a tensor of rank %d", given, rank)
		}
		perm[i], seen[p] = int(p), true
	}
	if len(given) != rank {
		return nil, fmt.Errorf("attribute perm is empty, for a tensor of rank %d", rank)
	}
	return perm, nil
}

func inferTranspose(c *Inference) error {
	shape := c.Shape(0)
	if shape == nil {
		c.Set(0, c.Type(0), nil)
		return nil
	}
	perm, err := Permutation(c.Node, len(shape))
	if err != nil {
		return err
	}
	out := make([]Dim, len(shape))
	for i, p := range perm {
		out[i] = shape[p]
	}
	c.Set(0, c.Type(0), out)
	return nil
}

func transposeGradient(b *Backward) {
	if b.Node.Attribute("perm") == nil {
		b.Set(0, b.Op("Transpose", b.Gradient(0)))
		return
	}
	perm := b.Node.Ints("perm")
	inverse := make([]int64, len(perm))
	for i, p := range perm {
		inverse[p] = int64(i)
	}
	b.Set(0, b.Transpose(b.Gradient(0), inverse...))
}

// reverseGradient is the gradient of an operator that another one undoes.
func reverseGradient(opType string) func(*Backward) {
	return func(b *Backward) {
		b.Set(0, b.Add(&onnx.Node{OpType: opType, Attributes: b.Node.Attributes}, b.Gradient(0)))
	}
}

// blockSize checks the node of a DepthToSpace or SpaceToDepth and returns its
// blocks' length and its input's shape, which it makes up where unknown.
func (c *Inference) blockSize(modes ...string) (Dim, []Dim, error) {
	size := c.Node.Int("blocksize", 0)
	if size < 1 || size > 1<<20 {
		return 0, nil, fmt.Errorf("attribute blocksize is %d", size)
	}
	if err := c.Node.wantMode("mode", modes...); err != nil {
		return 0, nil, err
	}
	shape := slices.Clone(c.Shape(0))
	if shape == nil {
		shape = c.Unknown(4)
	}
	if len(shape) != 4 {
		return 0, nil, fmt.Errorf("input has shape %s, needs four dimensions", FormatDims(shape))
	}
	return Dim(size), shape, nil
}

func inferDepthToSpace(c *Inference) error {
	modes := []string{"DCR", "CRD"}
	if c.Node.Since < 11 {
		modes = modes[:1]
	}
	size, shape, err := c.blockSize(modes...)
	if err != nil {
		return err
	}
	if shape[1], err = c.quotient(shape[1:2], []Dim{size * size}); err != nil {
		return fmt.Errorf("the channels of %s cannot form blocks of length %d", FormatDims(c.Shape(0)), size)
	}
	shape[2], shape[3] = c.Mul(shape[2], size), c.Mul(shape[3], size)
	c.Set(0, c.Type(0), shape)
	return nil
}

func inferSpaceToDepth(c *Inference) error {
	modes := []string{"DCR", "CRD"}
	if c.Node.Since < 28 {
		modes = modes[:1]
	}
	size, shape, err := c.blockSize(modes...)
	if err != nil {
		return err
	}
	shape[1] = c.Mul(shape[1], size*size)
	for i := 2; i < 4; i++ {
		if shape[i], err = c.quotient(shape[i:i+1], []Dim{size}); err != nil {
			return fmt.Errorf("dimension %d of %s is no multiple of the block length %d", i, FormatDims(c.Shape(0)), size)
		}
	}
	c.Set(0, c.Type(0), shape)
	return nil
}
