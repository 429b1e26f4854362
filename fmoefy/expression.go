package fmoefy

import (
	"github.com/fmoe-go/fmoe/internal/formula"
	"github.com/fmoe-go/fmoe/onnx"
)

// expression is an elementwise computation; its ID tells what of the graph it
// is, or what operand a leaf is.
type expression = formula.Expression[operand]

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
	e := &expression{ID: operand{value: value}}
	if x, ok := r.scope.scalar(value); ok {
		e = formula.Number[operand](x)
	} else if n := r.scope.producer(value); n != nil && depth > 0 && n.Output(0) == value {
		if computed := r.node(n, depth-1); computed != nil {
			e = computed
		}
	}
	named := *e // e may be an argument that n passes through
	if named.Kind != formula.Leaf {
		named.ID = operand{value: value}
	}
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
		return formula.SumOf(arg(0), arg(1))
	case "Sub":
		return formula.SumOf(arg(0), formula.Multiply(formula.Number[operand](-1), arg(1)))
	case "Mul":
		return formula.Multiply(arg(0), arg(1))
	case "Div":
		return formula.Multiply(arg(0), formula.Reciprocal(arg(1)))
	case "Neg":
		return formula.Multiply(formula.Number[operand](-1), arg(0))
	case "Reciprocal":
		return formula.Reciprocal(arg(0))
	case "Dropout": // in training, or it would have been passed through
		return formula.Call(trainingDropout, arg(0))
	case "Pow":
		exponent := arg(1)
		if exponent.Kind != formula.Constant || exponent.Factor != 2 && exponent.Factor != 3 {
			return nil
		}
		base := arg(0)
		if exponent.Factor == 2 {
			return formula.Multiply(base, base)
		}
		return formula.Multiply(base, base, base)
	}
	if unary[n.OpType] {
		return formula.Call(functionName(n), arg(0))
	}
	return nil
}
