package train

import (
	"math"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// muon is Muon (Jordan et al. 2024), which moves matrices along their
// orthogonalised momentum; a tensor of more dimensions is a stack of matrices.
// The rate is multiplied by 0.2·√max(rows, columns), which gives updates the
// root mean square of AdamW's, so that both may have one rate (arXiv
// 2502.16982).
type muon struct {
	Optimizer
	tall bool // more rows than columns
}

func (o muon) whole() bool { return true }

func (o muon) states(shape []int) []state { return []state{{"momentum", shape}} }

func (o muon) numbers(h hyper) map[string]float64 {
	return map[string]float64{
		"rest": 1 - o.Momentum, "mu": o.Momentum, "keep": 1 - h.rate*h.weightDecay,
		"rate": h.rate * 0.2 * math.Sqrt(float64(max(h.rows, h.columns))),
	}
}

// The coefficients of Muon's Newton-Schulz iteration, X ← aX + (bA + cA²)X with
// A = XXᵀ, and how often it is done.
const (
	muonA, muonB, muonC = 3.4445, -4.7750, 2.0315
	muonIterations      = 5
)

func (o muon) update(g *updateGraph) (string, []string) {
	gradient, w := g.op("Mul", g.gradient, g.number("scale")), g.op("Mul", g.weight, g.number("keep"))
	momentum := g.lerp(g.states[0], gradient, g.number("rest"))
	x := momentum
	if o.Nesterov {
		x = g.lerp(gradient, momentum, g.number("mu"))
	}
	return g.op("Sub", w, g.op("Mul", o.orthogonal(g, x), g.number("rate"))), []string{momentum}
}

// orthogonal returns nearly UVᵀ of matrices with the singular value
// decompositions USVᵀ.
func (o muon) orthogonal(g *updateGraph, x string) string {
	product := func(a, b, transposed string) string {
		n := &onnx.Node{Domain: "com.microsoft", OpType: "FusedMatMul"}
		if transposed != "" {
			n.Attributes = []*onnx.Attribute{onnx.IntAttribute(transposed, 1)}
		}
		return g.add(n, 1, a, b)[0]
	}
	scaled := func(v string, by float64) string { return g.op("Mul", v, g.builder.number(g.t, by)) }
	matrix := g.constant(tensor.FromSlice([]int64{-2, -1}, 2))
	norm := g.op("Sqrt", g.op("ReduceSum", g.op("Mul", x, x), matrix))
	x = g.op("Div", x, g.op("Max", norm, g.builder.number(g.t, 1e-7)))
	for range muonIterations {
		// The smaller one of XXᵀ and XᵀX gives the same.
		var a, bx string
		if o.tall {
			a = product(x, x, "transA")
		} else {
			a = product(x, x, "transB")
		}
		b := g.op("Add", scaled(a, muonB), scaled(product(a, a, ""), muonC))
		if o.tall {
			bx = product(x, b, "")
		} else {
			bx = product(b, x, "")
		}
		x = g.op("Add", scaled(x, muonA), bx)
	}
	return x
}
