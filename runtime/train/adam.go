package train

import "math"

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
	n := map[string]float64{
		"beta1": o.Beta1, "rest1": 1 - o.Beta1, "beta2": o.Beta2, "rest2": 1 - o.Beta2, "epsilon": o.Epsilon,
		"rate": h.rate / (1 - math.Pow(o.Beta1, float64(h.step))),
		"root": 1 / math.Sqrt(1-math.Pow(o.Beta2, float64(h.step))),
		"keep": 1 - h.rate*h.weightDecay, "decay": h.weightDecay,
	}
	return n
}

func (o adam) update(g *updateGraph) (string, []string) {
	gradient, w := g.op("Mul", g.gradient, g.number("scale")), g.weight
	if o.decoupled {
		w = g.op("Mul", w, g.number("keep"))
	} else {
		gradient = g.op("Add", gradient, g.op("Mul", w, g.number("decay")))
	}
	m := g.op("Add", g.op("Mul", g.states[0], g.number("beta1")), g.op("Mul", gradient, g.number("rest1")))
	v := g.op("Add", g.op("Mul", g.states[1], g.number("beta2")), g.op("Mul", g.op("Mul", gradient, gradient), g.number("rest2")))
	root := g.op("Add", g.op("Mul", g.op("Sqrt", v), g.number("root")), g.number("epsilon"))
	return g.op("Sub", w, g.op("Div", g.op("Mul", m, g.number("rate")), root)), []string{m, v}
}
