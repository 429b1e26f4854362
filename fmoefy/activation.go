package fmoefy

import (
	"math"
	"slices"
	"strings"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

// formulas says how exporters write each activation, as a function of x. What
// is only a matter of order, of division against multiplication, or of
// intermediate powers, is one formula.
var formulas = []struct {
	activation moe.Activation
	formula    string
}{
	{moe.ReLU, "relu(x)"},
	{moe.ReLU2, "relu(x) * relu(x)"},
	{moe.GELU, "gelu(x)"},
	{moe.GELU, "0.5 * x * (1 + erf(x / 1.4142135623730951))"},
	{moe.GELUTanh, "gelu_tanh(x)"},
	{moe.GELUTanh, "0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x*x*x)))"},
	{moe.GELUTanh, "0.5 * x * (1 + tanh(0.7978845608028654 * x * (1 + 0.044715 * x*x)))"},
	{moe.QuickGELU, "x * sigmoid(1.702 * x)"},
	{moe.SiLU, "x * sigmoid(x)"},
	{moe.SiLU, "x / (1 + exp(-x))"},
	{moe.Mish, "mish(x)"},
	{moe.Mish, "x * tanh(softplus(x))"},
	{moe.HardSwish, "hardswish(x)"},
	{moe.Sigmoid, "sigmoid(x)"},
	{moe.Tanh, "tanh(x)"},
}

// activationForm is a parsed formula without its constant factor. In a gated
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
	add := func(a moe.Activation, gated bool, formula string) {
		e, factor := parseFormula(formula).unscaled()
		forms = append(forms, activationForm{a, gated, e, factor})
	}
	for _, f := range formulas {
		add(f.activation, false, f.formula)
	}
	for _, f := range formulas {
		add(f.activation, true, "u * ("+f.formula+")")
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
		return call(strings.ToLower(n.String("activation", "")), &expression{kind: variable, name: "x"}), true
	}
	for _, o := range operatorFormulas {
		if o.opType == n.OpType && o.domain == onnx.CanonicalDomain(n.Domain) {
			alpha := number64(float64(n.Float("alpha", o.alpha)))
			return parseFormula(o.formula).substitute(map[string]*expression{
				"alpha": alpha, "x": {kind: variable, name: "x"}, "u": {kind: variable, name: "u"}}), true
		}
	}
	return nil, false
}

// hasActivation reports whether a product applies an activation itself.
func hasActivation(n *onnx.Node) bool {
	return isProduct(n) && slices.Contains([]string{"FusedGemm", "GemmFastGelu"}, n.OpType)
}

// instantiate puts a node's inputs into its formula.
func (r *reader) instantiate(n *onnx.Node, formula *expression, arg func(int) *expression) *expression {
	of := func(o operand) *expression { return &expression{kind: leaf, operand: o} }
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
	return formula.substitute(variables)
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

// activation reads an expression as an activation. Constants may differ from
// the formulas' by the relative tolerance.
func (e *expression) activation(tolerance float64) (activated, bool) {
	e, factor := e.unscaled()
	for _, form := range activationForms {
		bound := map[string]*expression{}
		if !e.match(form.formula, bound, tolerance) || bound["x"].kind != leaf {
			continue
		}
		a := activated{activation: form.activation, x: bound["x"].operand, gated: form.gated, scale: factor / form.factor}
		if form.gated {
			if bound["u"].kind != leaf {
				continue
			}
			a.u = bound["u"].operand
		}
		if math.Abs(a.scale-1) <= tolerance {
			a.scale = 1
		}
		return a, a.scale != 0 && !math.IsInf(a.scale, 0) && !math.IsNaN(a.scale)
	}
	return activated{}, false
}
