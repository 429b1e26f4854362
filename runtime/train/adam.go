package train

import (
	"math"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

// adam is Adam (arXiv 1412.6980), or AdamW (arXiv 1711.05101) where the weight
// decay is decoupled from the gradient:
//
//	m = β₁·m + (1 − β₁)·g
//	v = β₂·v + (1 − β₂)·g²
//	w −= rate·(m/(1 − β₁^step)) / (√(v/(1 − β₂^step)) + ε)
type adam struct {
	Optimizer
	decoupled bool
}

func (o adam) whole() bool { return false }

func (o adam) states(shape []int) []state {
	return []state{{"first_moment", shape}, {"second_moment", shape}}
}

func (o adam) numbers(h hyper) map[string]float64 {
	numbers := map[string]float64{
		"decay": h.weightDecay, "keep": 1, "beta1": o.Beta1, "rest1": 1 - o.Beta1, "beta2": o.Beta2, "rest2": 1 - o.Beta2,
		"rate": h.rate / (1 - math.Pow(o.Beta1, float64(h.step))), "root": 1 / math.Sqrt(1-math.Pow(o.Beta2, float64(h.step))),
		"epsilon": o.Epsilon,
	}
	if o.decoupled {
		numbers["decay"], numbers["keep"] = 0, 1-h.rate*h.weightDecay
	}
	return numbers
}

func (o adam) update(g *updateGraph) (string, []string) {
	inputs := []string{g.weight, g.gradient, g.states[0], g.states[1]}
	for _, name := range []string{"scale", "decay", "keep", "beta1", "rest1", "beta2", "rest2", "rate", "root", "epsilon"} {
		inputs = append(inputs, g.number(name))
	}
	out := g.add(&onnx.Node{Domain: moe.Domain, OpType: "AdamUpdate"}, 3, inputs...)
	return out[0], out[1:]
}
