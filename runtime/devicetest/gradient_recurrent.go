package devicetest

import (
	"fmt"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
)

// recurrentLayer is the size of the recurrent layers that cases have.
const (
	recurrentLength, recurrentBatch, recurrentInput, recurrentHidden = 4, 3, 2, 5
)

// recurrentInputs returns all inputs of a recurrent layer but sequence_lens,
// which is absent.
func recurrentInputs(opType string, directions int, batchFirst bool) []Input {
	const batch, hidden = recurrentBatch, recurrentHidden
	gates := map[string]int{"RNN": 1, "GRU": 3, "LSTM": 4}[opType]
	x, state := Random(recurrentLength, batch, recurrentInput), Random(directions, batch, hidden)
	if batchFirst {
		x, state = Random(batch, recurrentLength, recurrentInput), Random(batch, directions, hidden)
	}
	in := []Input{x, Within(-0.6, 0.6, directions, gates*hidden, recurrentInput), Within(-0.6, 0.6, directions, gates*hidden, hidden),
		Random(directions, 2*gates*hidden), {Absent: true}, state}
	if opType == "LSTM" {
		in = append(in, state, Random(directions, 3*hidden))
	}
	return in
}

func init() {
	type attributes = []*onnx.Attribute
	text := func(name string, list ...string) *onnx.Attribute {
		a := &onnx.Attribute{Name: name, Type: onnx.AttributeStrings}
		for _, s := range list {
			a.Strings = append(a.Strings, []byte(s))
		}
		return a
	}
	floats := func(name string, list ...float32) *onnx.Attribute {
		return &onnx.Attribute{Name: name, Type: onnx.AttributeFloats, Floats: list}
	}
	direction := func(d string) *onnx.Attribute {
		return &onnx.Attribute{Name: "direction", Type: onnx.AttributeString, String: []byte(d)}
	}
	lengths := Fixed([]int32{3, 0, 4}, recurrentBatch)

	layers := []struct {
		opType      string
		outputs     int
		activations []string // how many a direction has
		own         attributes
	}{
		{"RNN", 2, []string{"Tanh"}, nil},
		{"GRU", 2, []string{"Sigmoid", "Tanh"}, attributes{onnx.IntAttribute("linear_before_reset", 1)}},
		{"LSTM", 3, []string{"Sigmoid", "Tanh", "Tanh"}, attributes{onnx.IntAttribute("input_forget", 1)}},
	}
	for _, l := range layers {
		add := func(name string, c GradientCase) {
			c.Name, c.OpType = l.opType+"/"+name, l.opType
			if c.Outputs == 0 {
				c.Outputs = l.outputs
			}
			c.Attributes = append(c.Attributes, onnx.IntAttribute("hidden_size", recurrentHidden))
			GradientCases = append(GradientCases, c)
		}
		for _, own := range []attributes{nil, l.own} {
			for i, d := range []string{"forward", "reverse", "bidirectional"} {
				directions := 1 + i/2
				for layout := range int64(2) {
					for _, limited := range []bool{false, true} {
						in := recurrentInputs(l.opType, directions, layout == 1)
						if limited {
							in[4] = lengths
						}
						add(fmt.Sprintf("%s/layout %d/lengths %t/own %t", d, layout, limited, own != nil),
							GradientCase{Inputs: in, Attributes: append(attributes{direction(d), onnx.IntAttribute("layout", layout)}, own...)})
					}
				}
			}
			if l.own == nil {
				break
			}
		}
		both := attributes{direction("bidirectional")}
		for _, opset := range []int64{7, 14, 22} {
			add(fmt.Sprint("opset ", opset), GradientCase{Opset: opset, Inputs: recurrentInputs(l.opType, 2, false), Attributes: both})
		}
		for missing := 3; missing < len(recurrentInputs(l.opType, 1, false)); missing++ {
			in := recurrentInputs(l.opType, 2, false)
			in[missing] = Input{Absent: true}
			add(fmt.Sprint("without input ", missing), GradientCase{Inputs: in, Attributes: both})
		}
		add("three inputs", GradientCase{Inputs: recurrentInputs(l.opType, 1, false)[:3]})
		add("frozen weights", GradientCase{Inputs: frozen(recurrentInputs(l.opType, 1, false), 1, 2, 3)})
		add("frozen input", GradientCase{Inputs: frozen(recurrentInputs(l.opType, 1, false), 0, 5, 6)})
		for parts := 1; parts < 1<<l.outputs; parts++ {
			var ignored []int
			for i := range l.outputs {
				if parts>>i&1 == 0 {
					ignored = append(ignored, i)
				}
			}
			add(fmt.Sprintf("without outputs %v", ignored), GradientCase{Inputs: recurrentInputs(l.opType, 2, false), Ignore: ignored, Attributes: both})
		}
		add("output 0 alone", GradientCase{Inputs: recurrentInputs(l.opType, 2, false), Outputs: 1, Attributes: both})
		long := recurrentInputs(l.opType, 2, false)
		long[0] = Random(9, recurrentBatch, recurrentInput)
		add("long", GradientCase{Inputs: long, Attributes: both})
		short := recurrentInputs(l.opType, 2, false)
		short[0] = Random(1, recurrentBatch, recurrentInput)
		add("one step", GradientCase{Inputs: short, Attributes: both})

		// Each activation in each place, with numbers of its own, which those
		// behind it must not take.
		for _, a := range []struct {
			name        string
			alpha, beta []float32
		}{
			{"Relu", nil, nil}, {"Tanh", nil, nil}, {"Sigmoid", nil, nil}, {"Affine", []float32{0.7}, []float32{0.2}}, {"LeakyRelu", []float32{0.3}, nil},
			{"ThresholdedRelu", []float32{0.25}, nil}, {"ScaledTanh", []float32{0.8}, []float32{0.6}}, {"HardSigmoid", []float32{0.7}, []float32{0.4}},
			{"Elu", []float32{0.6}, nil}, {"Softsign", nil, nil}, {"Softplus", nil, nil},
		} {
			for place := range l.activations {
				names := slices.Concat(l.activations, l.activations)
				names[place], names[len(l.activations)] = a.name, "ScaledTanh"
				add(fmt.Sprintf("%s as activation %d", a.name, place), GradientCase{Inputs: recurrentInputs(l.opType, 2, false),
					Attributes: append(attributes{text("activations", names...), floats("activation_alpha", append(slices.Clone(a.alpha), 0.9)...),
						floats("activation_beta", append(slices.Clone(a.beta), 1.1)...)}, both...)})
			}
		}
		defaults := slices.Repeat([]string{"HardSigmoid", "LeakyRelu", "Elu"}, 2)[:2*len(l.activations)]
		add("defaults of activations", GradientCase{Inputs: recurrentInputs(l.opType, 2, false), Attributes: append(attributes{text("activations", defaults...)}, both...)})
		for _, own := range []attributes{nil, l.own} {
			add(fmt.Sprintf("clip/own %t", own != nil), GradientCase{Inputs: recurrentInputs(l.opType, 2, false),
				Attributes: append(append(attributes{onnx.FloatAttribute("clip", 0.6)}, both...), own...)})
		}
	}
}

// frozen returns inputs some of which get no gradient.
func frozen(in []Input, which ...int) []Input {
	for _, i := range which {
		if i < len(in) {
			in[i].Frozen = true
		}
	}
	return in
}
