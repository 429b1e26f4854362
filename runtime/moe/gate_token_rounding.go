package moe

import (
	"fmt"
	"math"
	"slices"
)

// GateTokenRounding is the name of SonicMoE's gate.
const GateTokenRounding = "token-rounding"

func init() {
	Register(Kind{
		Name:     GateTokenRounding,
		Summary:  "the k largest logits, but in training experts drop or add tokens so that their rows fill tiles",
		Options:  []string{AttributeTile},
		Defaults: func(c *Config) { c.Tile = 128 },
		Check: func(c Config, _ int) error {
			if c.Tile < 1 {
				return fmt.Errorf("attribute tile is %d; the gate %s takes 1 or more rows", c.Tile, c.Gate)
			}
			return nil
		},
		New: func(c Config, experts int) Gate {
			return &tokenRounding{config: c, experts: experts, count: make([]int, experts)}
		},
		ExpertChoice:  true,
		SelectionBias: true,
		Rows:          func(c Config, tokens, experts int) int { return tokens*c.TopK + experts*(c.Tile/2) },
	})
}

// tokenRounding is the gate of SonicMoE (arXiv 2512.14080). In evaluation it is
// the naive gate. In training the number of tokens that chose an expert is
// rounded to the nearest multiple of the tile, the even one of two (at most to
// all tokens): it drops the tokens in whose softmax over all experts it has
// the smallest shares, or adds those that did not choose it in which it has
// the largest, the first tokens where shares are equal. Scores are those of
// the experts that a token has in the end.
//
// A token's k choices are in its first k slots, and experts that were added in
// the following ones, in their order.
type tokenRounding struct {
	config  Config
	experts int
	count   []int // [T]
}

func (g *tokenRounding) Slots() int { return g.experts }

func (g *tokenRounding) Choose(b *Batch, lo, hi int) {
	k := g.config.TopK
	for n := lo; n < hi; n++ {
		indices, scores := b.Indices[n*g.experts:][:g.experts], b.Scores[n*g.experts:][:g.experts]
		drop(indices, scores)
		g.config.chooseLargest(b, n, indices[:k], scores[:k])
		if b.Training && !b.masked(n) {
			g.config.affinities(scores, b.row(n)) // of all experts, until Settle
		}
	}
}

func (g *tokenRounding) Settle(b *Batch) {
	b.BalanceLoss = 0
	if !b.Training {
		return
	}
	clear(g.count)
	for _, e := range b.Indices {
		if e >= 0 {
			g.count[e]++
		}
	}
	tokens := b.unmasked(0, b.Tokens)
	for e, count := range g.count {
		if rounded := g.round(count, tokens); rounded < count {
			g.drop(b, int32(e), rounded)
		} else {
			g.add(b, int32(e), rounded-count)
		}
	}
	for n := range b.Tokens {
		g.config.weigh(b.row(n), b.Indices[n*g.experts:][:g.experts], b.Scores[n*g.experts:][:g.experts])
	}
}

// round returns the number of rows of an expert that count of the tokens
// chose.
func (g *tokenRounding) round(count, tokens int) int {
	tile := g.config.Tile
	return min(int(math.RoundToEven(float64(count)/float64(tile)))*tile, tokens)
}

// slot returns the place of an expert among a token's k choices, or −1.
func (g *tokenRounding) slot(b *Batch, n int, expert int32) int {
	return slices.Index(b.Indices[n*g.experts:][:g.config.TopK], expert)
}

// drop leaves an expert count of the tokens that chose it.
func (g *tokenRounding) drop(b *Batch, e int32, count int) {
	affinity := func(n int) (float64, bool) {
		return b.Scores[n*g.experts+int(e)], g.slot(b, n, e) >= 0
	}
	keep := best(b.Tokens, count, affinity)
	for n := range b.Tokens {
		if x, ok := affinity(n); ok && !keep.admits(x) {
			b.Indices[n*g.experts+g.slot(b, n, e)] = -1
		}
	}
}

// add gives an expert count of the tokens that did not choose it.
func (g *tokenRounding) add(b *Batch, e int32, count int) {
	affinity := func(n int) (float64, bool) {
		return b.Scores[n*g.experts+int(e)], !b.masked(n) && g.slot(b, n, e) < 0
	}
	chosen := best(b.Tokens, count, affinity)
	for n := range b.Tokens {
		if x, ok := affinity(n); ok && chosen.admits(x) {
			at := n*g.experts + g.config.TopK
			for b.Indices[at] >= 0 {
				at++
			}
			b.Indices[at] = e
		}
	}
}

// Differentiate implements [Differentiable].
func (g *tokenRounding) Differentiate(b *Batch, d *Gradients, n int) {
	g.config.addScores(b, d, n, b.Indices[n*g.experts:][:g.experts])
}
