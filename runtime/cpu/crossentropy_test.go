package cpu

import (
	"math"
	"slices"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// TestCrossEntropy compares loss and gradient with the formula, for rows
// longer than a buffer.
func TestCrossEntropy(t *testing.T) {
	const rows, classes, smoothing, zLoss = 5, 2500, 0.125, 0.25
	x := random[float32](1, rows, classes)
	labels := tensor.FromSlice([]int64{0, 2499, -100, 7, 1200}, rows)
	tensor.Of[float32](x)[classes+2499] = 9 // the largest of its row
	tensor.Of[float32](x)[classes+3] = 9    // and the one that is found
	tensor.Of[float32](x)[3*classes+7] = 12
	attributes := []*onnx.Attribute{onnx.FloatAttribute("label_smoothing", smoothing), onnx.FloatAttribute("z_loss", zLoss)}

	want, gradient := 0.0, make([]float64, rows*classes)
	for i, label := range tensor.Of[int64](labels) {
		if label == -100 {
			continue
		}
		row, z, sum := floats(x)[i*classes:][:classes], 0.0, 0.0
		for _, v := range row {
			z += math.Exp(v)
			sum += v
		}
		want += (math.Log(z) - (1-smoothing)*row[label] - smoothing*sum/classes + zLoss*math.Pow(math.Log(z), 2)) / 4
		for j, v := range row {
			gradient[i*classes+j] = (math.Exp(v)/z*(1+2*zLoss*math.Log(z)) - smoothing/classes) / 4 * 3
		}
		gradient[i*classes+int(label)] -= (1 - smoothing) / 4 * 3
	}
	var first []*tensor.Tensor
	for _, threads := range []int{1, 2, 4} {
		out := compute(t, threads, false, &onnx.Node{Domain: moe.Domain, OpType: "CrossEntropy", Outputs: []string{"loss", "count", "correct"}, Attributes: attributes}, 1, x, labels)
		wantNear(t, "loss", out[0], []float64{want}, 1e-6)
		if count, correct := tensor.Of[int64](out[1])[0], tensor.Of[int64](out[2])[0]; count != 4 || correct != 1 {
			t.Errorf("%d labels count and %d are correct, want 4 and 1", count, correct)
		}
		out = append(out, compute(t, threads, false, &onnx.Node{Domain: moe.Domain, OpType: "CrossEntropyGradient", Outputs: []string{"dx"}, Attributes: attributes}, 1,
			tensor.Scalar[float32](3), x, labels)...)
		wantNear(t, "gradient", out[3], gradient, 1e-7)
		if first == nil {
			first = out
		}
		wantSameBits(t, threads, out, first)
	}
}

// wantSameBits fails where tensors differ from those computed by one thread.
func wantSameBits(t *testing.T, threads int, got, want []*tensor.Tensor) {
	t.Helper()
	for i, x := range got {
		if x != nil && !slices.Equal(x.Data, want[i].Data) {
			t.Errorf("output %d is another with %d threads", i, threads)
		}
	}
}
