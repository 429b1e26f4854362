package op

import (
	"fmt"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// inferCase is a node and what its inference is to state.
type inferCase struct {
	name    string
	domain  string
	op      string
	opset   int64
	attrs   []*onnx.Attribute
	in      []Fact
	outputs int    // 1 where it is 0
	want    string // the shapes of all outputs
	fails   string // part of the error
}

// B and S are symbols; a symbol that inference makes up is none of them.
const B, S Dim = -1, -2

func shaped(dims ...Dim) Fact { return Fact{Type: onnx.Float32, Shape: append([]Dim{}, dims...)} }

func int64s(v ...int64) Fact { return FactOf(tensor.FromSlice(v)) }

func scalar[T tensor.Element](v T) Fact { return FactOf(tensor.Scalar(v)) }

var (
	anyRank   = Fact{Type: onnx.Float32}
	absent    = Fact{}
	vector    = func(n Dim) Fact { return Fact{Type: onnx.Int64, Shape: []Dim{n}} }
	axis      = func(v int64) *onnx.Attribute { return onnx.IntAttribute("axis", v) }
	axes      = func(v ...int64) *onnx.Attribute { return onnx.IntsAttribute("axes", v...) }
	stringly  = func(shape ...Dim) Fact { return Fact{Type: onnx.String, Shape: shape} }
	minInt64  = int64(-1 << 63)
	maxInt64  = int64(1<<63 - 1)
	attribute = func(list ...*onnx.Attribute) []*onnx.Attribute { return list }
)

func inferOne(c inferCase) ([]Fact, error) {
	n := &onnx.Node{Domain: c.domain, OpType: c.op, Attributes: c.attrs}
	for i, f := range c.in {
		name := fmt.Sprint("in", i)
		if f.Type == onnx.Undefined && f.Shape == nil {
			name = ""
		}
		n.Inputs = append(n.Inputs, name)
	}
	for i := range max(c.outputs, 1) {
		n.Outputs = append(n.Outputs, fmt.Sprint("out", i))
	}
	if c.opset == 0 {
		c.opset = 28
	}
	node, err := Resolve(n, c.opset)
	if err != nil {
		return nil, err
	}
	return Infer(node, c.in, &Symbols{last: -100})
}

// formatFacts writes shapes with B and S by name and new symbols as "?".
func formatFacts(facts []Fact) string {
	var list []string
	for _, f := range facts {
		s := FormatDims(f.Shape)
		if f.Shape != nil {
			s = "["
			for i, d := range f.Shape {
				if i > 0 {
					s += ","
				}
				switch d {
				case B:
					s += "B"
				case S:
					s += "S"
				default:
					if d.Known() {
						s += fmt.Sprint(int(d))
					} else {
						s += "?"
					}
				}
			}
			s += "]"
		}
		if f.Value != nil {
			if v, err := f.Value.Ints(); err == nil {
				s += fmt.Sprint("=", v)
			}
		}
		list = append(list, s)
	}
	return strings.Join(list, " ")
}

func testInference(t *testing.T, cases []inferCase) {
	for _, c := range cases {
		t.Run(c.op+"/"+c.name, func(t *testing.T) {
			out, err := inferOne(c)
			switch {
			case c.fails != "":
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Errorf("error is %v, want one with %q", err, c.fails)
				}
			case err != nil:
				t.Error(err)
			default:
				if got := formatFacts(out); got != c.want {
					t.Errorf("shapes are %s, want %s", got, c.want)
				}
			}
		})
	}
}

func TestInferShape(t *testing.T) {
	testInference(t, []inferCase{
		{name: "known", op: "Shape", in: []Fact{shaped(2, 3)}, want: "[2]=[2 3]"},
		{name: "partly known", op: "Shape", in: []Fact{shaped(B, 3)}, want: "[2]"},
		{name: "known part", op: "Shape", attrs: attribute(onnx.IntAttribute("start", -1)), in: []Fact{shaped(B, 3)}, want: "[1]=[3]"},
		{name: "empty part", op: "Shape", attrs: attribute(onnx.IntAttribute("start", 5), onnx.IntAttribute("end", minInt64)), in: []Fact{shaped(B, 3)}, want: "[0]=[]"},
		{name: "any rank", op: "Shape", in: []Fact{anyRank}, want: "[?]"},
		{name: "scalar", op: "Shape", in: []Fact{shaped()}, want: "[0]=[]"},
		{name: "start before version 15", op: "Shape", opset: 14, attrs: attribute(onnx.IntAttribute("start", 1)), in: []Fact{shaped(2)}, fails: "does not exist in version 13"},

		{name: "known", op: "Size", in: []Fact{shaped(2, 3)}, want: "[]=[6]"},
		{name: "empty", op: "Size", in: []Fact{shaped(B, 0)}, want: "[]=[0]"},
		{name: "open", op: "Size", in: []Fact{shaped(B, 3)}, want: "[]"},
	})
}

func TestInferReshape(t *testing.T) {
	allowZero := attribute(onnx.IntAttribute("allowzero", 1))
	testInference(t, []inferCase{
		{name: "numbers", op: "Reshape", in: []Fact{shaped(2, 6), int64s(3, 4)}, want: "[3,4]"},
		{name: "inferred", op: "Reshape", in: []Fact{shaped(2, 6), int64s(4, -1)}, want: "[4,3]"},
		{name: "copied", op: "Reshape", in: []Fact{shaped(B, S, 768), int64s(0, 0, 12, -1)}, want: "[B,S,12,64]"},
		{name: "symbol carried over", op: "Reshape", in: []Fact{shaped(B, 12), int64s(-1, 3, 4)}, want: "[B,3,4]"},
		{name: "product of symbols", op: "Reshape", in: []Fact{shaped(B, S, 8), int64s(-1, 8)}, want: "[?,8]"},
		{name: "symbol with a factor", op: "Reshape", in: []Fact{shaped(B, 12), int64s(-1, 3)}, want: "[?,3]"},
		{name: "to a scalar", op: "Reshape", in: []Fact{shaped(1, 1), int64s()}, want: "[]"},
		{name: "from a scalar", op: "Reshape", in: []Fact{shaped(), int64s(1, -1)}, want: "[1,1]"},
		{name: "many dimensions", op: "Reshape", in: []Fact{shaped(0), int64s(make([]int64, maxListedRank+1)...)}, fails: "lack"},
		{name: "many repeats", op: "Tile", in: []Fact{shaped(2, 2), int64s(make([]int64, maxListedRank+1)...)}, fails: "do not fit"},
		{name: "unknown data", op: "Reshape", in: []Fact{anyRank, int64s(0, -1, 5)}, want: "[?,?,5]"},
		{name: "unknown target", op: "Reshape", in: []Fact{shaped(B, 4), vector(3)}, want: "[?,?,?]"},
		{name: "unknown target of hostile rank", op: "Reshape", in: []Fact{shaped(B, 4), vector(1 << 40)}, want: "[…]"},
		{name: "no elements", op: "Reshape", in: []Fact{shaped(0, 4), int64s(0, -1)}, want: "[0,4]"},
		{name: "no elements of other shape", op: "Reshape", in: []Fact{shaped(0, 4), int64s(0, 7)}, want: "[0,7]"},
		{name: "copied dimension is not there", op: "Reshape", in: []Fact{shaped(0), int64s(4, 0)}, fails: "copies dimension 1"},
		{name: "zero allowed", op: "Reshape", attrs: allowZero, in: []Fact{shaped(0, 4), int64s(7, 0)}, want: "[7,0]"},
		{name: "two inferred", op: "Reshape", in: []Fact{shaped(4), int64s(-1, -1)}, fails: "more than one -1"},
		{name: "does not divide", op: "Reshape", in: []Fact{shaped(4, 3), int64s(5, -1)}, fails: "numbers of elements differ"},
		{name: "other size", op: "Reshape", in: []Fact{shaped(4, 3), int64s(13)}, fails: "numbers of elements differ"},
		{name: "copies what is not there", op: "Reshape", in: []Fact{shaped(4), int64s(4, 0)}, fails: "copies dimension 1"},
		{name: "zero with inferred", op: "Reshape", attrs: allowZero, in: []Fact{shaped(0, 4), int64s(0, -1)}, fails: "allowzero"},
		{name: "negative", op: "Reshape", in: []Fact{shaped(4), int64s(-2)}, fails: "negative dimension"},
		{name: "overflow", op: "Reshape", in: []Fact{shaped(4), int64s(maxInt64, maxInt64, -1)}, fails: "too many elements"},
		{name: "float target", op: "Reshape", in: []Fact{shaped(4), shaped(1)}, fails: "needs int64"},

		{name: "default axis", op: "Flatten", in: []Fact{shaped(B, 3, 4)}, want: "[B,12]"},
		{name: "axis 0", op: "Flatten", attrs: attribute(axis(0)), in: []Fact{shaped(2, 3)}, want: "[1,6]"},
		{name: "axis of the rank", op: "Flatten", attrs: attribute(axis(2)), in: []Fact{shaped(2, 3)}, want: "[6,1]"},
		{name: "axis outside", op: "Flatten", attrs: attribute(axis(3)), in: []Fact{shaped(2, 3)}, fails: "axis 3"},

		{name: "named", op: "Squeeze", in: []Fact{shaped(1, B, 1), int64s(-1)}, want: "[1,B]"},
		{name: "symbol", op: "Squeeze", in: []Fact{shaped(B, S), int64s(0)}, want: "[S]"},
		{name: "all", op: "Squeeze", in: []Fact{shaped(1, 3, 1)}, want: "[3]"},
		{name: "all of open shape", op: "Squeeze", in: []Fact{shaped(1, B)}, want: "[…]"},
		{name: "unknown axes", op: "Squeeze", in: []Fact{shaped(1, B, 4), vector(2)}, want: "[?]"},
		{name: "not 1", op: "Squeeze", in: []Fact{shaped(2, 3), int64s(1)}, fails: "length 3"},
		{name: "attribute", op: "Squeeze", opset: 11, attrs: attribute(axes(0)), in: []Fact{shaped(1, 3)}, want: "[3]"},
		{name: "attribute after version 13", op: "Squeeze", attrs: attribute(axes(0)), in: []Fact{shaped(1, 3)}, fails: "does not exist in version 25"},

		{name: "unsorted", op: "Unsqueeze", in: []Fact{shaped(B, 3), int64s(-1, 0)}, want: "[1,B,3,1]"},
		{name: "scalar", op: "Unsqueeze", in: []Fact{shaped(), int64s(0)}, want: "[1]"},
		{name: "unknown axes", op: "Unsqueeze", in: []Fact{shaped(B), vector(2)}, want: "[?,?,?]"},
		{name: "twice", op: "Unsqueeze", in: []Fact{shaped(B), int64s(0, -3)}, fails: "named twice"},
		{name: "outside", op: "Unsqueeze", in: []Fact{shaped(B), int64s(2)}, fails: "axis 2"},
		{name: "no axes", op: "Unsqueeze", in: []Fact{shaped(B)}, fails: "no axes"},
	})
}

func TestInferSlice(t *testing.T) {
	slice := func(data Fact, starts, ends, axes, steps Fact) []Fact { return []Fact{data, starts, ends, axes, steps} }
	old := func(starts, ends int64) []*onnx.Attribute {
		return attribute(onnx.IntsAttribute("starts", starts), onnx.IntsAttribute("ends", ends))
	}
	testInference(t, []inferCase{
		{name: "whole of a symbol", op: "Slice", in: slice(shaped(B, 4), int64s(0), int64s(maxInt64), int64s(0), absent), want: "[B,4]"},
		{name: "part of a symbol", op: "Slice", in: slice(shaped(B, 4), int64s(1), int64s(maxInt64), int64s(0), absent), want: "[?,4]"},
		{name: "default axes", op: "Slice", in: slice(shaped(5, B), int64s(1), int64s(-1), absent, absent), want: "[3,B]"},
		{name: "steps", op: "Slice", in: slice(shaped(10, 7), int64s(0, 6), int64s(10, minInt64), int64s(0, 1), int64s(3, -2)), want: "[4,4]"},
		{name: "huge steps", op: "Slice", in: slice(shaped(10, 7), int64s(0, 6), int64s(10, minInt64), int64s(0, 1), int64s(maxInt64, minInt64)), want: "[1,1]"},
		{name: "nothing", op: "Slice", in: slice(shaped(10), int64s(5), int64s(2), int64s(0), absent), want: "[0]"},
		{name: "backwards from beyond", op: "Slice", in: slice(shaped(10), int64s(maxInt64), int64s(minInt64), int64s(0), int64s(-1)), want: "[10]"},
		{name: "of nothing", op: "Slice", in: slice(shaped(0), int64s(-1), int64s(minInt64), int64s(0), int64s(-1)), want: "[0]"},
		{name: "unknown ends", op: "Slice", in: slice(shaped(10, 4), int64s(0), vector(1), int64s(-1), absent), want: "[10,?]"},
		{name: "unknown axes", op: "Slice", in: slice(shaped(10, 4), int64s(0), int64s(1), vector(1), absent), want: "[?,?]"},
		{name: "any rank", op: "Slice", in: slice(anyRank, int64s(0), int64s(1), absent, absent), want: "[…]"},
		{name: "attributes", op: "Slice", opset: 9, attrs: old(-2, 9), in: []Fact{shaped(5, B)}, want: "[2,B]"},
		{name: "attributes after version 9", op: "Slice", attrs: old(-2, 9), in: []Fact{shaped(5, B)}, fails: "does not exist in version 13"},
		{name: "step 0", op: "Slice", in: slice(shaped(10), int64s(0), int64s(1), int64s(0), int64s(0)), fails: "a step is 0"},
		{name: "axis twice", op: "Slice", in: slice(shaped(10, 4), int64s(0, 0), int64s(1, 1), int64s(0, -2), absent), fails: "sliced twice"},
		{name: "counts differ", op: "Slice", in: slice(shaped(10, 4), int64s(0, 0), int64s(1), absent, absent), fails: "equally many"},
		{name: "no ends", op: "Slice", in: []Fact{shaped(10), int64s(0)}, fails: "lacks its input starts or ends"},
	})
}

func TestInferConcat(t *testing.T) {
	part := func(sizes ...int64) []*onnx.Attribute { return attribute(onnx.IntsAttribute("split", sizes...)) }
	parts := func(n int64) []*onnx.Attribute { return attribute(onnx.IntAttribute("num_outputs", n)) }
	testInference(t, []inferCase{
		{name: "numbers and symbols", op: "Concat", attrs: attribute(axis(-1)), in: []Fact{shaped(B, 3), shaped(2, 4)}, want: "[2,7]"},
		{name: "along a symbol", op: "Concat", attrs: attribute(axis(0)), in: []Fact{shaped(B, 3), shaped(2, 3)}, want: "[?,3]"},
		{name: "with any rank", op: "Concat", attrs: attribute(axis(1)), in: []Fact{anyRank, shaped(B, 3)}, want: "[B,?]"},
		{name: "overflow", op: "Concat", attrs: attribute(axis(0)), in: []Fact{shaped(Dim(maxInt64)), shaped(5)}, want: fmt.Sprintf("[%d]", maxInt64)},
		{name: "other length", op: "Concat", attrs: attribute(axis(0)), in: []Fact{shaped(1, 3), shaped(1, 4)}, fails: "dimensions 3 and 4 differ"},
		{name: "other rank", op: "Concat", attrs: attribute(axis(0)), in: []Fact{shaped(1), shaped(1, 4)}, fails: "differ in rank"},
		{name: "other type", op: "Concat", attrs: attribute(axis(0)), in: []Fact{shaped(1), int64s(1)}, fails: "int64"},
		{name: "scalars", op: "Concat", attrs: attribute(axis(0)), in: []Fact{shaped(), shaped()}, fails: "axis 0"},
		{name: "no axis", op: "Concat", in: []Fact{shaped(1)}, fails: "lacks the attribute axis"},

		{name: "attribute", op: "Split", opset: 11, outputs: 2, attrs: part(1, 3), in: []Fact{shaped(4, B)}, want: "[1,B] [3,B]"},
		{name: "equal", op: "Split", opset: 13, outputs: 2, in: []Fact{shaped(4, B)}, want: "[2,B] [2,B]"},
		{name: "uneven", op: "Split", outputs: 3, attrs: parts(3), in: []Fact{shaped(7)}, want: "[3] [3] [1]"},
		{name: "input", op: "Split", outputs: 2, in: []Fact{shaped(4, B), int64s(4, 0)}, want: "[4,B] [0,B]"},
		{name: "unknown input", op: "Split", outputs: 2, in: []Fact{shaped(4, B), vector(2)}, want: "[?,B] [?,B]"},
		{name: "symbol", op: "Split", outputs: 2, attrs: parts(2), in: []Fact{shaped(B, 3)}, want: "[?,3] [?,3]"},
		{name: "uneven before version 18", op: "Split", opset: 13, outputs: 3, in: []Fact{shaped(7)}, fails: "equal parts"},
		{name: "more parts than elements", op: "Split", outputs: 4, attrs: parts(4), in: []Fact{shaped(5)}, fails: "equal parts"},
		{name: "other sum", op: "Split", outputs: 2, in: []Fact{shaped(4), int64s(4, 1)}, fails: "does not add up"},
		{name: "other count", op: "Split", outputs: 3, in: []Fact{shaped(4), int64s(3, 1)}, fails: "for 2 outputs"},
		{name: "overflowing sum", op: "Split", outputs: 2, in: []Fact{shaped(B), int64s(maxInt64, 1)}, fails: "too large"},
		{name: "other num_outputs", op: "Split", outputs: 2, attrs: parts(3), in: []Fact{shaped(6)}, fails: "num_outputs is 3"},
	})
}

func TestInferGather(t *testing.T) {
	testInference(t, []inferCase{
		{name: "scalar", op: "Gather", in: []Fact{shaped(7), scalar(int64(0))}, want: "[]"},
		{name: "embedding", op: "Gather", in: []Fact{shaped(100, 8), {Type: onnx.Int64, Shape: []Dim{B, S}}}, want: "[B,S,8]"},
		{name: "axis", op: "Gather", attrs: attribute(axis(-1)), in: []Fact{shaped(B, 8), int64s(1, 2, 3)}, want: "[B,3]"},
		{name: "float indices", op: "Gather", in: []Fact{shaped(7), shaped(2)}, fails: "needs int64"},
		{name: "scalar data", op: "Gather", in: []Fact{shaped(), int64s(0)}, fails: "axis 0"},

		{name: "smaller indices", op: "GatherElements", in: []Fact{shaped(5, 6), {Type: onnx.Int32, Shape: []Dim{9, 2}}}, want: "[9,2]"},
		{name: "larger indices", op: "GatherElements", in: []Fact{shaped(5, 6), {Type: onnx.Int32, Shape: []Dim{5, 7}}}, fails: "exceed data"},

		{name: "slices", op: "GatherND", in: []Fact{shaped(2, 3, B), {Type: onnx.Int64, Shape: []Dim{4, 2}}}, want: "[4,B]"},
		{name: "batch", op: "GatherND", attrs: attribute(onnx.IntAttribute("batch_dims", 1)), in: []Fact{shaped(B, 3, 4), {Type: onnx.Int64, Shape: []Dim{2, 1}}}, want: "[2,4]"},
		{name: "tuples too long", op: "GatherND", in: []Fact{shaped(2), {Type: onnx.Int64, Shape: []Dim{4, 2}}}, fails: "length 2"},
		{name: "batch too deep", op: "GatherND", attrs: attribute(onnx.IntAttribute("batch_dims", 9)), in: []Fact{shaped(2), int64s(1)}, fails: "batch_dims is 9"},

		{name: "known", op: "Compress", attrs: attribute(axis(1)), in: []Fact{shaped(2, 3), FactOf(tensor.FromSlice([]bool{true, false, true}))}, want: "[2,2]"},
		{name: "unknown", op: "Compress", in: []Fact{shaped(2, 3), {Type: onnx.Bool, Shape: []Dim{3}}}, want: "[?]"},

		{name: "time and batch", op: "ReverseSequence", in: []Fact{shaped(S, B, 4), vector(B)}, want: "[S,B,4]"},
		{name: "same axis", op: "ReverseSequence", attrs: attribute(onnx.IntAttribute("time_axis", 1)), in: []Fact{shaped(S, B), vector(B)}, fails: "one must be 0"},
	})
}

func TestInferScatter(t *testing.T) {
	indices := func(dims ...Dim) Fact { return Fact{Type: onnx.Int64, Shape: dims} }
	reduction := func(s string) []*onnx.Attribute { return attribute(onnx.StringAttribute("reduction", s)) }
	testInference(t, []inferCase{
		{name: "fits", op: "ScatterElements", in: []Fact{shaped(B, 4), indices(2, 3), shaped(2, 3)}, want: "[B,4]"},
		{name: "updates differ", op: "ScatterElements", in: []Fact{shaped(B, 4), indices(2, 3), shaped(2, 4)}, fails: "indices and updates differ"},
		{name: "reduction of a later version", op: "ScatterElements", opset: 16, attrs: reduction("max"), in: []Fact{shaped(4), indices(2), shaped(2)}, fails: `"max"`},
		{name: "reduction before its version", op: "ScatterElements", opset: 13, attrs: reduction("add"), in: []Fact{shaped(4), indices(2), shaped(2)}, fails: "does not exist in version 13"},
		{name: "slices", op: "ScatterND", in: []Fact{shaped(8, B), indices(2, 1), shaped(2, B)}, want: "[8,B]"},
		{name: "updates of other shape", op: "ScatterND", in: []Fact{shaped(8, 3), indices(2, 1), shaped(2, 4)}, fails: "updates do not fit"},
		{name: "updates of other type", op: "ScatterND", in: []Fact{shaped(8), indices(2, 1), stringly(2)}, fails: "string"},
		{name: "cache", op: "TensorScatter", in: []Fact{shaped(B, 4, 16, 8), shaped(2, 4, 1, 8), vector(2)}, want: "[B,4,16,8]"},
		{name: "update too long", op: "TensorScatter", in: []Fact{shaped(2, 16, 8), shaped(2, 17, 8)}, fails: "exceeds the cache"},
		{name: "batch axis", op: "TensorScatter", attrs: attribute(axis(0)), in: []Fact{shaped(2, 16, 8), shaped(2, 1, 8)}, fails: "batch dimension"},
	})
}

func TestInferExpand(t *testing.T) {
	pads := func(v ...int64) []Fact { return []Fact{shaped(3, B), int64s(v...)} }
	mode := func(s string) []*onnx.Attribute { return attribute(onnx.StringAttribute("mode", s)) }
	testInference(t, []inferCase{
		{name: "both ways", op: "Expand", in: []Fact{shaped(3, 1), int64s(2, 1, 6)}, want: "[2,3,6]"},
		{name: "unknown shape", op: "Expand", in: []Fact{shaped(B, 4), vector(3)}, want: "[?,?,4]"},
		{name: "does not broadcast", op: "Expand", in: []Fact{shaped(3), int64s(2)}, fails: "do not broadcast"},
		{name: "negative", op: "Expand", in: []Fact{shaped(3), int64s(-1)}, fails: "negative"},

		{name: "numbers", op: "Tile", in: []Fact{shaped(3, B), int64s(2, 1)}, want: "[6,B]"},
		{name: "other count", op: "Tile", in: []Fact{shaped(3), int64s(2, 1)}, fails: "do not fit"},
		{name: "overflow", op: "Tile", in: []Fact{shaped(3), int64s(maxInt64)}, want: fmt.Sprintf("[%d]", maxInt64)},

		{name: "both ends", op: "Pad", in: pads(1, 0, -2, 0), want: "[2,B]"},
		{name: "symbol", op: "Pad", in: pads(0, 1, 0, 0), want: "[3,?]"},
		{name: "axes", op: "Pad", in: []Fact{shaped(3, B), int64s(1, 1), absent, int64s(0)}, want: "[5,B]"},
		{name: "attribute", op: "Pad", opset: 10, attrs: attribute(onnx.IntsAttribute("pads", 1, 1)), in: []Fact{shaped(3)}, want: "[5]"},
		{name: "unknown", op: "Pad", in: []Fact{shaped(3, B), vector(4)}, want: "[?,?]"},
		{name: "cuts too much", op: "Pad", in: pads(-2, 0, -2, 0), fails: "leave nothing"},
		{name: "reflects nothing", op: "Pad", attrs: mode("reflect"), in: pads(-3, 0, 5, 0), fails: "leave nothing"},
		{name: "wrap before version 19", op: "Pad", opset: 18, attrs: mode("wrap"), in: pads(0, 0, 0, 0), fails: `"wrap"`},
		{name: "hostile", op: "Pad", in: pads(maxInt64, 0, maxInt64, 0), fails: "too large"},

		{name: "crops and pads", op: "CenterCropPad", in: []Fact{shaped(3, B), int64s(10, 5)}, want: "[10,5]"},
		{name: "some axes", op: "CenterCropPad", attrs: attribute(axes(-1)), in: []Fact{shaped(B, 3), int64s(10)}, want: "[B,10]"},
	})
}

func TestInferConstants(t *testing.T) {
	value := func(t *tensor.Tensor) []*onnx.Attribute {
		return attribute(onnx.TensorAttribute("value", t.ToONNX("")))
	}
	testInference(t, []inferCase{
		{name: "tensor", op: "Constant", attrs: value(tensor.FromSlice([]int64{1, 2})), want: "[2]=[1 2]"},
		{name: "integer", op: "Constant", attrs: attribute(onnx.IntAttribute("value_int", 7)), want: "[]=[7]"},
		{name: "integers", op: "Constant", attrs: attribute(onnx.IntsAttribute("value_ints", 7, 8)), want: "[2]=[7 8]"},
		{name: "float", op: "Constant", attrs: attribute(onnx.FloatAttribute("value_float", 7)), want: "[]"},
		{name: "string", op: "Constant", attrs: attribute(onnx.StringAttribute("value_string", "x")), want: "[]"},
		{name: "none", op: "Constant", fails: "exactly one value"},
		{name: "wrong kind", op: "Constant", attrs: attribute(onnx.IntAttribute("value_float", 7)), fails: "value_float"},

		{name: "known", op: "ConstantOfShape", in: []Fact{int64s(2, 0)}, want: "[2,0]"},
		{name: "scalar", op: "ConstantOfShape", in: []Fact{int64s()}, want: "[]"},
		{name: "unknown", op: "ConstantOfShape", in: []Fact{vector(2)}, want: "[?,?]"},
		{name: "negative", op: "ConstantOfShape", in: []Fact{int64s(-1)}, fails: "negative"},
		{name: "two values", op: "ConstantOfShape", attrs: value(tensor.FromSlice([]int64{1, 2})), in: []Fact{int64s(1)}, fails: "2 elements"},

		{name: "integers", op: "Range", in: []Fact{scalar(int64(3)), scalar(int64(10)), scalar(int64(3))}, want: "[3]"},
		{name: "down", op: "Range", in: []Fact{scalar(int32(3)), scalar(int32(-4)), scalar(int32(-3))}, want: "[3]"},
		{name: "empty", op: "Range", in: []Fact{scalar(int64(3)), scalar(int64(3)), scalar(int64(1))}, want: "[0]"},
		{name: "whole int64", op: "Range", in: []Fact{scalar(minInt64), scalar(maxInt64), scalar(maxInt64)}, want: "[3]"},
		{name: "rounding adds nothing", op: "Range", in: []Fact{scalar(float32(0.1)), scalar(float32(1.1)), scalar(float32(0.1))}, want: "[10]"},
		{name: "unknown", op: "Range", in: []Fact{scalar(int64(0)), {Type: onnx.Int64, Shape: []Dim{}}, scalar(int64(1))}, want: "[?]"},
		{name: "step 0", op: "Range", in: []Fact{scalar(int64(0)), scalar(int64(5)), scalar(int64(0))}, fails: "delta is 0"},
		{name: "endless", op: "Range", in: []Fact{scalar(float32(0)), scalar(float32(5)), scalar(float32(0))}, fails: "finite"},

		{name: "numbers", op: "OneHot", in: []Fact{{Type: onnx.Int64, Shape: []Dim{B, 3}}, scalar(int64(5)), shaped(2)}, want: "[B,3,5]"},
		{name: "first axis", op: "OneHot", attrs: attribute(axis(0)), in: []Fact{vector(B), scalar(float32(5)), shaped(2)}, want: "[5,B]"},
		{name: "unknown depth", op: "OneHot", in: []Fact{vector(B), {Type: onnx.Int64, Shape: []Dim{}}, shaped(2)}, want: "[B,?]"},
		{name: "negative depth", op: "OneHot", in: []Fact{vector(B), scalar(int64(-5)), shaped(2)}, fails: "depth is -5"},
	})
}

func TestInferOrder(t *testing.T) {
	testInference(t, []inferCase{
		{name: "input", op: "TopK", outputs: 2, in: []Fact{shaped(B, 8), int64s(2)}, want: "[B,2] [B,2]"},
		{name: "attribute", op: "TopK", opset: 9, outputs: 2, attrs: attribute(onnx.IntAttribute("k", 3)), in: []Fact{shaped(B, 8)}, want: "[B,3] [B,3]"},
		{name: "unknown", op: "TopK", outputs: 2, in: []Fact{shaped(B, 8), vector(1)}, want: "[B,?] [B,?]"},
		{name: "too many", op: "TopK", outputs: 2, in: []Fact{shaped(B, 8), int64s(9)}, fails: "only 8 elements"},
		{name: "no k", op: "TopK", outputs: 2, in: []Fact{shaped(B, 8)}, fails: "lacks its input K"},
		{name: "kept", op: "ArgMax", attrs: attribute(axis(-1)), in: []Fact{shaped(B, 8)}, want: "[B,1]"},
		{name: "dropped", op: "ArgMin", attrs: attribute(axis(-1), onnx.IntAttribute("keepdims", 0)), in: []Fact{shaped(B, 8)}, want: "[B]"},
		{name: "of nothing", op: "ArgMin", in: []Fact{shaped(0, 8)}, fails: "no elements"},
		{name: "columns", op: "NonZero", in: []Fact{shaped(B, 8)}, want: "[2,?]"},
		{name: "known", op: "NonZero", in: []Fact{int64s(0, 5, 7)}, want: "[1,2]"},
		{name: "axis", op: "Unique", outputs: 4, attrs: attribute(axis(0)), in: []Fact{shaped(B, 8)}, want: "[?,8] [?] [B] [?]"},
		{name: "flat", op: "Unique", outputs: 4, in: []Fact{shaped(3, 8)}, want: "[?] [?] [24] [?]"},
		{name: "perm", op: "Transpose", attrs: attribute(onnx.IntsAttribute("perm", 0, 2, 1)), in: []Fact{shaped(B, 2, S)}, want: "[B,S,2]"},
		{name: "default", op: "Transpose", in: []Fact{shaped(B, 2, S)}, want: "[S,2,B]"},
		{name: "no permutation", op: "Transpose", attrs: attribute(onnx.IntsAttribute("perm", 0, 0)), in: []Fact{shaped(B, 2)}, fails: "no permutation"},
		{name: "blocks", op: "DepthToSpace", attrs: attribute(onnx.IntAttribute("blocksize", 2)), in: []Fact{shaped(B, 8, 3, S)}, want: "[B,2,6,?]"},
		{name: "blocks", op: "SpaceToDepth", attrs: attribute(onnx.IntAttribute("blocksize", 2)), in: []Fact{shaped(B, 2, 6, S)}, want: "[B,8,3,?]"},
		{name: "no multiple", op: "SpaceToDepth", attrs: attribute(onnx.IntAttribute("blocksize", 4)), in: []Fact{shaped(B, 2, 6, S)}, fails: "no multiple"},
	})
}

func TestInferResize(t *testing.T) {
	floats := func(v ...float32) Fact { return FactOf(tensor.FromSlice(v)) }
	policy := attribute(onnx.StringAttribute("keep_aspect_ratio_policy", "not_larger"))
	testInference(t, []inferCase{
		{name: "scales", op: "Resize", in: []Fact{shaped(1, B, 4, S), absent, floats(1, 1, 2.5, 2)}, want: "[1,B,10,?]"},
		{name: "sizes", op: "Resize", in: []Fact{shaped(1, B), absent, absent, int64s(3, 4)}, want: "[3,4]"},
		{name: "version 10", op: "Resize", opset: 10, in: []Fact{shaped(10), floats(0.66)}, want: "[6]"},
		{name: "aspect ratio", op: "Resize", attrs: append(policy, axes(2, 3)), in: []Fact{shaped(B, 3, 10, 20), absent, absent, int64s(7, 8)}, want: "[B,3,4,8]"},
		{name: "unknown", op: "Resize", in: []Fact{shaped(1, B), absent, {Type: onnx.Float32, Shape: []Dim{2}}}, want: "[?,?]"},
		{name: "neither", op: "Resize", in: []Fact{shaped(1, B)}, fails: "either scales or sizes"},
		{name: "both", op: "Resize", in: []Fact{shaped(1), absent, floats(1), int64s(1)}, fails: "either scales or sizes"},
		{name: "negative", op: "Resize", in: []Fact{shaped(1), absent, floats(-1)}, fails: "scaled by -1"},
		{name: "too large", op: "Resize", in: []Fact{shaped(1 << 40), absent, floats(1e20)}, fails: "scaled by 1e+20"},
		{name: "of nothing", op: "Resize", in: []Fact{shaped(0), absent, absent, int64s(4)}, fails: "resized to 4"},
		{name: "attribute", op: "Upsample", opset: 7, attrs: attribute(&onnx.Attribute{Name: "scales", Type: onnx.AttributeFloats, Floats: []float32{1, 2}}), in: []Fact{shaped(B, 3)}, want: "[B,6]"},
		{name: "no scales", op: "Upsample", opset: 9, in: []Fact{shaped(B, 3)}, fails: "lacks scales"},
	})
}
