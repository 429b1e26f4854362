package devicetest

func init() {
	GradientCases = append(GradientCases,
		GradientCase{OpType: "Add", Inputs: []Input{Random(2, 3), Random(2, 3)}},
		GradientCase{Name: "Add/broadcast", OpType: "Add", Inputs: []Input{Random(2, 3, 4), Random(3, 1)}},
		GradientCase{Name: "Sub/broadcast", OpType: "Sub", Inputs: []Input{Random(3, 1), Random(2, 3, 4)}},
		GradientCase{Name: "Mul/broadcast", OpType: "Mul", Inputs: []Input{Random(3, 1), Random(2, 1, 4)}},
		GradientCase{OpType: "MatMul", Inputs: []Input{Random(5, 3), Random(3, 4)}},
		GradientCase{Name: "MatMul/tokens", OpType: "MatMul", Inputs: []Input{Random(2, 5, 3), Random(3, 4)}},
		GradientCase{Name: "MatMul/batch", OpType: "MatMul", Inputs: []Input{Random(2, 1, 5, 3), Random(4, 3, 4)}},
	)
}
