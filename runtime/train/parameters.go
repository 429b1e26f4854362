package train

import (
	"math"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// Kind says what a parameter is for.
type Kind string

// The kinds of parameters.
const (
	Matrix    Kind = "matrix"    // multiplies activations
	Embedding Kind = "embedding" // a table of which rows are taken
	Vector    Kind = "vector"    // biases, and weights of normalisations
	Router    Kind = "router"    // of FMoE layers
	Expert    Kind = "expert"    // [T, out, in], projections of FMoE layers
)

// Kinds lists the kinds of parameters.
var Kinds = []Kind{Matrix, Embedding, Vector, Router, Expert}

// Parameter is a weight that training changes: a floating-point initializer.
type Parameter struct {
	Name  string
	Shape []int
	Type  onnx.DataType
	Kind  Kind
}

// Len returns the number of elements.
func (p *Parameter) Len() int { return tensor.Count(p.Shape) }

// Parameters finds the parameters of a model without function calls, in the
// order of its initializers. What a file does not tell is inferred from use:
// parameters are what activations are multiplied by or added to, tables of
// which rows are taken, and what operators take as weights. Masks, tables of
// sines and other numbers of formulas are none of them.
func Parameters(m *onnx.Model) []Parameter {
	f := &finder{floats: map[string]*onnx.Tensor{}, origin: map[string]string{}, active: map[string]bool{}, kinds: map[string]Kind{}}
	for _, t := range m.Graph.Initializers {
		if t.DataType.IsFloat() && t.DataType.Bits() >= 16 && len(t.Dims) > 0 {
			f.floats[t.Name], f.origin[t.Name] = t, t.Name
		}
	}
	for _, v := range m.Graph.Inputs {
		if v.Type != nil && v.Type.ElemType.IsFloat() && f.floats[v.Name] == nil {
			f.active[v.Name] = true
		}
	}
	for _, n := range m.Graph.Nodes {
		f.node(n)
	}
	var list []Parameter
	for _, t := range m.Graph.Initializers {
		if kind, ok := f.kinds[t.Name]; ok {
			p := Parameter{Name: t.Name, Type: t.DataType, Kind: kind, Shape: []int{}}
			for _, d := range t.Dims {
				p.Shape = append(p.Shape, int(d))
			}
			list = append(list, p)
		}
	}
	return list
}

// ModelParameters is Parameters of a model that may call functions.
func ModelParameters(m *onnx.Model) ([]Parameter, error) {
	m, err := inlined(m)
	if err != nil {
		return nil, err
	}
	return Parameters(m), nil
}

// finder follows a graph from its inputs on.
type finder struct {
	floats map[string]*onnx.Tensor
	origin map[string]string // by value: the initializer of which it is another form
	active map[string]bool   // values that depend on activations or parameters
	kinds  map[string]Kind
}

// forms are operators that give a weight another form.
var forms = []string{"Transpose", "Reshape", "Cast", "Unsqueeze", "Squeeze", "Identity", "Flatten", "Expand", "Slice", "Split", "Tile"}

// weighted are operators all whose floating-point initializers of a rank from 1
// on are parameters.
var weighted = []string{"Conv", "ConvTranspose", "LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization",
	"SkipLayerNormalization", "SkipSimplifiedLayerNormalization", "EmbedLayerNormalization", "GroupNormalization",
	"InstanceNormalization", "PRelu", "LSTM", "GRU", "RNN", "BiasGelu", "FastGelu", "MultiHeadAttention", "Attention"}

// weightedInputs are the inputs of operators that are parameters where they
// are floating-point initializers, among others that are none.
var weightedInputs = map[string][]int{"CausalConvWithState": {1, 2}, "GroupQueryAttention": {11}}

func (f *finder) node(n *onnx.Node) {
	if n.Is("Shape") || n.Is("Size") {
		return // what follows from shapes depends on no activation
	}
	active := slices.ContainsFunc(n.Inputs, func(name string) bool { return f.active[name] }) || f.ofWeights(n)
	switch {
	case n.OpType == moe.OpType && n.Domain == moe.Domain:
		f.layer(n)
		active = true
	case n.Is("Gather") || n.Is("GatherND"):
		if name, t := f.weight(n.Input(0)); t != nil && len(t.Dims) > 1 && !sinusoidal(t) {
			f.add(name, Embedding)
			active = true
		}
	case slices.Contains(forms, n.OpType) && n.Domain == "" && !active:
		if name, ok := f.origin[n.Input(0)]; ok {
			for _, out := range n.Outputs {
				f.origin[out] = name
			}
			active = f.active[n.Input(0)]
		}
	case n.Is("Add") && !active:
		f.masked(n)
	case slices.Contains(weighted, n.OpType) && (active || n.OpType == "EmbedLayerNormalization"):
		for i, in := range n.Inputs {
			if name, t := f.weight(in); t != nil && !(n.OpType == "MultiHeadAttention" && i != 3) && !(n.Is("Attention") && n.Domain == "") {
				f.add(name, kindOf(t))
			}
		}
		active = true
	case active && weightedInputs[n.OpType] != nil:
		for _, i := range weightedInputs[n.OpType] {
			if name, t := f.weight(n.Input(i)); t != nil {
				f.add(name, kindOf(t))
			}
		}
	case active:
		f.operands(n)
	}
	if active {
		for _, out := range n.Outputs {
			f.active[out] = true
		}
	}
}

// ofWeights reports whether a node multiplies two weights, or normalises one:
// positions relative to a token, of which each layer makes its own keys.
func (f *finder) ofWeights(n *onnx.Node) bool {
	_, first := f.weight(n.Input(0))
	_, second := f.weight(n.Input(1))
	return first != nil && second != nil && !vector(first) && (n.Is("MatMul") || n.Is("Gemm") || n.Is("LayerNormalization"))
}

// masked follows a table of positions through the addition of a mask.
func (f *finder) masked(n *onnx.Node) {
	for _, in := range n.Inputs {
		if name, t := f.weight(in); t != nil && !vector(t) && manyValues(t) {
			f.origin[n.Output(0)] = name
		}
	}
}

// operands finds the parameters among what is combined with activations.
func (f *finder) operands(n *onnx.Node) {
	product := n.OpType == "MatMul" || n.OpType == "Gemm" || n.OpType == "FusedMatMul" || n.OpType == "Einsum"
	elementwise := n.Is("Add") || n.Is("Sub") || n.Is("Mul") || n.Is("Div")
	if !product && !elementwise && !n.Is("Concat") {
		return
	}
	for i, in := range n.Inputs {
		name, t := f.weight(in)
		switch {
		case t == nil:
		case product && i < 2:
			f.add(name, kindOf(t))
		case vector(t):
			f.add(name, Vector)
		case manyValues(t) && !sinusoidal(t):
			f.add(name, kindOf(t))
		}
	}
}

// layer finds the parameters of an FMoE node, whose quantised weights are
// none.
func (f *finder) layer(n *onnx.Node) {
	for slot := moe.InputGateWeight; slot <= moe.InputNoiseWeight; slot++ {
		name, t := f.weight(n.Input(slot))
		switch {
		case t == nil:
		case slot == moe.InputGateWeight || slot == moe.InputGateBias || slot == moe.InputNoiseWeight:
			f.add(name, Router)
		case slot == moe.InputFC1Weight || slot == moe.InputFC2Weight || slot == moe.InputFC3Weight:
			f.add(name, Expert)
		default:
			f.add(name, Vector)
		}
	}
}

// weight returns the initializer of which a value is another form, nil where
// it is none.
func (f *finder) weight(value string) (string, *onnx.Tensor) {
	name, ok := f.origin[value]
	if !ok || value == "" {
		return "", nil
	}
	return name, f.floats[name]
}

func (f *finder) add(name string, kind Kind) {
	if _, known := f.kinds[name]; !known {
		f.kinds[name] = kind
	}
}

// kindOf tells a matrix from a vector.
func kindOf(t *onnx.Tensor) Kind {
	if vector(t) {
		return Vector
	}
	return Matrix
}

// vector reports whether a tensor has but one dimension that is not 1.
func vector(t *onnx.Tensor) bool {
	long := 0
	for _, d := range t.Dims {
		if d != 1 {
			long++
		}
	}
	return long == 1 || long == 0 && len(t.Dims) == 1
}

// manyValues reports whether a tensor has more than the two values of a mask.
func manyValues(t *onnx.Tensor) bool {
	x := values(t)
	var seen []float64
	for _, v := range x {
		if !slices.Contains(seen, v) {
			if seen = append(seen, v); len(seen) > 2 {
				return true
			}
		}
	}
	return false
}

// sinusoidal reports whether a tensor [positions, …] is a table of sines or
// cosines of multiples of the position: its first row has the angle 0.
func sinusoidal(t *onnx.Tensor) bool {
	x := values(t)
	if len(t.Dims) < 2 || len(x) == 0 {
		return false
	}
	width := int(t.Dims[len(t.Dims)-1])
	for _, v := range x[:width] {
		if v != x[0] || v != 0 && v != 1 {
			return false
		}
	}
	return !slices.ContainsFunc(x, func(v float64) bool { return math.Abs(v) > 1 })
}

// values returns a tensor's elements, none where they cannot be read.
func values(t *onnx.Tensor) []float64 {
	v, err := tensor.FromONNX(t)
	if err != nil {
		return nil
	}
	x, err := tensor.Float64s(v)
	if err != nil {
		return nil
	}
	return x
}
