package op

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// hostile makes what a damaged or malicious model may hold.
type hostile struct{ *rand.Rand }

func pick[T any](h hostile, list ...T) T { return list[h.IntN(len(list))] }

func (h hostile) number() int64 {
	if h.IntN(3) > 0 {
		return h.Int64N(7) - 3
	}
	return pick[int64](h, 0, 1<<20, 1<<31, 1<<32, -1<<31, 1<<62, math.MaxInt64, math.MinInt64, math.MinInt64+1)
}

func (h hostile) numbers() []int64 {
	list := make([]int64, h.IntN(7))
	for i := range list {
		list[i] = h.number()
	}
	return list
}

func (h hostile) real() float32 {
	return pick[float32](h, 0, 1, -1, 0.5, 2, 1e-40, 1e30, -1e30, float32(math.Inf(1)), float32(math.Inf(-1)), float32(math.NaN()))
}

func (h hostile) reals() []float32 {
	list := make([]float32, h.IntN(7))
	for i := range list {
		list[i] = h.real()
	}
	return list
}

// fact is an input: absent, or anything between wholly unknown and wholly
// known. Most have the common type.
func (h hostile) fact(common onnx.DataType) Fact {
	switch h.IntN(8) {
	case 0:
		return Fact{}
	case 1:
		return FactOf(tensor.FromSlice(h.numbers()))
	case 2:
		return FactOf(tensor.Scalar(h.number()))
	case 3:
		return FactOf(tensor.Scalar(h.real()))
	case 4:
		return FactOf(tensor.FromSlice(h.reals()))
	}
	f := Fact{Type: common}
	if h.IntN(4) == 0 {
		f.Type = h.elementType()
	}
	if h.IntN(8) == 0 {
		return f
	}
	f.Shape = make([]Dim, h.IntN(6))
	for i := range f.Shape {
		f.Shape[i] = pick(h, 1, 2, 2, Dim(h.IntN(5)), Dim(h.IntN(5)), Dim(-1-h.IntN(3)), Dim(-1-h.IntN(3)), 1<<40, math.MaxInt64)
	}
	return f
}

func (h hostile) elementType() onnx.DataType {
	return pick(h, onnx.Undefined, onnx.Float32, onnx.Float32, onnx.Float16, onnx.Int64, onnx.Int32, onnx.Bool, onnx.String, onnx.Uint4)
}

func (h hostile) attribute(name string) *onnx.Attribute {
	a := &onnx.Attribute{Name: name, Int: h.number(), Ints: h.numbers(), Float: h.real(), Floats: h.reals()}
	a.Type = pick(h, onnx.AttributeInt, onnx.AttributeInt, onnx.AttributeInts, onnx.AttributeInts, onnx.AttributeFloat, onnx.AttributeFloats,
		onnx.AttributeString, onnx.AttributeStrings, onnx.AttributeTensor)
	a.String = []byte(pick(h, "", "linear", "constant", "reflect", "edge", "wrap", "SAME_UPPER", "VALID", "DCR", "CRD", "cubic",
		"tf_crop_and_resize", "not_larger", "not_smaller", "add", "max", "ij,jk->ik", "...i->i"))
	a.Strings = [][]byte{a.String}
	switch h.IntN(3) {
	case 0:
		a.Tensor = tensor.FromSlice(h.numbers()).ToONNX("")
	case 1:
		a.Tensor = &onnx.Tensor{DataType: onnx.DataType(h.number()), Dims: h.numbers()}
	}
	return a
}

// TestInferHostile: whatever a node says, the inference of every operator
// neither panics nor takes much memory, and what it states is consistent.
func TestInferHostile(t *testing.T) {
	const rounds, memoryLimit = 3000, 32 << 20
	h := hostile{rand.New(rand.NewPCG(1, 2))}
	for _, o := range Operators() {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range rounds {
			n, facts := h.node(o)
			node, err := Resolve(n, int64(pick(h, o.Since...)))
			if err != nil {
				continue
			}
			if err := inferSafely(node, facts); err != nil {
				description := fmt.Sprintf("%s version %d of", o.Name, node.Since)
				for _, f := range facts {
					description += " " + f.Type.String() + FormatDims(f.Shape)
				}
				t.Errorf("%s: %v", description, err)
			}
		}
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; used > memoryLimit {
			t.Errorf("%s: inference of %d nodes allocated %d MiB", o.Name, rounds, used>>20)
		}
	}
}

// node makes a node of an operator that has the right form, and its inputs.
func (h hostile) node(o *Operator) (*onnx.Node, []Fact) {
	n := &onnx.Node{Domain: o.Domain, OpType: o.Name}
	for _, name := range o.Attributes {
		if h.IntN(4) == 0 {
			n.Attributes = append(n.Attributes, h.attribute(name))
		}
	}
	count := o.Inputs.Min + h.IntN(4)
	if o.Inputs.Max >= 0 {
		count = min(count, o.Inputs.Max)
	}
	facts, common := make([]Fact, count), h.elementType()
	for i := range facts {
		facts[i] = h.fact(common)
		name := fmt.Sprint("in", i)
		if i >= o.Inputs.Min && facts[i].Type == onnx.Undefined && facts[i].Shape == nil {
			name = ""
		}
		n.Inputs = append(n.Inputs, name)
	}
	for i := range max(o.Outputs.Min, min(o.Outputs.Max, 1+h.IntN(4))) {
		n.Outputs = append(n.Outputs, fmt.Sprint("out", i))
	}
	return n, facts
}

// inferSafely fails where inference panics or states an inconsistent fact. It
// may refuse the node.
func inferSafely(n *Node, facts []Fact) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	out, refused := Infer(n, facts, &Symbols{last: -100})
	for _, f := range out {
		if v := f.Value; refused == nil && v != nil && (f.Type != v.Type || FormatDims(f.Shape) != tensor.FormatShape(v.Shape)) {
			return fmt.Errorf("value %s for a fact of %s%s", v, f.Type, FormatDims(f.Shape))
		}
	}
	return nil
}
