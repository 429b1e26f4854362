// Package formula compares elementwise computations of a graph with formulas,
// whatever way an exporter arranged them.
package formula

import "math"

// Expression is an elementwise computation in a normal form that does not
// depend on how it was arranged: products and sums are flat, with their
// constants collected, and a division by a constant is a product.
type Expression[K comparable] struct {
	Kind   Kind
	Name   string  // of a variable (in a formula) or a function
	Factor float64 // a product's constant factor, a sum's constant term, a constant's value
	Args   []*Expression[K]

	// ID tells values of a graph apart: what the expression computes, or what
	// a leaf stands for. The zero value says nothing.
	ID K
}

// Kind is what an expression is.
type Kind int

// The kinds of expressions.
const (
	Leaf     Kind = iota // a value that is not looked into
	Variable             // stands for any expression, in a formula
	Constant
	Sum
	Product
	Function
)

// maxTerms bounds a flat product or sum; no activation comes near it.
const maxTerms = 8

// Number returns a constant.
func Number[K comparable](x float64) *Expression[K] {
	return &Expression[K]{Kind: Constant, Factor: x}
}

// Call returns a function of one argument.
func Call[K comparable](name string, arg *Expression[K]) *Expression[K] {
	if arg == nil {
		return nil
	}
	return &Expression[K]{Kind: Function, Name: name, Args: []*Expression[K]{arg}}
}

// Multiply returns a flat product, or nil when it has too many factors or one
// is nil.
func Multiply[K comparable](factors ...*Expression[K]) *Expression[K] {
	p := &Expression[K]{Kind: Product, Factor: 1}
	for _, f := range factors {
		switch {
		case f == nil:
			return nil
		case f.Kind == Constant:
			p.Factor *= f.Factor
		case f.Kind == Product:
			p.Factor *= f.Factor
			p.Args = append(p.Args, f.Args...)
		default:
			p.Args = append(p.Args, f)
		}
	}
	return p.simplify(1)
}

// SumOf returns a flat sum, or nil when it has too many terms or one is nil.
func SumOf[K comparable](terms ...*Expression[K]) *Expression[K] {
	s := &Expression[K]{Kind: Sum}
	for _, t := range terms {
		switch {
		case t == nil:
			return nil
		case t.Kind == Constant:
			s.Factor += t.Factor
		case t.Kind == Sum:
			s.Factor += t.Factor
			s.Args = append(s.Args, t.Args...)
		default:
			s.Args = append(s.Args, t)
		}
	}
	return s.simplify(0)
}

// simplify reduces a product or sum of one thing to that thing.
func (e *Expression[K]) simplify(neutral float64) *Expression[K] {
	switch {
	case len(e.Args) > maxTerms:
		return nil
	case len(e.Args) == 0:
		return Number[K](e.Factor)
	case len(e.Args) == 1 && e.Factor == neutral:
		return e.Args[0]
	}
	return e
}

// Unscaled splits a constant factor off.
func (e *Expression[K]) Unscaled() (*Expression[K], float64) {
	if e.Kind != Product {
		return e, 1
	}
	rest := *e
	rest.Factor = 1
	return rest.simplify(1), e.Factor
}

// Reciprocal returns 1/e, and nil for nil.
func Reciprocal[K comparable](e *Expression[K]) *Expression[K] {
	if e == nil {
		return nil
	}
	if e.Kind == Constant {
		return Number[K](1 / e.Factor)
	}
	return Call("reciprocal", e)
}

// Walk calls visit for e and everything in it.
func (e *Expression[K]) Walk(visit func(*Expression[K])) {
	visit(e)
	for _, a := range e.Args {
		a.Walk(visit)
	}
}

// Substitute returns the formula with its variables replaced, or nil where
// that cannot be.
func (e *Expression[K]) Substitute(variables map[string]*Expression[K]) *Expression[K] {
	switch e.Kind {
	case Variable:
		return variables[e.Name]
	case Constant, Leaf:
		return e
	}
	args := make([]*Expression[K], 0, len(e.Args)+1)
	for _, a := range e.Args {
		replaced := a.Substitute(variables)
		if replaced == nil {
			return nil
		}
		args = append(args, replaced)
	}
	switch e.Kind {
	case Sum:
		return SumOf(append(args, Number[K](e.Factor))...)
	case Product:
		return Multiply(append(args, Number[K](e.Factor))...)
	}
	return Call(e.Name, args[0])
}

// Match reports whether e is an instance of formula, the order of factors and
// terms being free, and completes bound, which maps variables to expressions.
// Constants may differ by the relative tolerance.
func (e *Expression[K]) Match(formula *Expression[K], bound map[string]*Expression[K], tolerance float64) bool {
	if formula.Kind == Variable {
		if b := bound[formula.Name]; b != nil {
			var nothing K
			return b == e || b.ID == e.ID && e.ID != nothing
		}
		if e.Kind == Constant {
			return false
		}
		bound[formula.Name] = e
		return true
	}
	if e.Kind != formula.Kind || e.Name != formula.Name || len(e.Args) != len(formula.Args) ||
		!(math.Abs(e.Factor-formula.Factor) <= tolerance*math.Abs(formula.Factor)) {
		return false
	}
	return matchEach(e.Args, formula.Args, bound, tolerance)
}

// matchEach pairs args with formulas in any order.
func matchEach[K comparable](args, formulas []*Expression[K], bound map[string]*Expression[K], tolerance float64) bool {
	if len(formulas) == 0 {
		return true
	}
	for i, a := range args {
		trial := make(map[string]*Expression[K], len(bound)+1)
		for name, e := range bound {
			trial[name] = e
		}
		if !a.Match(formulas[0], trial, tolerance) {
			continue
		}
		rest := append(append([]*Expression[K]{}, args[:i]...), args[i+1:]...)
		if matchEach(rest, formulas[1:], trial, tolerance) {
			for name, e := range trial {
				bound[name] = e
			}
			return true
		}
	}
	return false
}
