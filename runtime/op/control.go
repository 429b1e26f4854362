package op

// If, Loop and Scan, which the runtime executes itself. What their subgraphs
// give is known only when they run.
func init() {
	versions := []int{1, 11, 13, 16, 19, 21, 23, 24, 25}
	unknown := func(*Inference) error { return nil }
	Register(
		Operator{Name: "If", Since: versions, Inputs: Exactly(1), Outputs: AtLeast(1),
			Attributes: []string{"then_branch", "else_branch"}, Infer: unknown},
		// Both the trip count and the condition of a Loop may be absent.
		Operator{Name: "Loop", Since: versions, Inputs: AtLeast(0), Outputs: AtLeast(1),
			Attributes: []string{"body"}, Infer: unknown},
		// Scan before version 9 had a batch dimension and is not implemented.
		Operator{Name: "Scan", Since: []int{9, 11, 16, 19, 21, 23, 24, 25}, Inputs: AtLeast(1), Outputs: AtLeast(1),
			Attributes: []string{"body", "num_scan_inputs", "scan_input_axes", "scan_input_directions",
				"scan_output_axes", "scan_output_directions"}, Infer: unknown},
	)
}
