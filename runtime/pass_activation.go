package runtime

import (
	"strings"

	"github.com/fmoe-go/fmoe/internal/formula"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

// expression is an elementwise computation. Its ID is the number of the value
// that it computes, plus 1.
type expression = formula.Expression[int]

// activationForms are the activations that the pass recognises: those that
// exporters write as products.
var activationForms = func() (forms []activationForm) {
	for _, a := range formula.Activations {
		if activationNode(a.Activation) != nil {
			if e := formula.Parse[int](a.Formula); e.Kind == formula.Product {
				forms = append(forms, activationForm{a.Activation, e})
			}
		}
	}
	return forms
}()

type activationForm struct {
	activation moe.Activation
	formula    *expression
}

// activationNode returns the operator that is an activation, nil where there
// is none.
func activationNode(a moe.Activation) *onnx.Node {
	switch a {
	case moe.GELU:
		return onnxNode("Gelu")
	case moe.GELUTanh:
		return onnxNode("Gelu", onnx.StringAttribute("approximate", "tanh"))
	case moe.SiLU:
		return onnxNode("Swish")
	case moe.QuickGELU:
		return microsoftNode("QuickGelu")
	case moe.Mish:
		return onnxNode("Mish")
	}
	return nil
}

// recogniseActivations replaces GELU in both forms, SiLU and others, written
// as products, sums and functions, by one operator, and ONNX Runtime's names
// for GELU by ONNX's.
func recogniseActivations(r *rewriter) {
	a := activations{r, map[int]*expression{}}
	for n := range r.nodes() {
		switch {
		case !r.float(n.out[0]):
		case n.is("Mul", "Div"):
			a.recognise(n)
		case n.op.Operator.Domain == "com.microsoft" && n.op.OpType == "Gelu":
			r.replace(n, activationNode(moe.GELU), n.in...)
		case n.op.Operator.Domain == "com.microsoft" && n.op.OpType == "FastGelu" && n.input(1) == absent:
			r.replace(n, activationNode(moe.GELUTanh), n.in[0])
		}
	}
}

// activations reads the expressions of a program.
type activations struct {
	*rewriter
	done map[int]*expression
}

func (a *activations) recognise(n *node) {
	e := a.compute(n, 12)
	if e == nil || e.Kind != formula.Product {
		return
	}
	for _, form := range activationForms {
		bound := map[string]*expression{}
		if e.Match(form.formula, bound, a.tolerance(n.out[0])) && bound["x"].ID > 0 {
			a.replace(n, activationNode(form.activation), bound["x"].ID-1)
			return
		}
	}
}

// tolerance is by what a formula's constants may differ, relatively: exporters
// round them to the model's type or write a few digits.
func (r *rewriter) tolerance(v int) float64 {
	switch r.fact(v).Type {
	case onnx.Float16:
		return 1.0 / 1024
	case onnx.BFloat16:
		return 1.0 / 128
	}
	return 1e-5
}

// read returns what a value computes. Only what is used once is looked into:
// an activation's own argument is used several times.
func (a *activations) read(v, depth int) *expression {
	if e := a.done[v]; e != nil {
		return e
	}
	e := &expression{ID: v + 1}
	if x, ok := a.number(v); ok {
		e = formula.Number[int](x)
	} else if n := a.maker(v); n != nil && n.out[0] == v && depth > 0 && a.only(v) {
		if computed := a.compute(n, depth-1); computed != nil {
			e = computed
		}
	}
	named := *e
	named.ID = v + 1
	a.done[v] = &named
	return &named
}

// compute returns what an elementwise node computes, nil for any other.
func (a *activations) compute(n *node, depth int) *expression {
	arg := func(i int) *expression { return a.read(n.in[i], depth) }
	switch {
	case n.is("Mul"):
		return formula.Multiply(arg(0), arg(1))
	case n.is("Div"):
		return formula.Multiply(arg(0), formula.Reciprocal(arg(1)))
	case n.is("Add"):
		return formula.SumOf(arg(0), arg(1))
	case n.is("Sub"):
		return formula.SumOf(arg(0), formula.Multiply(formula.Number[int](-1), arg(1)))
	case n.is("Neg"):
		return formula.Multiply(formula.Number[int](-1), arg(0))
	case n.is("Pow"):
		base := arg(0)
		switch exponent, _ := a.number(n.in[1]); exponent {
		case 2:
			return formula.Multiply(base, base)
		case 3:
			return formula.Multiply(base, base, base)
		}
	case n.is("Erf", "Tanh", "Sigmoid", "Exp", "Softplus", "Reciprocal"):
		return formula.Call(strings.ToLower(n.op.OpType), arg(0))
	}
	return nil
}
