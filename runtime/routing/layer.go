package routing

import (
	"fmt"
	"math"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// layer adds up what one FMoE node decided.
type layer struct {
	name   string
	config moe.Config
	values [kinds]string // names of the copy's outputs; that of the mask is "" where there is none

	experts, slots     int
	tokens, masked     int64   // tokens are those that are not masked
	computed           []int64 // [T] rows of each expert
	unserved           int64   // tokens that no expert computes
	routerEntropy      float64 // a sum over tokens
	firstScore         float64 // a sum over the tokens that have a first choice
	firsts             int64   // how many those are
	balanceLoss, zLoss float64 // sums over runs, times their tokens

	// The rest is of the run that is being counted.
	first         []int32   // [tokens] the first choices, −1 where there is none
	chosen        []int64   // [tokens, slots]
	weights       []float64 // [tokens, slots]
	logits        []float64 // [tokens, T]
	probabilities []float64 // [T]
}

// add counts a run. A layer in a branch that was not taken has no tokens.
func (l *layer) add(outputs map[string]*tensor.Tensor) error {
	var t [kinds]*tensor.Tensor
	for k, name := range l.values {
		if name == "" {
			continue
		}
		if t[k] = outputs[name]; t[k] == nil {
			return fmt.Errorf("the run has no output %q; it must be one of the watched copy", name)
		}
	}
	l.first = l.first[:0]
	if t[indices].Len() == 0 || t[logits].Len() == 0 {
		return nil
	}
	if err := l.read(t); err != nil {
		return err
	}
	tokens := l.tokens
	for n := range len(l.logits) / l.experts {
		l.first = append(l.first, -1)
		if m := t[mask]; m != nil && !tensor.Of[bool](m)[n] {
			l.masked++
			continue
		}
		l.tokens++
		l.token(n)
	}
	balance, err := mean(t[balanceLoss])
	if err != nil {
		return err
	}
	z, err := mean(t[zLoss])
	l.balanceLoss += balance * float64(l.tokens-tokens)
	l.zLoss += z * float64(l.tokens-tokens)
	return err
}

// read takes the tensors of a run apart.
func (l *layer) read(t [kinds]*tensor.Tensor) (err error) {
	experts, slots := last(t[logits]), last(t[indices])
	if l.computed == nil {
		l.experts, l.slots = experts, slots
		l.computed, l.probabilities = make([]int64, experts), make([]float64, experts)
	}
	if l.chosen, err = t[indices].Ints(); err != nil {
		return err
	}
	if l.weights, err = tensor.Float64s(t[scores]); err != nil {
		return err
	}
	if l.logits, err = tensor.Float64s(t[logits]); err != nil {
		return err
	}
	tokens := len(l.logits) / experts
	maskFits := t[mask] == nil || t[mask].Type == onnx.Bool && t[mask].Len() == tokens
	if experts != l.experts || slots != l.slots || len(l.chosen) != tokens*slots || len(l.weights) != tokens*slots || !maskFits {
		return fmt.Errorf("its outputs %s, %s and %s do not fit one another, or those of the runs before", t[indices], t[scores], t[logits])
	}
	return nil
}

// last returns the last dimension, 1 of a scalar.
func last(t *tensor.Tensor) int {
	if t.Rank() == 0 {
		return 1
	}
	return t.Shape[t.Rank()-1]
}

// token counts the choices of a token.
func (l *layer) token(n int) {
	chosen, weights := l.chosen[n*l.slots:][:l.slots], l.weights[n*l.slots:][:l.slots]
	served := false
	best := 0 // the slot of the first choice
	for j, e := range chosen {
		if !l.has(e) {
			continue
		}
		served = true
		l.computed[e]++
		if l.expertChoice() && weights[j] > weights[best] {
			best = j
		}
	}
	if !served {
		l.unserved++
	}
	if e := chosen[best]; l.has(e) {
		l.first[n] = int32(e)
		l.firstScore += weights[best]
		l.firsts++
	}
	l.routerEntropy += l.entropyOf(l.logits[n*l.experts:][:l.experts])
}

// has reports whether a slot has an expert.
func (l *layer) has(e int64) bool { return e >= 0 && e < int64(l.experts) }

// expertChoice reports whether experts choose tokens, so that a slot without
// an expert is none that was dropped.
func (l *layer) expertChoice() bool {
	k, err := moe.KindOf(l.config.Gate)
	return err == nil && k.ExpertChoice
}

// entropyOf returns the entropy of a router's probabilities: a softmax over
// the logits, or sigmoids divided by their sum.
func (l *layer) entropyOf(row []float64) float64 {
	top, sum := math.Inf(-1), 0.0
	for _, x := range row {
		top = max(top, x)
	}
	for i, x := range row {
		p := math.Exp(x - top)
		if l.config.Scores == moe.ScoresSigmoid {
			p = 1 / (1 + math.Exp(-x))
		}
		l.probabilities[i] = p
		sum += p
	}
	for i := range l.probabilities {
		l.probabilities[i] /= sum
	}
	return entropy(l.probabilities)
}

// mean returns the mean of a layer's losses, one of each round of a loop.
func mean(t *tensor.Tensor) (float64, error) {
	values, err := tensor.Float64s(t)
	if err != nil || len(values) == 0 {
		return 0, err
	}
	sum := 0.0
	for _, x := range values {
		sum += x
	}
	return sum / float64(len(values)), nil
}
