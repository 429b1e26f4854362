package train

// sgd is stochastic gradient descent, with momentum (Sutskever et al. 2013):
//
//	g += weight_decay·w
//	m = momentum·m + g
//	w −= rate·m, or rate·(g + momentum·m) in Nesterov's form
type sgd struct{ Optimizer }

func (o sgd) whole() bool { return false }

func (o sgd) states(shape []int) []state {
	if o.Momentum == 0 {
		return nil
	}
	return []state{{"momentum", shape}}
}

func (o sgd) numbers(h hyper) map[string]float64 {
	return map[string]float64{"rate": h.rate, "decay": h.weightDecay, "mu": o.Momentum}
}

func (o sgd) update(g *updateGraph) (string, []string) {
	step := g.op("Add", g.op("Mul", g.gradient, g.number("scale")), g.op("Mul", g.weight, g.number("decay")))
	var states []string
	if o.Momentum != 0 {
		m := g.op("Add", g.op("Mul", g.states[0], g.number("mu")), step)
		states = []string{m}
		if o.Nesterov {
			step = g.op("Add", step, g.op("Mul", m, g.number("mu")))
		} else {
			step = m
		}
	}
	return g.op("Sub", g.weight, g.op("Mul", step, g.number("rate"))), states
}
