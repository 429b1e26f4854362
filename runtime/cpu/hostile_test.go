package cpu

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// hostile makes small nodes of any operator, most of them senseless.
type hostile struct{ *rand.Rand }

func oneOf[T any](h hostile, list ...T) T { return list[h.IntN(len(list))] }

func (h hostile) tensor(common onnx.DataType, rank int) *tensor.Tensor {
	t := common
	if h.IntN(3) == 0 {
		t = oneOf(h, onnx.Int64, onnx.Int32, onnx.Bool, onnx.Float32, onnx.Float16, onnx.String, onnx.Uint8)
	}
	shape := make([]int, rank)
	for i := range shape {
		shape[i] = oneOf(h, 0, 1, 1, 2, 2, 2, 3, 4)
	}
	x := tensor.New(t, shape...)
	ints, floats := []int64{0, 0, 1, 1, 2, 3, -1, -2, math.MinInt64, math.MaxInt64}, []float32{0, 1, -1, 0.5, 1e30, float32(math.NaN()), float32(math.Inf(-1))}
	switch t {
	case onnx.Int64:
		for i := range tensor.Of[int64](x) {
			tensor.Of[int64](x)[i] = oneOf(h, ints...)
		}
	case onnx.Int32:
		for i := range tensor.Of[int32](x) {
			tensor.Of[int32](x)[i] = int32(oneOf(h, ints...))
		}
	case onnx.Float32:
		for i := range tensor.Of[float32](x) {
			tensor.Of[float32](x)[i] = oneOf(h, floats...)
		}
	case onnx.Float64:
		for i := range tensor.Of[float64](x) {
			tensor.Of[float64](x)[i] = float64(oneOf(h, floats...))
		}
	case onnx.Bool, onnx.Uint8, onnx.Int8:
		for i := range x.Data {
			x.Data[i] = byte(h.IntN(2))
		}
	}
	return x
}

func (h hostile) attribute(name string) *onnx.Attribute {
	numbers := []int64{0, 0, 1, 1, 1, 2, 2, 3, -1, -2, 7}
	a := &onnx.Attribute{Name: name, Int: oneOf(h, numbers...), Float: oneOf[float32](h, 0, 0.5, 1, 2, -1, float32(math.NaN()))}
	for range h.IntN(5) {
		a.Ints = append(a.Ints, oneOf(h, numbers...))
		a.Floats = append(a.Floats, a.Float)
	}
	a.String = []byte(oneOf(h, "", "linear", "cubic", "nearest", "constant", "reflect", "edge", "wrap", "SAME_UPPER", "SAME_LOWER", "VALID", "none", "sum",
		"mean", "add", "max", "bidirectional", "reverse", "delta", "gated", "ij,jk->ik", "...i->i", "relu", "gelu"))
	a.Strings = [][]byte{a.String}
	a.Tensor = tensor.FromSlice(a.Ints).ToONNX("")
	a.Type = oneOf(h, onnx.AttributeInt, onnx.AttributeInt, onnx.AttributeInts, onnx.AttributeInts, onnx.AttributeFloat, onnx.AttributeFloats,
		onnx.AttributeString, onnx.AttributeString, onnx.AttributeStrings, onnx.AttributeTensor)
	return a
}

// TestHostileNodes: what inference accepts, the kernels compute or refuse, and
// never panic, whatever shapes and contents come together.
func TestHostileNodes(t *testing.T) {
	const rounds, largest = 1500, 1 << 16
	h := hostile{rand.New(rand.NewPCG(3, 4))}
	d := New(device.Options{Threads: 1})
	defer d.Close()
	for _, o := range op.Operators() {
		if !d.Supports(o.Domain, o.Name) {
			continue
		}
		for range rounds {
			n := &onnx.Node{Domain: o.Domain, OpType: o.Name}
			for _, name := range o.Attributes {
				if h.IntN(3) == 0 {
					n.Attributes = append(n.Attributes, h.attribute(name))
				}
			}
			count, common, rank := o.Inputs.Min+h.IntN(5), oneOf(h, onnx.Float32, onnx.Float32, onnx.Float64, onnx.Float16, onnx.Int64), 1+h.IntN(4)
			if o.Inputs.Max >= 0 {
				count = min(count, o.Inputs.Max)
			}
			in := make([]*tensor.Tensor, count)
			for i := range in {
				n.Inputs = append(n.Inputs, "")
				if i < o.Inputs.Min || h.IntN(4) > 0 {
					in[i], n.Inputs[i] = h.tensor(common, oneOf(h, rank, rank, rank, 0, 1, 2, 3)), fmt.Sprint("in", i)
				}
			}
			for i := range max(o.Outputs.Min, min(o.Outputs.Max, 1+h.IntN(4))) {
				n.Outputs = append(n.Outputs, fmt.Sprint("out", i))
			}
			node, err := op.Resolve(n, int64(oneOf(h, o.Since...)))
			if err != nil {
				continue
			}
			if err := runHostile(d, node, in, largest); err != nil {
				description := fmt.Sprintf("%s version %d of", o.Name, node.Since)
				for _, x := range in {
					if x == nil {
						description += " nothing"
					} else {
						description += " " + x.String()
					}
				}
				t.Errorf("%s: %v", description, err)
				break
			}
		}
	}
}

// runHostile fails where something panics. Refusals are well.
func runHostile(d *Device, n *op.Node, in []*tensor.Tensor, largest int) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	facts := make([]op.Fact, len(in))
	for i, x := range in {
		if x != nil {
			facts[i] = op.FactOf(x)
		}
	}
	outputs, refused := op.Infer(n, facts, &op.Symbols{})
	if refused != nil {
		return nil
	}
	call := &device.Call{In: in, Out: make([]*tensor.Tensor, len(outputs)), Scratch: &device.Scratch{}}
	for i, f := range outputs {
		switch {
		case f.Concrete():
			if size, err := tensor.CheckedCount(f.Type, f.Ints()); err != nil || size > largest {
				return nil
			}
			call.Out[i] = tensor.New(f.Type, f.Ints()...)
		case f.Type == onnx.Undefined:
			return nil
		default:
			call.Out[i] = &tensor.Tensor{Type: f.Type}
		}
	}
	kernel, refused := d.Compile(n, make([]*tensor.Tensor, len(in)))
	if refused != nil {
		return nil
	}
	run, refused := kernel.Bind(call)
	if refused != nil {
		return nil
	}
	_ = run() // may refuse, must not panic
	return nil
}
