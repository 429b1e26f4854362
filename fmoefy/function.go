package fmoefy

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// minOpset is the oldest operator set in which the body can be written: the
// first with ScatterElements and negative axes.
const minOpset = 11

// variant is what the body of an FMoE node depends on besides its inputs. A
// model needs one function for each variant.
type variant struct {
	activation                          moe.Activation
	gated                               bool
	gateBias, fc1Bias, fc2Bias, fc3Bias bool
	routing                             routing
	selectionBias, mask                 bool
	elementType                         onnx.DataType
	stored                              storage // of the experts' weights
	topK                                int     // 0 where the body reads it from the node
	opset                               int64
}

// newVariant returns the variant of an FMoE node whose experts compute in type
// t, in a model of the given operator set. It fails for nodes that no body can
// stand for.
func newVariant(n *onnx.Node, c moe.Config, t onnx.DataType, stored storage, opset int64) (variant, error) {
	if err := evaluates(n); err != nil {
		return variant{}, err
	}
	routing, err := routingOf(c)
	if err != nil {
		return variant{}, err
	}
	has := func(slot int) bool { return n.Input(slot) != "" }
	v := variant{activation: c.Activation, gated: has(moe.InputFC3Weight), gateBias: has(moe.InputGateBias),
		fc1Bias: has(moe.InputFC1Bias), fc2Bias: has(moe.InputFC2Bias), fc3Bias: has(moe.InputFC3Bias),
		routing: routing, selectionBias: has(moe.InputSelectionBias), mask: has(moe.InputMask),
		elementType: t, stored: stored, opset: opset}
	if opset < 12 { // Constant takes its value from an attribute of the caller since then
		v.topK = c.TopK
	}
	return v, nil
}

// evaluates fails for an FMoE node that does more than evaluation does.
func evaluates(n *onnx.Node) error {
	if n.Input(moe.InputStep) != "" {
		return fmt.Errorf("its input %s puts it in training, which other runtimes cannot do: remove it", moe.InputNames[moe.InputStep])
	}
	for slot, name := range moe.OutputNames {
		if slot != moe.OutputY && n.Output(slot) != "" {
			return fmt.Errorf("other runtimes cannot compute its output %s: remove it", name)
		}
	}
	return nil
}

// String describes the variant; the description is the function's doc string
// and tells variants apart.
func (v variant) String() string {
	words := []string{string(v.activation), v.elementType.String()}
	if v.stored.elementType != v.elementType {
		words = append(words, v.stored.String())
	}
	for _, part := range []struct {
		present bool
		name    string
	}{{v.gated, "gated"}, {v.gateBias, "gate_bias"}, {v.fc1Bias, "fc1_bias"}, {v.fc2Bias, "fc2_bias"}, {v.fc3Bias, "fc3_bias"}, {v.selectionBias, "selection_bias"}, {v.mask, "mask"}} {
		if part.present {
			words = append(words, part.name)
		}
	}
	words = append(words, v.routing.words()...)
	if v.topK > 0 {
		words = append(words, fmt.Sprintf("top_%d", v.topK))
	}
	return fmt.Sprintf("opset%d %s", v.opset, strings.Join(words, " "))
}

// formalInputs are the inputs of every body: all that evaluation uses.
var formalInputs = moe.InputNames[:moe.InputMask+1]

// attributes are the function's attributes: all that the node has.
func (v variant) attributes() []string {
	if v.stored.Bits != 0 {
		return slices.Clone(moe.Attributes)
	}
	return slices.DeleteFunc(slices.Clone(moe.Attributes), func(name string) bool {
		return name == moe.AttributeExpertBits || name == moe.AttributeBlockSize
	})
}

// function returns the body of FMoE for a variant: every expert computes every
// token, and the results are added up with weights that are zero for the
// experts that the router did not choose. That is E/k times the arithmetic of
// a sparse kernel and takes memory for [T, N, h] values, but it has static
// shapes, no control flow, and only operators that every runtime has.
//
// T is the number of experts, N of tokens, d and h the widths.
func (v variant) function(overload string) *onnx.Function {
	b := &body{variant: v}
	tokens := b.op("Flatten", []string{"X"}, onnx.IntAttribute("axis", -1)) // [N, d]
	gates := b.gates(tokens)                                                // [T, N, 1]

	hidden := b.activate(b.linear(tokens, moe.InputFC1Weight, v.fc1Bias)) // [T, N, h]
	if v.gated {
		hidden = b.op("Mul", []string{hidden, b.linear(tokens, moe.InputFC3Weight, v.fc3Bias)})
	}
	out := b.linear(hidden, moe.InputFC2Weight, v.fc2Bias) // [T, N, d]
	if v.elementType == onnx.Float16 {
		// An expert that was not chosen may overflow, and 0·∞ is no number.
		chosen := b.op("Greater", []string{gates, b.float(0)})
		out = b.op("Where", []string{chosen, out, b.float(0)})
	}
	out = b.op("Mul", []string{out, gates})
	sum := b.overAxis("ReduceSum", out, 0, onnx.IntAttribute("keepdims", 0)) // [N, d]
	y := b.add("Reshape", []string{sum, b.op("Shape", []string{"X"})}, "Y")
	if v.opset >= 14 {
		y.Attributes = append(y.Attributes, onnx.IntAttribute("allowzero", 1)) // no tokens
	}

	return &onnx.Function{
		Name: moe.OpType, Domain: moe.Domain, Overload: overload,
		Inputs: slices.Clone(formalInputs), Outputs: []string{"Y"},
		Attributes:   v.attributes(),
		Nodes:        b.nodes,
		OpsetImports: []onnx.OpsetImport{{Version: v.opset}},
		DocString:    v.String(),
	}
}

// body collects the nodes of a function.
type body struct {
	variant
	nodes []*onnx.Node
}

// op adds a node and returns its output.
func (b *body) op(opType string, inputs []string, attributes ...*onnx.Attribute) string {
	out := fmt.Sprintf("%s_%d", strings.ToLower(opType), len(b.nodes))
	b.add(opType, inputs, out).Attributes = attributes
	return out
}

func (b *body) add(opType string, inputs []string, outputs ...string) *onnx.Node {
	n := &onnx.Node{OpType: opType, Inputs: inputs, Outputs: outputs, Name: outputs[0]}
	b.nodes = append(b.nodes, n)
	return n
}

func (b *body) constant(t *tensor.Tensor) string {
	return b.op("Constant", nil, onnx.TensorAttribute("value", t.ToONNX("")))
}

// float returns a scalar of the element type.
func (b *body) float(x float64) string {
	return b.constant(&tensor.Tensor{Type: b.elementType, Shape: []int{}, Data: narrow(b.elementType, []float64{x})})
}

func (b *body) ints(list ...int64) string { return b.constant(tensor.FromSlice(list)) }

// overAxis adds an operator whose axes are an attribute before operator set 13
// and an input since then.
func (b *body) overAxis(opType, x string, axis int64, attributes ...*onnx.Attribute) string {
	if b.opset < 13 {
		return b.op(opType, []string{x}, append(attributes, onnx.IntsAttribute("axes", axis))...)
	}
	return b.op(opType, []string{x, b.ints(axis)}, attributes...)
}

func (b *body) transpose(x string, perm ...int64) string {
	return b.op("Transpose", []string{x}, onnx.IntsAttribute("perm", perm...))
}

// linear applies every expert's linear layer to x, [N, in] or [T, N, in], and
// returns [T, N, out]. The layer's weight is in an input slot of FMoE and its
// bias in the next one.
func (b *body) linear(x string, slot int, hasBias bool) string {
	y := b.op("MatMul", []string{x, b.transpose(b.weight(slot), 0, 2, 1)})
	if hasBias {
		y = b.op("Add", []string{y, b.overAxis("Unsqueeze", moe.InputNames[slot+1], 1)})
	}
	return y
}

// weight returns an experts' weight [T, out, in] in the type that they compute
// in.
func (b *body) weight(slot int) string {
	w := moe.InputNames[slot]
	if b.stored.Bits != 0 {
		w = b.dequantized(slot)
	} else if b.stored.elementType == b.elementType {
		return w
	}
	return b.cast(w, b.elementType)
}

// dequantized returns a quantised weight in float32, in which all integers are
// exact.
func (b *body) dequantized(slot int) string {
	number := func(x float32) string { return b.constant(tensor.FromSlice([]float32{x}, 1)) }
	op := func(opType string, inputs ...string) string { return b.op(opType, inputs) }
	q := b.cast(moe.InputNames[slot], onnx.Float32) // [T, out, blocks, bytes]
	if b.stored.Bits == 4 {
		high := op("Floor", op("Mul", q, number(1./16)))
		low := op("Sub", q, op("Mul", high, number(16)))
		pairs := b.op("Concat", []string{b.overAxis("Unsqueeze", low, 4), b.overAxis("Unsqueeze", high, 4)}, onnx.IntAttribute("axis", 4))
		q = op("Reshape", pairs, b.ints(0, 0, 0, -1))
	}
	q = op("Sub", q, number(float32(int(1)<<(b.stored.Bits-1))))
	q = op("Mul", q, b.overAxis("Unsqueeze", moe.InputNames[moe.Scales(slot)], 3))
	rows := op("Reshape", q, b.ints(0, 0, -1)) // what fills up the last block still there
	// The inputs of a layer are as many as the outputs of the other.
	other := moe.InputFC2Weight
	if slot == other {
		other = moe.InputFC1Weight
	}
	width := op("Slice", b.op("Shape", []string{moe.InputNames[other]}), b.ints(1), b.ints(2))
	return op("Slice", rows, b.ints(0), width, b.ints(2))
}

func (b *body) cast(x string, t onnx.DataType) string {
	return b.op("Cast", []string{x}, onnx.IntAttribute("to", int64(t)))
}

// activate applies the experts' activation in operators of the oldest operator
// set.
func (b *body) activate(x string) string {
	op := func(opType string, inputs ...string) string { return b.op(opType, inputs) }
	switch b.activation {
	case moe.ReLU:
		return op("Relu", x)
	case moe.ReLU2:
		r := op("Relu", x)
		return op("Mul", r, r)
	case moe.GELU:
		cdf := op("Add", op("Erf", op("Mul", x, b.float(math.Sqrt2/2))), b.float(1))
		return op("Mul", op("Mul", x, b.float(0.5)), cdf)
	case moe.GELUTanh:
		cubic := op("Mul", op("Mul", op("Mul", x, x), x), b.float(0.044715))
		inner := op("Mul", op("Add", x, cubic), b.float(math.Sqrt(2/math.Pi)))
		return op("Mul", op("Mul", x, b.float(0.5)), op("Add", op("Tanh", inner), b.float(1)))
	case moe.QuickGELU:
		return op("Mul", x, op("Sigmoid", op("Mul", x, b.float(1.702))))
	case moe.SiLU:
		return op("Mul", x, op("Sigmoid", x))
	case moe.Mish:
		return op("Mul", x, op("Tanh", op("Softplus", x)))
	case moe.HardSwish:
		gate := b.op("HardSigmoid", []string{x}, onnx.FloatAttribute("alpha", 1.0/6), onnx.FloatAttribute("beta", 0.5))
		return op("Mul", x, gate)
	case moe.Sigmoid:
		return op("Sigmoid", x)
	case moe.Tanh:
		return op("Tanh", x)
	}
	return x // identity
}

// functions gives FMoE nodes their bodies. A model whose nodes are all of one
// variant has one function ai.fmoe::FMoE; further variants are overloads of
// it.
type functions struct {
	model *onnx.Model
}

// give makes the function of its variant the body of an FMoE node. It fails
// where the node's gate has none; the node stands for itself then.
func (f functions) give(n *onnx.Node, c moe.Config, t onnx.DataType, stored storage, opset int64) error {
	v, err := newVariant(n, c, t, stored, opset)
	if err != nil {
		n.Overload = c.Gate // lest it calls the function of others
		f.model.IRVersion = max(f.model.IRVersion, 10)
		return err
	}
	n.Overload = f.bodyOf(v)
	return nil
}

// bodyOf returns the overload under which the model holds the body of a
// variant, adding it where it is new.
func (f functions) bodyOf(v variant) (overload string) {
	taken := map[string]bool{}
	for _, fn := range f.model.Functions {
		if fn.Domain == moe.Domain && fn.Name == moe.OpType {
			if fn.DocString == v.String() && len(fn.Inputs) == len(formalInputs) {
				return fn.Overload
			}
			taken[fn.Overload] = true
		}
	}
	if len(taken) > 0 {
		overload = strings.ReplaceAll(v.String(), " ", "_")
		f.model.IRVersion = max(f.model.IRVersion, 10) // overloads
	}
	f.model.Functions = append(f.model.Functions, v.function(overload))
	f.model.IRVersion = max(f.model.IRVersion, 8) // functions
	return overload
}
