package fmoefy

import (
	"math"
	"slices"
	"strings"

	"github.com/fmoe-go/fmoe/internal/formula"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

// activationForm is a parsed formula of exporters without its constant factor. In a gated
// block the activation of one projection is multiplied by another projection,
// u.
type activationForm struct {
	activation moe.Activation
	gated      bool
	formula    *expression
	factor     float64
}

var activationForms = func() []activationForm {
	var forms []activationForm
	add := func(a moe.Activation, gated bool, text string) {
		e, factor := formula.Parse[operand](text).Unscaled()
		forms = append(forms, activationForm{a, gated, e, factor})
	}
	for _, f := range formula.Activations {
		add(f.Activation, false, f.Formula)
	}
	for _, f := range formula.Activations {
		add(f.Activation, true, "u * ("+f.Formula+")")
	}
	return forms
}()

// operatorFormulas are operators that compute an activation or more. x and u
// are the inputs of the node, alpha its attribute; what they add as a bias or
// split is said by operatorFormula's caller.
var operatorFormulas = []struct {
	domain, opType string
	formula        string
	alpha          float32 // the default of the attribute alpha
}{
	{"", "Swish", "x * sigmoid(alpha * x)", 1},
	{"", "SwiGLU", "x * sigmoid(alpha * x) * u", 1},
	{contrib, "QuickGelu", "x * sigmoid(alpha * x)", 1.702},
	{contrib, "Gelu", "gelu(x)", 0},
	{contrib, "FastGelu", "gelu_tanh(x)", 0},
	{contrib, "BiasGelu", "gelu(x)", 0},
	{contrib, "BiasSplitGelu", "x * gelu(u)", 0},
	{contrib, "GemmFastGelu", "gelu_tanh(x)", 0},
}

// operatorFormula returns the formula of a node that computes an activation
// by itself, with the value of alpha put in.
func operatorFormula(n *onnx.Node) (*expression, bool) {
	if n.OpType == "FusedGemm" && n.Domain == contrib {
		return formula.Call(strings.ToLower(n.String("activation", "")), &expression{Kind: formula.Variable, Name: "x"}), true
	}
	for _, o := range operatorFormulas {
		if o.opType == n.OpType && o.domain == onnx.CanonicalDomain(n.Domain) {
			alpha := formula.Number[operand](float64(n.Float("alpha", o.alpha)))
			return formula.Parse[operand](o.formula).Substitute(map[string]*expression{
				"alpha": alpha, "x": {Kind: formula.Variable, Name: "x"}, "u": {Kind: formula.Variable, Name: "u"}}), true
		}
	}
	return nil, false
}

// hasActivation reports whether a product applies an activation itself.
func hasActivation(n *onnx.Node) bool {
	return isProduct(n) && slices.Contains([]string{"FusedGemm", "GemmFastGelu"}, n.OpType)
}

// instantiate puts a node's inputs into its formula.
func (r *reader) instantiate(n *onnx.Node, template *expression, arg func(int) *expression) *expression {
	of := func(o operand) *expression { return &expression{ID: o} }
	variables := map[string]*expression{}
	switch {
	case hasActivation(n):
		variables["x"] = of(operand{value: n.Output(0), fused: true})
	case n.OpType == "BiasSplitGelu":
		variables["x"] = of(operand{value: n.Input(0), bias: n.Input(1), half: 1})
		variables["u"] = of(operand{value: n.Input(0), bias: n.Input(1), half: 2})
	case (n.OpType == "FastGelu" || n.OpType == "BiasGelu") && n.Input(1) != "":
		variables["x"] = of(operand{value: n.Input(0), bias: n.Input(1)})
	default:
		variables["x"] = arg(0)
		if n.Input(1) != "" {
			variables["u"] = arg(1)
		}
	}
	return template.Substitute(variables)
}

// functionName is what a unary operator is called in formulas.
func functionName(n *onnx.Node) string {
	if n.OpType == "Gelu" && n.String("approximate", "none") == "tanh" {
		return "gelu_tanh"
	}
	return strings.ToLower(n.OpType)
}

// activated is an expression recognised as a constant times an activation.
type activated struct {
	activation moe.Activation
	x          operand // what the activation is applied to
	gated      bool
	u          operand // in a gated block, what it is multiplied by
	scale      float64 // the constant; optimisers move factors into products
}

// readActivation reads an expression as an activation. Constants may differ from
// the formulas' by the relative tolerance.
func readActivation(e *expression, tolerance float64) (activated, bool) {
	e, factor := e.Unscaled()
	for _, form := range activationForms {
		bound := map[string]*expression{}
		if !e.Match(form.formula, bound, tolerance) || bound["x"].Kind != formula.Leaf {
			continue
		}
		a := activated{activation: form.activation, x: bound["x"].ID, gated: form.gated, scale: factor / form.factor}
		if form.gated {
			if bound["u"].Kind != formula.Leaf {
				continue
			}
			a.u = bound["u"].ID
		}
		if math.Abs(a.scale-1) <= tolerance {
			a.scale = 1
		}
		return a, a.scale != 0 && !math.IsInf(a.scale, 0) && !math.IsNaN(a.scale)
	}
	return activated{}, false
}
