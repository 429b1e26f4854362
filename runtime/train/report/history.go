package report

import (
	"maps"
	"math"
	"slices"
)

// history is what a page shows of a run, in bounded memory whatever the number
// of its steps.
type history struct {
	run         Run
	steps       *course // of the numbers below
	rates       *course // of groups
	layers      *course // of the numbers below, for each of names
	loads       *course // of the experts of all layers
	evaluations *course // of loss and perplexity

	groups  []string
	names   []string // of the layers
	experts []int    // of each of them, as far as their loads are kept

	last Step
	held Evaluation
	best Number // held-out loss
}

// Numbers of a step.
const (
	ofLoss = iota
	ofGradient
	ofSpeed
	ofBalance
	ofZ
	numbersOfStep
)

// Numbers of a layer.
const (
	layerBalance = iota
	layerVariation
	layerEvenness
	layerDropped
	numbersOfLayer
)

// What a page has at most, so that it stays small.
const (
	maxPoints      = 1000
	maxLayerPoints = 12000 // of all layers together, for each of their numbers
	leastPoints    = 24
	maxMaps        = 64 // of loads over time
	maxLayers      = 512
	maxGroups      = 24
	maxExperts     = 1 << 16 // whose loads are kept
	maxCells       = 80_000  // of all maps of loads over time
	maxColumns     = 120
	leastColumns   = 16
)

func newHistory() *history {
	return &history{steps: newCourse(maxPoints, true), evaluations: newCourse(maxPoints, false), best: Number(math.NaN())}
}

// step adds the record of a step.
func (h *history) step(s Step) {
	var numbers [numbersOfStep]float64
	for i, x := range map[int]Number{ofLoss: s.Loss, ofGradient: s.GradientNorm, ofSpeed: s.TokensPerSecond, ofBalance: s.BalanceLoss, ofZ: s.ZLoss} {
		numbers[i] = float64(x)
	}
	h.steps.add(s.Step, numbers[:])
	h.addRates(s)
	h.addLayers(s)
	h.last = s
	h.last.LearningRates, h.last.Layers = nil, nil
}

// addRates adds the learning rates of the groups that the first record has.
func (h *history) addRates(s Step) {
	if h.rates == nil {
		if len(s.LearningRates) == 0 {
			return
		}
		h.groups = slices.Sorted(maps.Keys(s.LearningRates))
		h.groups = h.groups[:min(len(h.groups), maxGroups)]
		h.rates = newCourse(maxPoints/2, false)
	}
	rates := make([]float64, len(h.groups))
	for i, g := range h.groups {
		x, ok := s.LearningRates[g]
		if !ok {
			x = Number(math.NaN())
		}
		rates[i] = float64(x)
	}
	h.rates.add(s.Step, rates)
}

// addLayers adds what layers did, which are those of the first record that has
// some.
func (h *history) addLayers(s Step) {
	if h.layers == nil {
		if len(s.Layers) == 0 {
			return
		}
		h.beginLayers(s.Layers[:min(len(s.Layers), maxLayers)])
	}
	numbers := make([]float64, 0, numbersOfLayer*len(h.names))
	var loads []float64
	for i := range h.names {
		l := Layer{BalanceLoss: Number(math.NaN())}
		l.Variation, l.Evenness, l.Dropped = l.BalanceLoss, l.BalanceLoss, l.BalanceLoss
		if i < len(s.Layers) {
			l = s.Layers[i]
		}
		numbers = append(numbers, float64(l.BalanceLoss), float64(l.Variation), float64(l.Evenness), float64(l.Dropped))
		if i >= len(h.experts) {
			continue
		}
		for e := range h.experts[i] {
			x := math.NaN()
			if e < len(l.Load) {
				x = float64(l.Load[e])
			}
			loads = append(loads, x)
		}
	}
	h.layers.add(s.Step, numbers)
	h.loads.add(s.Step, loads)
}

func (h *history) beginLayers(layers []Layer) {
	h.names = names(layers)
	experts := 0
	for _, l := range layers {
		if experts += len(l.Load); experts > maxExperts {
			break
		}
		h.experts = append(h.experts, len(l.Load))
	}
	experts = 0
	for _, n := range h.experts {
		experts += n
	}
	h.layers = newCourse(min(max(maxLayerPoints/len(layers), leastPoints), maxPoints/2), false)
	h.loads = newCourse(min(max(maxCells/max(experts, 1), leastColumns), maxColumns), false)
}

// evaluation adds the record of an evaluation.
func (h *history) evaluation(e Evaluation) {
	h.evaluations.add(e.Step, []float64{float64(e.Loss), float64(e.Perplexity)})
	h.held = e
	if better(e.Loss, h.best) {
		h.best = e.Loss
	}
}

// better reports whether a loss is less than the best before, if there is one.
func better(loss, best Number) bool { return !math.IsNaN(float64(loss)) && !(best <= loss) }
