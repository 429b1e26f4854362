package fmoefy

import "testing"

// TestMatch: formulas that are equal up to order and arrangement match, others
// do not.
func TestMatch(t *testing.T) {
	for _, c := range []struct {
		formula, expression string
		want                bool
	}{
		{"x * sigmoid(x)", "sigmoid(a) * a", true},
		{"x * sigmoid(x)", "sigmoid(a) * b", false},
		{"0.5 * x * (1 + erf(x / 1.41421356))", "a * ((erf(a * 0.70710678) + 1) / 2)", true},
		{"0.5 * x * (1 + erf(x / 1.41421356))", "a * ((erf(a * 0.71) + 1) / 2)", false},
		{"0.5 * x * (1 + erf(x / 1.41421356))", "a * ((erf(a * 0.70710678) + 2) / 2)", false},
		{"x + 0.044715 * x*x*x", "a * a * (0.0447150001 * a) + a", true},
		{"x + 0.044715 * x*x*x", "a * a * 0.044715 + a", false},
		{"u * (x * sigmoid(x))", "a * b * sigmoid(a)", true},
		{"u * (x * sigmoid(x))", "a * sigmoid(a) * a", true},
		{"u * (x * sigmoid(x))", "a * b * sigmoid(c)", false},
		{"relu(x) * relu(x)", "relu(a) * relu(b)", false},
		{"x / (1 + exp(-x))", "a / (exp(-1 * a) + 1)", true},
		{"x", "2", false},
	} {
		e := parseFormula(c.expression).substitute(map[string]*expression{
			"a": {kind: leaf, value: "a", operand: operand{value: "a"}},
			"b": {kind: leaf, value: "b", operand: operand{value: "b"}},
			"c": {kind: leaf, value: "c", operand: operand{value: "c"}},
		})
		if got := e.match(parseFormula(c.formula), map[string]*expression{}, 1e-3); got != c.want {
			t.Errorf("%s as %s: %v, want %v", c.expression, c.formula, got, c.want)
		}
	}
}

// TestTooLong: expressions that no activation reaches are given up, not
// expanded without end.
func TestTooLong(t *testing.T) {
	x := &expression{kind: leaf}
	e := x
	for range 3 {
		e = multiply(e, e)
	}
	if e == nil || len(e.args) != 8 {
		t.Errorf("a product of 8 is %v", e)
	}
	if multiply(e, x) != nil || sumOf(sumOf(x, x, x, x, x), sumOf(x, x, x, x)) != nil {
		t.Error("a product or sum of 9 is kept")
	}
}
