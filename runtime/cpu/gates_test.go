package cpu

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// gateCase is a case of runtime/moe/testdata/gates.py.
type gateCase struct {
	Name                        string
	Tokens, Experts             int
	Training                    bool
	Step, First                 int64
	Sequence                    int
	Attributes                  map[string]any
	Logits, Noise, Bias, Scores []float64
	Mask                        []bool
	Indices                     []int64
	Loss                        float64
	ZLoss                       float64 `json:"z_loss"`
}

// TestGates: FMoE decides as the references of all gates do, to 1e-12 with
// tokens in float64, to 1e-6 in float32.
func TestGates(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("..", "moe", "testdata", "gates", "*.json"))
	if len(files) == 0 || err != nil {
		t.Fatal(files, err)
	}
	for _, file := range files {
		if filepath.Base(file) == "random.json" {
			continue // numbers, not cases
		}
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var cases []gateCase
		if err := json.Unmarshal(data, &cases); err != nil {
			t.Fatal(err)
		}
		for _, c := range cases {
			if c.Training && c.First != 0 || c.Sequence > 0 && c.Tokens%c.Sequence != 0 {
				continue // not a batch of one worker, or of whole sequences
			}
			t.Run(c.Name, func(t *testing.T) {
				testGate[float64](t, &c, 1e-12)
				testGate[float32](t, &c, 1e-6)
			})
		}
	}
}

// testGate runs FMoE on tokens that are their logits, followed by what the
// noisy gate's second projection gives: routers pick their halves.
func testGate[T simd.Float](t *testing.T, c *gateCase, tolerance float64) {
	d := 2 * c.Experts
	tokens := make([]T, c.Tokens*d)
	gate, noise := make([]T, d*c.Experts), make([]T, d*c.Experts)
	for n := range c.Tokens {
		for e := range c.Experts {
			tokens[n*d+e] = T(float32(c.Logits[n*c.Experts+e]))
			if c.Noise != nil {
				tokens[n*d+c.Experts+e] = T(float32(c.Noise[n*c.Experts+e]))
			}
		}
	}
	for e := range c.Experts {
		gate[e*c.Experts+e], noise[(c.Experts+e)*c.Experts+e] = 1, 1
	}
	shaped := func(x []T, shape ...int) *tensor.Tensor {
		s := tensor.FromSlice(x)
		s.Shape = shape
		return s
	}
	in := make([]*tensor.Tensor, moe.InputCount)
	in[moe.InputX] = shaped(tokens, c.Tokens, d)
	if c.Sequence > 0 {
		in[moe.InputX].Shape = []int{c.Tokens / c.Sequence, c.Sequence, d}
	}
	in[moe.InputGateWeight] = shaped(gate, d, c.Experts)
	in[moe.InputFC1Weight] = shaped(make([]T, c.Experts*d), c.Experts, 1, d)
	in[moe.InputFC2Weight] = shaped(make([]T, c.Experts*d), c.Experts, d, 1)
	if c.Noise != nil {
		in[moe.InputNoiseWeight] = shaped(noise, d, c.Experts)
	}
	if c.Bias != nil {
		bias := make([]T, c.Experts)
		for e, x := range c.Bias {
			bias[e] = T(float32(x))
		}
		in[moe.InputSelectionBias] = shaped(bias, c.Experts)
	}
	if c.Mask != nil {
		in[moe.InputMask] = tensor.FromSlice(c.Mask, in[moe.InputX].Shape[:len(in[moe.InputX].Shape)-1]...)
	}
	if c.Training {
		in[moe.InputStep] = tensor.FromSlice([]int64{c.Step})
		in[moe.InputStep].Shape = nil
	}
	out := compute(t, 2, true, gateNode(t, c), 1, in...)
	wantInts(t, "experts", out[moe.OutputExpertIndices], c.Indices)
	count := make([]int64, c.Experts)
	for _, e := range c.Indices {
		if e >= 0 {
			count[e]++
		}
	}
	wantInts(t, "rows", out[moe.OutputExpertCount], count)
	wantNear(t, "scores", out[moe.OutputExpertScores], c.Scores, tolerance)
	wantNear(t, "balance loss", out[moe.OutputAuxLoss], []float64{c.Loss}, tolerance)
	wantNear(t, "z-loss", out[moe.OutputZLoss], []float64{c.ZLoss}, tolerance)
}

func wantInts(t *testing.T, what string, got *tensor.Tensor, want []int64) {
	t.Helper()
	for i, x := range tensor.Of[int64](got) {
		if x != want[i] {
			t.Fatalf("%s: element %d is %d, want %d", what, i, x, want[i])
		}
	}
}

// gateNode returns a node with the case's attributes and all outputs.
func gateNode(t *testing.T, c *gateCase) *onnx.Node {
	n := &onnx.Node{Domain: moe.Domain, OpType: moe.OpType, Outputs: moe.OutputNames[:moe.OutputHidden]}
	fractional := []string{moe.AttributeCapacityTrain, moe.AttributeCapacityEval, moe.AttributeJitter,
		moe.AttributeFraction, moe.AttributeRoutedScaling}
	for name, value := range c.Attributes {
		switch x := value.(type) {
		case string:
			n.Attributes = append(n.Attributes, onnx.StringAttribute(name, x))
		case float64:
			if slices.Contains(fractional, name) {
				n.Attributes = append(n.Attributes, onnx.FloatAttribute(name, float32(x)))
			} else {
				n.Attributes = append(n.Attributes, onnx.IntAttribute(name, int64(x)))
			}
		}
	}
	return n
}
