package op

// Functions of one number, applied to each element. Versions after an
// operator's first only add element types; the only attribute of the versions
// before 6, consumed_inputs, is not supported.
func init() {
	for name, since := range map[string][]int{
		"Abs":        {6, 13},
		"Neg":        {6, 13},
		"Sign":       {9, 13},
		"Floor":      {6, 13},
		"Ceil":       {6, 13},
		"Round":      {11, 22}, // to nearest, ties to even
		"Sqrt":       {6, 13},
		"Reciprocal": {6, 13},
		"Exp":        {6, 13},
		"Log":        {6, 13},
		"Erf":        {9, 13},
		"Sin":        {7, 22},
		"Cos":        {7, 22},
		"Tan":        {7, 22},
		"Asin":       {7, 22},
		"Acos":       {7, 22},
		"Atan":       {7, 22},
		"Sinh":       {9, 22},
		"Cosh":       {9, 22},
		"Tanh":       {6, 13},
		"Asinh":      {9, 22},
		"Acosh":      {9, 22},
		"Atanh":      {9, 22},
		"Sigmoid":    {6, 13},
		"BitwiseNot": {18},
	} {
		Register(Operator{Name: name, Since: since, Inputs: Exactly(1), Outputs: Exactly(1),
			Elementwise: true, Infer: SameAsInput})
	}
}
