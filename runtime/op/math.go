package op

import "math"

// Functions of one number, applied to each element. Versions after an
// operator's first only add element types; the only attribute of the versions
// before 6, consumed_inputs, is not supported.
func init() {
	for _, f := range []struct {
		name  string
		since []int
		// derivative returns that of the function at its input; nil where it
		// is 0, or where there is none.
		derivative func(b *Backward) Value
	}{
		{"Abs", []int{6, 13}, func(b *Backward) Value { return b.Op("Sign", b.Input(0)) }},
		{"Neg", []int{6, 13}, func(b *Backward) Value { return b.Scalar(-1, b.Input(0)) }},
		{"Sign", []int{9, 13}, nil},
		{"Floor", []int{6, 13}, nil},
		{"Ceil", []int{6, 13}, nil},
		{"Round", []int{11, 22}, nil}, // to nearest, ties to even
		{"Sqrt", []int{6, 13}, func(b *Backward) Value { return b.quotient(0.5, b.Output(0)) }},
		{"Reciprocal", []int{6, 13}, func(b *Backward) Value { return b.Op("Neg", b.square(b.Output(0))) }},
		{"Exp", []int{6, 13}, func(b *Backward) Value { return b.Output(0) }},
		{"Log", []int{6, 13}, func(b *Backward) Value { return b.Op("Reciprocal", b.Input(0)) }},
		{"Erf", []int{9, 13}, func(b *Backward) Value {
			return b.scaled(b.Op("Exp", b.Op("Neg", b.square(b.Input(0)))), 2/math.SqrtPi)
		}},
		{"Sin", []int{7, 22}, func(b *Backward) Value { return b.Op("Cos", b.Input(0)) }},
		{"Cos", []int{7, 22}, func(b *Backward) Value { return b.Op("Neg", b.Op("Sin", b.Input(0))) }},
		{"Tan", []int{7, 22}, func(b *Backward) Value { return b.plus(b.square(b.Output(0)), 1) }},
		{"Asin", []int{7, 22}, func(b *Backward) Value { return b.quotient(1, b.Op("Sqrt", b.minus(1, b.square(b.Input(0))))) }},
		{"Acos", []int{7, 22}, func(b *Backward) Value { return b.quotient(-1, b.Op("Sqrt", b.minus(1, b.square(b.Input(0))))) }},
		{"Atan", []int{7, 22}, func(b *Backward) Value { return b.Op("Reciprocal", b.plus(b.square(b.Input(0)), 1)) }},
		{"Sinh", []int{9, 22}, func(b *Backward) Value { return b.Op("Cosh", b.Input(0)) }},
		{"Cosh", []int{9, 22}, func(b *Backward) Value { return b.Op("Sinh", b.Input(0)) }},
		{"Tanh", []int{6, 13}, func(b *Backward) Value { return b.minus(1, b.square(b.Output(0))) }},
		{"Asinh", []int{9, 22}, func(b *Backward) Value { return b.quotient(1, b.Op("Sqrt", b.plus(b.square(b.Input(0)), 1))) }},
		{"Acosh", []int{9, 22}, func(b *Backward) Value { return b.quotient(1, b.Op("Sqrt", b.plus(b.square(b.Input(0)), -1))) }},
		{"Atanh", []int{9, 22}, func(b *Backward) Value { return b.Op("Reciprocal", b.minus(1, b.square(b.Input(0)))) }},
		{"Sigmoid", []int{6, 13}, func(b *Backward) Value { return b.Op("Mul", b.Output(0), b.minus(1, b.Output(0))) }},
	} {
		o := Operator{Name: f.name, Since: f.since, Inputs: Exactly(1), Outputs: Exactly(1),
			Elementwise: true, Infer: SameAsInput, Gradient: NoGradient}
		if f.derivative != nil {
			o.Gradient = func(b *Backward) { b.Set(0, b.Op("Mul", b.Gradient(0), f.derivative(b))) }
		}
		Register(o)
	}
	Register(Operator{Name: "BitwiseNot", Since: []int{18}, Inputs: Exactly(1), Outputs: Exactly(1), Elementwise: true, Infer: SameAsInput})
}

// scaled adds v·factor, plus v + term, minus term − v, quotient x/v, and square
// v².
func (b *Backward) scaled(v Value, factor float64) Value { return b.Op("Mul", v, b.Scalar(factor, v)) }
func (b *Backward) plus(v Value, term float64) Value     { return b.Op("Add", v, b.Scalar(term, v)) }
func (b *Backward) minus(term float64, v Value) Value    { return b.Op("Sub", b.Scalar(term, v), v) }
func (b *Backward) quotient(x float64, v Value) Value    { return b.Op("Div", b.Scalar(x, v), v) }
func (b *Backward) square(v Value) Value                 { return b.Op("Mul", v, v) }

// where adds v where a condition holds, and a number elsewhere.
func (b *Backward) where(condition, v Value, otherwise float64) Value {
	return b.Op("Where", condition, v, b.Scalar(otherwise, v))
}

// compare adds the elementwise comparison of v with a number.
func (b *Backward) compare(opType string, v Value, with float64) Value {
	return b.Op(opType, v, b.Scalar(with, v))
}
