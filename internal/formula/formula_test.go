package formula

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
		e := Parse[string](c.expression).Substitute(map[string]*Expression[string]{
			"a": {ID: "a"},
			"b": {ID: "b"},
			"c": {ID: "c"},
		})
		if got := e.Match(Parse[string](c.formula), map[string]*Expression[string]{}, 1e-3); got != c.want {
			t.Errorf("%s as %s: %v, want %v", c.expression, c.formula, got, c.want)
		}
	}
}

// TestTooLong: expressions that no activation reaches are given up, not
// expanded without end.
func TestTooLong(t *testing.T) {
	x := &Expression[string]{ID: "x"}
	e := x
	for range 3 {
		e = Multiply(e, e)
	}
	if e == nil || len(e.Args) != 8 {
		t.Errorf("a product of 8 is %v", e)
	}
	if Multiply(e, x) != nil || SumOf(SumOf(x, x, x, x, x), SumOf(x, x, x, x)) != nil {
		t.Error("a product or sum of 9 is kept")
	}
}
