package train

import (
	"math"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// adafactor is Adafactor (arXiv 1804.04235) without first moments. Of the
// second moments of a matrix it keeps the means of rows and columns alone; a
// tensor of more dimensions is a stack of matrices. The rate is relative to
// the root mean square of the weights, and at most 1/√step.
type adafactor struct {
	Optimizer
	experts bool // each matrix of a stack is updated by itself
}

func (o adafactor) whole() bool { return true }

func (o adafactor) states(shape []int) []state {
	n := len(shape)
	if n < 2 {
		return []state{{"second_moment", shape}}
	}
	rows, columns := append([]int{}, shape...), append([]int{}, shape...)
	rows[n-1], columns[n-2] = 1, 1
	return []state{{"row_moment", rows}, {"column_moment", columns}}
}

func (o adafactor) numbers(h hyper) map[string]float64 {
	step := float64(h.step)
	return map[string]float64{
		"rest": math.Pow(step, o.Beta2Decay), "rate": min(h.rate, 1/math.Sqrt(step)), "keep": 1 - h.rate*h.weightDecay, "clip": o.Clip,
	}
}

// epsilon1 is the least second moment, epsilon2 the least root mean square of
// the weights.
const epsilon2 = 1e-3

func epsilon1(t onnx.DataType) float64 {
	if t == onnx.Float64 {
		return 0x1p-52
	}
	return 0x1p-23
}

func (o adafactor) update(g *updateGraph) (string, []string) {
	gradient, w := g.op("Mul", g.gradient, g.number("scale")), g.op("Mul", g.weight, g.number("keep"))
	squares := g.op("Mul", gradient, gradient)
	least := g.builder.number(g.t, epsilon1(g.t))
	var variance string
	var states []string
	if g.rank < 2 {
		v := g.lerp(g.states[0], squares, g.number("rest"))
		variance, states = v, []string{v}
	} else {
		rows := g.lerp(g.states[0], g.mean(squares, -1), g.number("rest"))
		columns := g.lerp(g.states[1], g.mean(squares, -2), g.number("rest"))
		mean := g.op("Max", g.mean(rows, -2), least)
		variance, states = g.op("Div", g.op("Mul", rows, columns), mean), []string{rows, columns}
	}
	tiny := g.builder.number(g.t, epsilon1(g.t)*epsilon1(g.t))
	update := g.op("Div", gradient, g.op("Sqrt", g.op("Max", variance, tiny)))
	size := g.op("Max", g.rootMeanSquare(g.weight, o.experts), g.builder.number(g.t, epsilon2))
	clip := g.op("Max", g.op("Div", g.rootMeanSquare(update, o.experts), g.number("clip")), g.builder.number(g.t, 1))
	rate := g.op("Div", g.op("Mul", size, g.number("rate")), clip)
	return g.op("Sub", w, g.op("Mul", update, rate)), states
}

// mean returns the mean over an axis, which keeps length 1.
func (g *updateGraph) mean(v string, axis int64) string {
	return g.op("ReduceMean", v, g.constant(tensor.FromSlice([]int64{axis}, 1)))
}

// rootMeanSquare returns that of all elements, of rank 1 and length 1, or that
// of each matrix in a stack of them.
func (g *updateGraph) rootMeanSquare(v string, each bool) string {
	mean := &onnx.Node{OpType: "ReduceMean"}
	in := []string{g.op("Mul", v, v)}
	if each && g.rank > 2 {
		in = append(in, g.constant(tensor.FromSlice([]int64{-2, -1}, 2)))
	} else {
		mean.Attributes = []*onnx.Attribute{onnx.IntAttribute("keepdims", 0)}
	}
	return g.op("Sqrt", g.add(mean, 1, in...)[0])
}
