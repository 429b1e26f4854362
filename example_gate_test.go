package fmoe_test

import (
	"context"
	"fmt"
	"log"
	"math"
	"slices"

	"github.com/fmoe-go/fmoe/fmoefy"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/routing"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// topP gives a token as many experts as it needs: the most probable ones, until
// their probabilities sum to p, but at most top_k (Huang et al., Harder Tasks
// Need More Experts, arXiv 2403.07652).
type topP struct {
	slots int
	p     float64
}

func (g topP) Slots() int { return g.slots }

func (g topP) Choose(b *moe.Batch, lo, hi int) {
	for n := lo; n < hi; n++ {
		indices, scores := b.Indices[n*g.slots:][:g.slots], b.Scores[n*g.slots:][:g.slots]
		for j := range indices {
			indices[j], scores[j] = -1, 0
		}
		if b.Mask != nil && !b.Mask[n] {
			continue
		}
		g.token(softmax(b.Logits[n*b.Experts:][:b.Experts]), indices, scores)
	}
}

func (g topP) token(probabilities []float64, indices []int32, scores []float64) {
	order := make([]int32, len(probabilities))
	for e := range order {
		order[e] = int32(e)
	}
	slices.SortStableFunc(order, func(a, b int32) int {
		switch {
		case probabilities[a] > probabilities[b]:
			return -1
		case probabilities[a] < probabilities[b]:
			return 1
		}
		return 0
	})
	sum := 0.0
	for j := 0; j < g.slots && sum < g.p; j++ {
		indices[j], scores[j] = order[j], probabilities[order[j]]
		sum += scores[j]
	}
	for j := range scores { // so that experts that are alike compute what one does
		scores[j] /= sum
	}
}

// Settle has nothing to do: no token depends on another, and there is no loss.
func (g topP) Settle(b *moe.Batch) { b.BalanceLoss = 0 }

func softmax(logits []float64) []float64 {
	p, sum := make([]float64, len(logits)), 0.0
	for i, x := range logits {
		p[i] = math.Exp(x - slices.Max(logits))
		sum += p[i]
	}
	for i := range p {
		p[i] /= sum
	}
	return p
}

func init() {
	moe.Register(moe.Kind{
		Name:    "top-p",
		Summary: "the most probable experts, until their probabilities sum to 0.6",
		New:     func(c moe.Config, experts int) moe.Gate { return topP{slots: c.TopK, p: 0.6} },
	})
}

// A gate of one's own: register it, give it to the layers of a model, run that,
// and look at what the gate chooses.
func Example_gate() {
	model, err := onnx.ReadFile("models/gpt-megatron/model.onnx")
	if err != nil {
		log.Fatal(err)
	}
	defer model.Close()
	if _, err := fmoefy.Rewrite(model, fmoefy.Options{NumExperts: 8, TopK: 4, GateStd: 0.2}); err != nil {
		log.Fatal(err)
	}
	if _, err := fmoefy.Regate(model, fmoefy.RegateOptions{GateOptions: fmoefy.GateOptions{Gate: "top-p"}}); err != nil {
		log.Fatal(err)
	}

	watch, err := routing.New(model, routing.Options{})
	if err != nil {
		log.Fatal(err)
	}
	session, err := runtime.New(watch.Model, runtime.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer session.Close()
	text := []byte("The Rays of Light differ in degrees of Refrangibility.")
	tokens := tensor.New(onnx.Int64, 1, len(text))
	for i, c := range text {
		tensor.Of[int64](tokens)[i] = int64(c)
	}
	outputs, err := session.Run(context.Background(), map[string]*tensor.Tensor{"input_ids": tokens})
	if err != nil {
		log.Fatal(err)
	}
	if err := watch.Add(outputs); err != nil {
		log.Fatal(err)
	}
	for i, l := range watch.Statistics().Layers {
		fmt.Printf("layer %d: %.1f of at most %d experts a token\n", i, float64(l.Slots)*(1-float64(l.Dropped)), l.Slots)
	}

	// Output:
	// layer 0: 1.7 of at most 4 experts a token
	// layer 1: 1.4 of at most 4 experts a token
	// layer 2: 1.4 of at most 4 experts a token
	// layer 3: 1.6 of at most 4 experts a token
	// layer 4: 1.6 of at most 4 experts a token
	// layer 5: 1.5 of at most 4 experts a token
}
