package cpu

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// recurrentRun computes a recurrent layer, and the gradients of its inputs from
// those of its outputs. An input that is nil is absent.
func recurrentRun(t *testing.T, threads int, kind string, attributes []*onnx.Attribute, in, by []*tensor.Tensor) (outputs, gradients []*tensor.Tensor) {
	t.Helper()
	forward := &onnx.Node{OpType: kind, Attributes: attributes}
	for i := range by {
		forward.Outputs = append(forward.Outputs, fmt.Sprint("y", i))
	}
	outputs = compute(t, threads, false, forward, 22, in...)
	backward := &onnx.Node{Domain: moe.Domain, OpType: kind + "Gradient", Attributes: attributes}
	all := make([]*tensor.Tensor, op.RecurrentGradientInput, op.RecurrentGradientInput+len(by))
	for i, x := range in {
		name := ""
		if all[i] = x; x != nil && x.Type.IsFloat() {
			name = fmt.Sprint("dx", i)
		}
		backward.Outputs = append(backward.Outputs, name)
	}
	return outputs, compute(t, threads, false, backward, 1, append(all, by...)...)
}

func recurrentAttributes(direction string, more ...*onnx.Attribute) []*onnx.Attribute {
	return append(more, &onnx.Attribute{Name: "direction", Type: onnx.AttributeString, String: []byte(direction)})
}

// TestRecurrentPyTorch compares outputs and gradients with PyTorch's in
// float64.
func TestRecurrentPyTorch(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("testdata", "recurrentgradient.json"))
	if err != nil {
		t.Fatal(err)
	}
	type numbers struct {
		Shape []int
		Data  []float64
	}
	var cases []struct {
		Kind                           string
		Bidirectional                  bool
		Lengths                        []int32
		Inputs, Outputs, By, Gradients []*numbers
	}
	if err := json.Unmarshal(data, &cases); err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		for kind, tolerance := range map[onnx.DataType]float64{onnx.Float64: 1e-12, onnx.Float32: 1e-5} {
			t.Run(fmt.Sprintf("%s/bidirectional %t/%s", c.Kind, c.Bidirectional, kind), func(t *testing.T) {
				tensors := func(list []*numbers) []*tensor.Tensor {
					made := make([]*tensor.Tensor, len(list))
					for i, n := range list {
						if n != nil {
							made[i] = tensor.New(kind, n.Shape...)
							tensor.ConvertFloat(made[i], tensor.FromSlice(n.Data, n.Shape...))
						}
					}
					return made
				}
				in := tensors(c.Inputs)
				if c.Lengths != nil {
					in[4] = tensor.FromSlice(c.Lengths, len(c.Lengths))
				}
				attributes := recurrentAttributes("forward")
				if c.Bidirectional {
					attributes = recurrentAttributes("bidirectional")
				}
				if c.Kind == "GRU" {
					attributes = append(attributes, onnx.IntAttribute("linear_before_reset", 1))
				}
				outputs, gradients := recurrentRun(t, 2, c.Kind, attributes, in, tensors(c.By))
				for i, want := range c.Outputs {
					wantNear(t, fmt.Sprint("output ", i), outputs[i], want.Data, tolerance)
				}
				for i, want := range c.Gradients {
					if want != nil {
						wantNear(t, fmt.Sprint("the gradient by input ", i), gradients[i], want.Data, tolerance)
					}
				}
			})
		}
	}
}

// recurrentLayer is the size of a recurrent layer.
type recurrentLayer struct {
	kind                         string
	length, batch, input, hidden int
	directions                   int
	own                          bool // linear_before_reset or input_forget
}

// tensors returns the layer's inputs, whose sequences have different lengths,
// and gradients of its outputs.
func (l recurrentLayer) tensors() (attributes []*onnx.Attribute, in, by []*tensor.Tensor) {
	gates := map[string]int{"RNN": 1, "GRU": 3, "LSTM": 4}[l.kind]
	scaled := func(factor float32, shape ...int) *tensor.Tensor {
		x := random[float32](uint64(len(shape)), shape...)
		for i := range tensor.Of[float32](x) {
			tensor.Of[float32](x)[i] *= factor
		}
		return x
	}
	lengths := tensor.New(onnx.Int32, l.batch)
	for i := range tensor.Of[int32](lengths) {
		tensor.Of[int32](lengths)[i] = int32(l.length - i%(l.length+1))
	}
	state := scaled(1, l.directions, l.batch, l.hidden)
	in = []*tensor.Tensor{scaled(1, l.length, l.batch, l.input), scaled(0.1, l.directions, gates*l.hidden, l.input),
		scaled(0.1, l.directions, gates*l.hidden, l.hidden), scaled(1, l.directions, 2*gates*l.hidden), lengths, state}
	by = []*tensor.Tensor{scaled(1, l.length, l.directions, l.batch, l.hidden), state}
	if l.kind == "LSTM" {
		in = append(in, state, scaled(1, l.directions, 3*l.hidden))
		by = append(by, state)
	}
	attributes = recurrentAttributes("reverse")
	if l.directions == 2 {
		attributes = recurrentAttributes("bidirectional")
	}
	own := map[string]string{"GRU": "linear_before_reset", "LSTM": "input_forget"}[l.kind]
	if l.own && own != "" {
		attributes = append(attributes, onnx.IntAttribute(own, 1))
	}
	return attributes, in, by
}

// TestRecurrentThreads: outputs and gradients have the same bits for any number
// of threads, and agree with those in float64.
func TestRecurrentThreads(t *testing.T) {
	for _, kind := range []string{"RNN", "GRU", "LSTM"} {
		for _, l := range []recurrentLayer{
			{kind, 5, 1, 33, 70, 2, false},
			{kind, 7, 20, 24, 65, 1, true},
			{kind, 6, 50, 8, 65, 2, false},
		} {
			t.Run(fmt.Sprintf("%+v", l), func(t *testing.T) {
				attributes, in, by := l.tensors()
				outputs, gradients := recurrentRun(t, 1, l.kind, attributes, in, by)
				wideOutputs, wideGradients := recurrentRun(t, 2, l.kind, attributes, asFloats(onnx.Float64, in), asFloats(onnx.Float64, by))
				for i, want := range wideOutputs {
					wantNear(t, fmt.Sprint("output ", i), outputs[i], floats(want), 1e-5)
				}
				for i, want := range wideGradients {
					if want != nil {
						wantNear(t, fmt.Sprint("the gradient by input ", i), gradients[i], floats(want), 1e-5)
					}
				}
				for _, threads := range []int{2, 3, 4} {
					otherOutputs, otherGradients := recurrentRun(t, threads, l.kind, attributes, in, by)
					for i, x := range outputs {
						if !bytes.Equal(x.Data, otherOutputs[i].Data) {
							t.Errorf("%d threads: output %d has other bits than one's", threads, i)
						}
					}
					for i, x := range gradients {
						if x != nil && !bytes.Equal(x.Data, otherGradients[i].Data) {
							t.Errorf("%d threads: the gradient by input %d has other bits than one's", threads, i)
						}
					}
				}
			})
		}
	}
}

// TestRecurrentEmpty: layers without steps, batches, inputs or a state have
// gradients, which are 0 where nothing depends on an input. Without steps the
// state passes through.
func TestRecurrentEmpty(t *testing.T) {
	for _, kind := range []string{"RNN", "GRU", "LSTM"} {
		for _, own := range []bool{false, true} {
			for _, l := range []recurrentLayer{{kind, 0, 3, 2, 70, 2, own}, {kind, 4, 0, 2, 5, 2, own}, {kind, 4, 3, 0, 5, 2, own}, {kind, 4, 3, 2, 0, 2, own}} {
				t.Run(fmt.Sprintf("%+v", l), func(t *testing.T) {
					attributes, in, by := l.tensors()
					outputs, gradients := recurrentRun(t, 2, kind, attributes, in, by)
					if l.length == 0 {
						wantNear(t, "the last state", outputs[1], floats(in[5]), 0)
						wantNear(t, "the gradient by the first state", gradients[5], floats(by[1]), 0)
					}
					if l.length*l.batch == 0 {
						for i := 1; i < 4; i++ {
							wantNear(t, fmt.Sprint("the gradient by input ", i), gradients[i], make([]float64, in[i].Len()), 0)
						}
					}
				})
			}
		}
	}
}

// TestRecurrentLengths: lengths beyond the sequence are refused.
func TestRecurrentLengths(t *testing.T) {
	for _, kind := range []string{"RNN", "GRU", "LSTM"} {
		for _, length := range []int32{-1, 3} {
			_, in, _ := recurrentLayer{kind: kind, length: 2, batch: 1, input: 2, hidden: 3, directions: 1}.tensors()
			tensor.Of[int32](in[4])[0] = length
			d := New(device.Options{Threads: 1})
			defer d.Close()
			n := &onnx.Node{Domain: moe.Domain, OpType: kind + "Gradient", Outputs: []string{"dx"}}
			if run, _ := bindNode(t, d, n, in); run() == nil {
				t.Errorf("%s takes the length %d for sequences of 2", kind, length)
			}
		}
	}
}
