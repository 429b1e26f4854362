package cpu

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func nodeOf(opType string, attributes ...*onnx.Attribute) *onnx.Node {
	return &onnx.Node{OpType: opType, Outputs: []string{"out"}, Attributes: attributes}
}

// broadcastAt returns the offset in a tensor of the given shape of what
// broadcasting shows at an index of the output.
func broadcastAt(shape, index []int) int {
	at := 0
	for i, d := range shape {
		if j := index[len(index)-len(shape)+i]; d != 1 {
			at = at*d + j
		}
	}
	return at
}

// TestBroadcast compares operators of two, three and four operands with the
// definition of broadcasting, for random shapes of up to eight dimensions.
func TestBroadcast(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for round := range 100 {
		out := make([]int, r.IntN(9))
		for i := range out {
			out[i] = 1 + r.IntN(2)
		}
		if len(out) > 0 { // long rows and short ones take different ways
			out[len(out)-1] = []int{1, 2, 5, 63, 64, 65, 700}[r.IntN(7)]
			out[r.IntN(len(out))] = []int{0, 1, 7, 9}[r.IntN(4)]
		}
		shapes := [][]int{slices.Clone(out), slices.Clone(out), slices.Clone(out), slices.Clone(out)}
		for k := range shapes[1:] { // the first keeps the output's shape
			for i := range shapes[k+1] {
				if r.IntN(3) == 0 {
					shapes[k+1][i] = 1
				}
			}
			shapes[k+1] = shapes[k+1][r.IntN(len(out)+1):]
		}
		r.Shuffle(len(shapes), func(i, j int) { shapes[i], shapes[j] = shapes[j], shapes[i] })
		t.Run(fmt.Sprint(round, shapes), func(t *testing.T) {
			in := make([]*tensor.Tensor, len(shapes))
			for k, shape := range shapes {
				in[k] = random[float64](uint64(round*10+k), shape...)
			}
			value := func(k int, index []int) float64 { return tensor.Of[float64](in[k])[broadcastAt(shapes[k], index)] }
			truth := tensor.New(onnx.Bool, shapes[0]...)
			for i, x := range tensor.Of[float64](in[0]) {
				tensor.Of[bool](truth)[i] = x > 0
			}
			for _, c := range []struct {
				opType string
				in     []*tensor.Tensor
				want   func(index []int) float64
			}{
				{"Sub", in[:2], func(i []int) float64 { return value(0, i) - value(1, i) }},
				{"Where", []*tensor.Tensor{truth, in[1], in[2]}, func(i []int) float64 {
					if value(0, i) > 0 {
						return value(1, i)
					}
					return value(2, i)
				}},
				{"Max", in, func(i []int) float64 { return max(value(0, i), value(1, i), value(2, i), value(3, i)) }},
			} {
				for _, threads := range []int{1, 3} {
					got := compute(t, threads, false, nodeOf(c.opType), 20, c.in...)[0]
					for i, x := range tensor.Of[float64](got) {
						if want := c.want(tensor.Index(got.Shape, i)); x != want {
							t.Fatalf("%s: element %d of %v is %v, want %v", c.opType, i, got.Shape, x, want)
						}
					}
				}
			}
		})
	}
}

// TestElementwiseInPlace gives outputs the memory of each input in turn.
func TestElementwiseInPlace(t *testing.T) {
	const n = 3000
	d := New(device.Options{Threads: 2})
	defer d.Close()
	for _, c := range []struct {
		node   *onnx.Node
		domain string
		inputs int
	}{
		{nodeOf("Sub"), "", 2}, {nodeOf("Pow"), "", 2}, {nodeOf("Max"), "", 3}, {nodeOf("Mean"), "", 4}, {nodeOf("Where"), "", 3},
		{nodeOf("Exp"), "", 1}, {nodeOf("Gelu"), "", 1}, {nodeOf("Clip"), "", 1}, {nodeOf("SwiGLU"), "", 2},
		{nodeOf("FastGelu"), "com.microsoft", 2}, {nodeOf("Dropout"), "", 1}, {nodeOf("Cast", onnx.IntAttribute("to", int64(onnx.Float32))), "", 1},
	} {
		c.node.Domain = c.domain
		opset := int64(28)
		if c.domain != "" {
			opset = 1
		}
		shape := []int{n}
		in := make([]*tensor.Tensor, c.inputs)
		for i := range in {
			in[i] = random[float32](uint64(i), shape...)
		}
		if c.node.OpType == "Where" {
			in[0] = tensor.New(onnx.Bool, shape...)
			for i := range in[0].Data {
				in[0].Data[i] = byte(i & 1)
			}
		}
		want := compute(t, 1, false, c.node, opset, in...)[0]
		node, err := op.Resolve(c.node, opset)
		if err != nil {
			t.Fatal(err)
		}
		for i := range in {
			if in[i].Type != want.Type {
				continue
			}
			copies := make([]*tensor.Tensor, len(in))
			for j := range in {
				copies[j] = in[j].Clone()
			}
			out := &tensor.Tensor{Type: want.Type, Shape: shape, Data: copies[i].Data}
			kernel, err := d.Compile(node, make([]*tensor.Tensor, len(in)))
			if err != nil {
				t.Fatal(err)
			}
			run, err := kernel.Bind(&device.Call{In: copies, Out: []*tensor.Tensor{out}, Scratch: &device.Scratch{}})
			if err != nil {
				t.Fatal(err)
			}
			if err := run(); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(out.Data, want.Data) {
				t.Errorf("%s over the memory of input %d differs", c.node.OpType, i)
			}
		}
	}
}

// TestElementwiseCases has what ONNX's cases do not: corners of integer
// arithmetic, NaN, and empty tensors.
func TestElementwiseCases(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	right := onnx.StringAttribute("direction", "RIGHT")
	left := onnx.StringAttribute("direction", "LEFT")
	for _, c := range []struct {
		name  string
		node  *onnx.Node
		opset int64
		in    []*tensor.Tensor
		want  *tensor.Tensor
	}{
		{"division by zero", nodeOf("Div"), 14, tensors([]int32{7, -7, 0}, []int32{0, 0, 0}), tensor.FromSlice([]int32{0, 0, 0})},
		{"division towards zero", nodeOf("Div"), 14, tensors([]int8{7, -7, -128}, []int8{2, 2, -1}), tensor.FromSlice([]int8{3, -3, -128})},
		{"modulo with signs", nodeOf("Mod"), 13, tensors([]int64{-7, 7, -7, 5}, []int64{3, -3, -3, 0}), tensor.FromSlice([]int64{2, -2, -1, 0})},
		{"remainder with signs", nodeOf("Mod", onnx.IntAttribute("fmod", 1)), 13, tensors([]int64{-7, 7, -7}, []int64{3, -3, -3}), tensor.FromSlice([]int64{-1, 1, -1})},
		{"modulo of floats", nodeOf("Mod"), 28, tensors([]float32{-7.5, 7.5, 1}, []float32{2, -2, inf}), tensor.FromSlice([]float32{0.5, -0.5, 1})},
		{"modulo infinity", nodeOf("Mod"), 28, tensors([]float32{-1, 1, inf}, []float32{inf, -inf, 2}), tensor.FromSlice([]float32{inf, -inf, nan})},
		{"shift far", nodeOf("BitShift", right), 28, tensors([]int8{-5, 5, -5, 5}, []int8{100, 100, -1, -1}), tensor.FromSlice([]int8{-1, 0, -1, 0})},
		{"shift left far", nodeOf("BitShift", left), 28, tensors([]uint8{255, 255}, []uint8{8, 1}), tensor.FromSlice([]uint8{0, 254})},
		{"integer powers", nodeOf("Pow"), 15, tensors([]int32{2, -3, 3, 2, 0, 2}, []int32{10, 3, 20, -1, 0, 31}),
			tensor.FromSlice([]int32{1024, -27, -808182895, 0, 1, -1 << 31})},
		{"float powers", nodeOf("Pow"), 15, tensors([]float32{9, -2, 0, 2}, []float64{0.5, 3, 0, -1}), tensor.FromSlice([]float32{3, -8, 1, 0.5})},
		{"largest with NaN", nodeOf("Max"), 13, tensors([]float32{1, nan, 3}, []float32{nan, 2, 2}), tensor.FromSlice([]float32{nan, nan, 3})},
		{"limits", nodeOf("Clip"), 13, []*tensor.Tensor{tensor.FromSlice([]float32{nan, -9, 9}), tensor.Scalar[float32](-1), tensor.Scalar[float32](1)},
			tensor.FromSlice([]float32{nan, -1, 1})},
		{"limits crossed", nodeOf("Clip"), 13, []*tensor.Tensor{tensor.FromSlice([]int8{-9, 0, 9}), tensor.Scalar[int8](5), tensor.Scalar[int8](1)},
			tensor.FromSlice([]int8{1, 1, 1})},
		{"old limits", nodeOf("Clip", onnx.FloatAttribute("max", 2)), 10, tensors([]float32{-1, 3}), tensor.FromSlice([]float32{-1, 2})},
		{"Relu of NaN", nodeOf("Relu"), 14, tensors([]float32{nan, -1, 2}), tensor.FromSlice([]float32{nan, 0, 2})},
		{"Relu of integers", nodeOf("Relu"), 14, tensors([]int8{-3, 3}), tensor.FromSlice([]int8{0, 3})},
		{"sign", nodeOf("Sign"), 13, tensors([]uint16{0, 9}), tensor.FromSlice([]uint16{0, 1})},
		{"strings", nodeOf("Equal"), 19, []*tensor.Tensor{tensor.FromStrings([]string{"a", "b"}), tensor.FromStrings([]string{"b"}, 1)},
			tensor.FromSlice([]bool{false, true})},
		{"choice of strings", nodeOf("Where"), 16, []*tensor.Tensor{tensor.FromSlice([]bool{true, false}), tensor.FromStrings([]string{"a"}), tensor.FromStrings([]string{"b"})},
			tensor.FromStrings([]string{"a", "b"})},
		{"no elements", nodeOf("Add"), 14, []*tensor.Tensor{tensor.New(onnx.Float32, 0, 3), tensor.New(onnx.Float32, 3)}, tensor.New(onnx.Float32, 0, 3)},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := compute(t, 2, false, c.node, c.opset, c.in...)[0]
			if d, err := tensor.Compare(got, c.want, 1e-6, 0); err != nil || d.Failures > 0 {
				t.Errorf("got %v, want %v: %v", got.Data, c.want.Data, err)
			}
		})
	}
}

// tensors makes vectors.
func tensors(slices ...any) []*tensor.Tensor {
	list := make([]*tensor.Tensor, len(slices))
	for i, s := range slices {
		switch s := s.(type) {
		case []float32:
			list[i] = tensor.FromSlice(s)
		case []float64:
			list[i] = tensor.FromSlice(s)
		case []int8:
			list[i] = tensor.FromSlice(s)
		case []int32:
			list[i] = tensor.FromSlice(s)
		case []int64:
			list[i] = tensor.FromSlice(s)
		case []uint8:
			list[i] = tensor.FromSlice(s)
		case []uint16:
			list[i] = tensor.FromSlice(s)
		}
	}
	return list
}

// TestActivationsByWidth compares the float32 kernels, which have polynomials
// of their own, with the float64 ones.
func TestActivationsByWidth(t *testing.T) {
	for _, node := range []*onnx.Node{
		nodeOf("Exp"), nodeOf("Tanh"), nodeOf("Sigmoid"), nodeOf("Erf"), nodeOf("Relu"), nodeOf("Mish"), nodeOf("Softplus"),
		nodeOf("Gelu"), nodeOf("Gelu", onnx.StringAttribute("approximate", "tanh")), nodeOf("Swish", onnx.FloatAttribute("alpha", 0.5)),
		nodeOf("Celu", onnx.FloatAttribute("alpha", 2)), nodeOf("SwiGLU"),
		{Domain: "com.microsoft", OpType: "Gelu"}, {Domain: "com.microsoft", OpType: "QuickGelu"},
		{Domain: "com.microsoft", OpType: "FastGelu"}, {Domain: "com.microsoft", OpType: "BiasGelu"},
	} {
		node.Outputs = []string{"out"}
		wide := []*tensor.Tensor{tensor.New(onnx.Float64, 20, 100)}
		for i := range tensor.Of[float64](wide[0]) {
			tensor.Of[float64](wide[0])[i] = float64(float32(i-1000) / 64)
		}
		if node.OpType == "SwiGLU" {
			wide = append(wide, random[float64](1, 20, 100))
		}
		if node.OpType == "BiasGelu" {
			wide = append(wide, random[float64](1, 100))
		}
		narrow := make([]*tensor.Tensor, len(wide))
		for i, x := range wide {
			narrow[i] = tensor.New(onnx.Float32, x.Shape...)
			tensor.ConvertFloat(narrow[i], x)
			tensor.ConvertFloat(x, narrow[i])
		}
		opset := int64(28)
		if node.Domain != "" {
			opset = 1
		}
		want := compute(t, 1, false, node, opset, wide...)[0]
		got := compute(t, 1, false, node, opset, narrow...)[0]
		for i, x := range tensor.Of[float32](got) {
			y := tensor.Of[float64](want)[i]
			if !(math.Abs(float64(x)-y) <= 1e-6*math.Abs(y)+1e-7) {
				t.Errorf("%s: element %d is %v, in float64 %v", node.OpType, i, x, y)
				break
			}
		}
	}
}

func BenchmarkElementwise(b *testing.B) {
	d := New(device.Options{Threads: 1})
	defer d.Close()
	for _, c := range []struct {
		name   string
		opType string
		shapes [][]int
	}{
		{"Add", "Add", [][]int{{512, 1024}, {512, 1024}}},
		{"Add bias", "Add", [][]int{{512, 1024}, {1024}}},
		{"Add scalar", "Add", [][]int{{512, 1024}, {}}},
		{"Sub column", "Sub", [][]int{{512, 1024}, {512, 1}}},
		{"Add short rows", "Add", [][]int{{128, 1024, 4}, {4}}},
		{"Pow 3", "Pow", [][]int{{512, 1024}, {}}},
		{"Gelu", "Gelu", [][]int{{512, 1024}}},
		{"Sqrt", "Sqrt", [][]int{{512, 1024}}},
	} {
		b.Run(c.name, func(b *testing.B) {
			n := nodeOf(c.opType)
			var in []*tensor.Tensor
			for i, shape := range c.shapes {
				n.Inputs = append(n.Inputs, fmt.Sprint(i))
				in = append(in, random[float32](uint64(i), shape...))
			}
			if c.opType == "Pow" {
				tensor.Of[float32](in[1])[0] = 3
			}
			node, err := op.Resolve(n, 20)
			if err != nil {
				b.Fatal(err)
			}
			kernel, err := d.Compile(node, make([]*tensor.Tensor, len(in)))
			if err != nil {
				b.Fatal(err)
			}
			out := tensor.New(onnx.Float32, in[0].Shape...)
			run, err := kernel.Bind(&device.Call{In: in, Out: []*tensor.Tensor{out}, Scratch: &device.Scratch{}})
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(out.Data)))
			for b.Loop() {
				if err := run(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
