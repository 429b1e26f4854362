package fmoefy

import (
	"math"

	"github.com/fmoe-go/fmoe/onnx"
)

// expression is an elementwise computation in a normal form that does not
// depend on how an exporter arranged it: products and sums are flat, with
// their constants collected, and a division by a constant is a product.
type expression struct {
	kind    kind
	name    string        // of a variable (in a formula) or a function
	factor  float64       // a product's constant factor, a sum's constant term, a constant's value
	args    []*expression // factors, terms, or a function's argument
	operand operand       // of a leaf
	value   string        // the graph value that it computes
}

type kind int

const (
	leaf     kind = iota // a value that is not looked into
	variable             // stands for any expression, in a formula
	constantNumber
	sum
	productOf
	function
)

// unary lists the operators that apply a function of one number, as
// quantisation does too; it is called as functionName says.
var unary = map[string]bool{
	"Abs": true, "Celu": true, "Clip": true, "DequantizeLinear": true, "Elu": true, "Erf": true, "Exp": true, "Gelu": true, "HardSigmoid": true,
	"HardSwish": true, "LeakyRelu": true, "Log": true, "Mish": true, "Neg": true, "QuantizeLinear": true,
	"Reciprocal": true, "Relu": true, "Selu": true, "Sigmoid": true, "Softplus": true, "Softsign": true,
	"Sqrt": true, "Swish": true, "Tanh": true, "ThresholdedRelu": true,
}

// trainingDropout is what a Dropout that drops is called.
const trainingDropout = "dropout in training mode"

// maxTerms bounds a flat product or sum; no activation comes near it.
const maxTerms = 8

// reader builds the expressions of one scope.
type reader struct {
	scope *scope
	done  map[string]*expression
}

// read returns what a value computes, back to values that are not elementwise
// functions of others.
func (r *reader) read(value string) *expression { return r.readWithin(value, 24) }

func (r *reader) readWithin(value string, depth int) *expression {
	value = r.scope.beyond(value)
	if e := r.done[value]; e != nil {
		return e
	}
	e := &expression{kind: leaf, operand: operand{value: value}}
	if x, ok := r.scope.scalar(value); ok {
		e = &expression{kind: constantNumber, factor: x}
	} else if n := r.scope.producer(value); n != nil && depth > 0 && n.Output(0) == value {
		if computed := r.node(n, depth-1); computed != nil {
			e = computed
		}
	}
	named := *e // e may be an argument that n passes through
	named.value = value
	r.done[value] = &named
	return &named
}

// node returns the expression of an elementwise node, or nil for any other.
func (r *reader) node(n *onnx.Node, depth int) *expression {
	arg := func(i int) *expression { return r.readWithin(n.Input(i), depth) }
	if template, ok := operatorFormula(n); ok {
		return r.instantiate(n, template, arg)
	}
	if onnx.CanonicalDomain(n.Domain) != "" {
		return nil
	}
	switch n.OpType {
	case "Add", "Sub", "Mul", "Div":
		// A constant vector is a bias or a norm's weight: no activation has one.
		for _, in := range n.Inputs {
			if _, err := r.scope.constant(in); err == nil {
				if _, isScalar := r.scope.scalar(in); !isScalar {
					return nil
				}
			}
		}
	}
	switch n.OpType {
	case "Add":
		return sumOf(arg(0), arg(1))
	case "Sub":
		return sumOf(arg(0), multiply(number64(-1), arg(1)))
	case "Mul":
		return multiply(arg(0), arg(1))
	case "Div":
		return multiply(arg(0), reciprocal(arg(1)))
	case "Neg":
		return multiply(number64(-1), arg(0))
	case "Reciprocal":
		return reciprocal(arg(0))
	case "Dropout": // in training, or it would have been passed through
		return call(trainingDropout, arg(0))
	case "Pow":
		exponent := arg(1)
		if exponent.kind != constantNumber || exponent.factor != 2 && exponent.factor != 3 {
			return nil
		}
		base := arg(0)
		if exponent.factor == 2 {
			return multiply(base, base)
		}
		return multiply(base, base, base)
	}
	if unary[n.OpType] {
		return call(functionName(n), arg(0))
	}
	return nil
}

func number64(x float64) *expression { return &expression{kind: constantNumber, factor: x} }

func call(name string, arg *expression) *expression {
	return &expression{kind: function, name: name, args: []*expression{arg}}
}

// multiply returns a flat product, or nil when it has too many factors.
func multiply(factors ...*expression) *expression {
	p := &expression{kind: productOf, factor: 1}
	for _, f := range factors {
		switch {
		case f == nil:
			return nil
		case f.kind == constantNumber:
			p.factor *= f.factor
		case f.kind == productOf:
			p.factor *= f.factor
			p.args = append(p.args, f.args...)
		default:
			p.args = append(p.args, f)
		}
	}
	return p.simplify(1)
}

// sumOf returns a flat sum, or nil when it has too many terms.
func sumOf(terms ...*expression) *expression {
	s := &expression{kind: sum}
	for _, t := range terms {
		switch {
		case t == nil:
			return nil
		case t.kind == constantNumber:
			s.factor += t.factor
		case t.kind == sum:
			s.factor += t.factor
			s.args = append(s.args, t.args...)
		default:
			s.args = append(s.args, t)
		}
	}
	return s.simplify(0)
}

// simplify reduces a product or sum of one thing to that thing.
func (e *expression) simplify(neutral float64) *expression {
	switch {
	case len(e.args) > maxTerms:
		return nil
	case len(e.args) == 0:
		return number64(e.factor)
	case len(e.args) == 1 && e.factor == neutral:
		return e.args[0]
	}
	return e
}

// unscaled splits a constant factor off.
func (e *expression) unscaled() (*expression, float64) {
	if e.kind != productOf {
		return e, 1
	}
	rest := *e
	rest.factor = 1
	return rest.simplify(1), e.factor
}

func reciprocal(e *expression) *expression {
	if e == nil {
		return nil
	}
	if e.kind == constantNumber {
		return number64(1 / e.factor)
	}
	return call("reciprocal", e)
}

// walk calls visit for e and everything in it.
func (e *expression) walk(visit func(*expression)) {
	visit(e)
	for _, a := range e.args {
		a.walk(visit)
	}
}

// match reports whether e is an instance of formula, the order of factors and
// terms being free, and completes bound, which maps variables to expressions.
// Constants may differ by the relative tolerance.
func (e *expression) match(formula *expression, bound map[string]*expression, tolerance float64) bool {
	if formula.kind == variable {
		if b := bound[formula.name]; b != nil {
			return b.value == e.value && b.operand == e.operand
		}
		if e.kind == constantNumber {
			return false
		}
		bound[formula.name] = e
		return true
	}
	if e.kind != formula.kind || e.name != formula.name || len(e.args) != len(formula.args) ||
		math.Abs(e.factor-formula.factor) > tolerance*math.Abs(formula.factor) {
		return false
	}
	return matchEach(e.args, formula.args, bound, tolerance)
}

// matchEach pairs args with formulas in any order.
func matchEach(args, formulas []*expression, bound map[string]*expression, tolerance float64) bool {
	if len(formulas) == 0 {
		return true
	}
	for i, a := range args {
		trial := make(map[string]*expression, len(bound)+1)
		for name, e := range bound {
			trial[name] = e
		}
		if !a.match(formulas[0], trial, tolerance) {
			continue
		}
		rest := append(append([]*expression{}, args[:i]...), args[i+1:]...)
		if matchEach(rest, formulas[1:], trial, tolerance) {
			for name, e := range trial {
				bound[name] = e
			}
			return true
		}
	}
	return false
}
