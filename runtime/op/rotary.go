package op

import (
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
)

func init() {
	Register(
		// RotaryEmbedding, ONNX 23: X, cos_cache, sin_cache, position_ids?.
		Operator{Name: "RotaryEmbedding", Since: []int{23}, Inputs: Between(3, 4), Outputs: Exactly(1),
			Attributes: []string{"interleaved", "num_heads", "rotary_embedding_dim"}, Infer: inferRotaryEmbedding, Gradient: rotaryGradient},
		// RotaryEmbedding of ONNX Runtime: input, position_ids, cos_cache,
		// sin_cache.
		Operator{Domain: "com.microsoft", Name: "RotaryEmbedding", Since: []int{1}, Inputs: Exactly(4), Outputs: Exactly(1),
			Attributes: []string{"interleaved", "is_packed_batching", "num_heads", "rotary_embedding_dim", "scale"}, Infer: inferRotaryEmbedding, Gradient: rotaryGradient},
	)
}

// RotaryInputs returns which inputs of a RotaryEmbedding node are the tables
// of cosines and sines and the positions.
func RotaryInputs(n *Node) (cos, sin, positions int) {
	if onnx.CanonicalDomain(n.Domain) == "" {
		return 1, 2, 3
	}
	return 2, 3, 1
}

// RotaryShape has the dimensions of a rotary embedding.
type RotaryShape struct {
	Batch, Heads, Sequence, HeadSize Dim
	Half                             Dim // half of the elements of a head that are rotated
}

// RotaryDims returns the dimensions of a RotaryEmbedding node. Those that are
// not known are symbols.
func RotaryDims(c *Inference) (*RotaryShape, error) {
	n := c.Node
	s := &RotaryShape{Batch: c.Fresh(), Heads: c.Fresh(), Sequence: c.Fresh(), HeadSize: c.Fresh(), Half: c.Fresh()}
	rotated := n.Int("rotary_embedding_dim", 0)
	if rotated < 0 || rotated%2 != 0 {
		return nil, fmt.Errorf("rotary_embedding_dim is %d, needs an even number", rotated)
	}
	heads := n.Int("num_heads", 0)
	cos, sin, positions := RotaryInputs(n)
	x, table := c.Shape(0), c.Shape(cos)
	if len(x) == 3 && heads <= 0 && onnx.CanonicalDomain(n.Domain) != "" && rotated == 0 {
		// ONNX Runtime takes the size of a head from the tables.
		if err := c.wantRank(cos, 2); err != nil {
			return nil, err
		}
		if table == nil || !x[2].Known() || !table[1].Known() {
			return s, nil
		}
		if size := 2 * table[1]; size > 0 {
			heads = int64(x[2] / size)
		}
	}
	if err := headsOf(x, heads, &s.Batch, &s.Heads, &s.Sequence, &s.HeadSize); err != nil {
		return nil, err
	}
	if rotated > 0 {
		s.Half = Dim(rotated / 2)
	} else if s.HeadSize.Known() {
		if s.HeadSize%2 != 0 {
			return nil, fmt.Errorf("heads have %d elements, needs an even number", s.HeadSize)
		}
		s.Half = s.HeadSize / 2
	}
	if s.HeadSize.Known() && s.Half > s.HeadSize/2 {
		return nil, fmt.Errorf("rotary_embedding_dim is %d for heads of %d elements", rotated, s.HeadSize)
	}
	want := []Dim{c.Fresh(), s.Half}
	if !c.Has(positions) {
		want = []Dim{s.Batch, s.Sequence, s.Half}
	}
	for _, i := range []int{cos, sin} {
		if err := c.wantShape(i, want...); err != nil {
			return nil, err
		}
	}
	if c.Shape(cos) != nil && c.Shape(sin) != nil {
		if err := c.wantShape(sin, c.Shape(cos)...); err != nil {
			return nil, err
		}
	}
	if p := c.Shape(positions); len(p) == 1 && onnx.CanonicalDomain(n.Domain) != "" {
		return s, c.wantShape(positions, 1) // the position of the first element
	}
	return s, c.wantShape(positions, s.Batch, s.Sequence)
}

func inferRotaryEmbedding(c *Inference) error {
	cos, sin, positions := RotaryInputs(c.Node)
	if _, err := c.typeAmong(floatTypes, 0, cos, sin); err != nil {
		return err
	}
	if _, err := c.typeAmong([]onnx.DataType{onnx.Int64}, positions); err != nil {
		return err
	}
	if c.Node.Int("is_packed_batching", 0) != 0 || c.Node.Float("scale", 1) != 1 {
		return fmt.Errorf("is_packed_batching and scale are not supported")
	}
	if _, err := RotaryDims(c); err != nil {
		return err
	}
	return SameAsInput(c)
}

// rotaryGradient turns the gradient back. The tables of cosines and sines are
// not learned and get none.
func rotaryGradient(b *Backward) {
	in := []Value{b.Gradient(0), b.Input(1), b.Input(2)}
	if b.Input(3) != NoValue {
		in = append(in, b.Input(3))
	}
	_, sin, _ := RotaryInputs(b.Node)
	in[sin] = b.Op("Neg", in[sin])
	b.Set(0, b.Add(&onnx.Node{Domain: b.Node.Domain, OpType: "RotaryEmbedding", Attributes: b.Node.Attributes}, in...))
}
