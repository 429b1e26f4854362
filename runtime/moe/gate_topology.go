package moe

import "fmt"

// GateTopology is the name of the gate that keeps most tokens inside a node.
const GateTopology = "topology"

func init() {
	Register(Kind{
		Name:     GateTopology,
		Summary:  "the two largest logits inside a token's node, but for a share of tokens that may choose another node's expert",
		Options:  []string{AttributeFraction},
		Defaults: func(c *Config) { c.Fraction = 0.14 },
		Check: func(c Config, experts int) error {
			if nodes := c.Workers / c.WorkersPerNode; experts > 0 && nodes > 1 && experts/nodes < 2 {
				return fmt.Errorf("%d experts on %d nodes; the gate %s takes two experts or more on each node", experts, nodes, c.Gate)
			}
			return exactly(2)(c, experts)
		},
		New: func(c Config, experts int) Gate {
			return &topology{config: c, balance: newFirstChoices(experts)}
		},
		Workers: true,
	})
}

// topology is FasterMoE's gate (PPoPP 2022). Of the N tokens of each worker, L
// = int(N·fraction) may choose an expert on another node. Where fewer want to,
// all tokens keep their two largest logits. Otherwise the L whose first choice
// is off their node with the largest logit keep it as their second expert, and
// all else is chosen inside the node. It does so in training and in
// evaluation.
type topology struct {
	config  Config
	balance firstChoices
}

func (g *topology) Slots() int { return 2 }

func (g *topology) Choose(b *Batch, lo, hi int) {
	for n := lo; n < hi; n++ {
		g.config.chooseLargest(b, n, b.Indices[2*n:][:2], b.Scores[2*n:][:2])
	}
}

func (g *topology) Settle(b *Batch) {
	b.BalanceLoss = g.balance.loss(b)
	workers, each := g.config.Workers, g.config.WorkersPerNode
	if workers == each {
		return
	}
	experts := b.Experts / (workers / each)
	for w := range workers {
		if lo, hi := b.part(w, workers); lo < hi {
			g.settle(b, lo, hi, w/each*experts, (w/each+1)*experts)
		}
	}
}

// settle settles the tokens lo … hi of a worker whose node has the experts
// first … end.
func (g *topology) settle(b *Batch, lo, hi, first, end int) {
	outside := func(i int) (logit float64, ok bool) {
		e := int(b.Indices[2*(lo+i)])
		if e < 0 || e >= first && e < end {
			return 0, false
		}
		return b.row(lo + i)[e], true
	}
	count := 0
	for i := range hi - lo {
		if _, ok := outside(i); ok {
			count++
		}
	}
	limit := int(float64(b.unmasked(lo, hi)) * g.config.Fraction)
	if count < limit {
		return
	}
	keep := best(hi-lo, limit, outside)
	for n := lo; n < hi; n++ {
		if b.masked(n) {
			continue
		}
		row, indices, scores := b.row(n), b.Indices[2*n:][:2], b.Scores[2*n:][:2]
		preferred := indices[0]
		logit, ok := outside(n - lo)
		largest(row[first:end], nil, indices, scores)
		indices[0] += int32(first)
		indices[1] += int32(first)
		if ok && keep.admits(logit) {
			indices[1] = preferred
		}
		g.config.weigh(row, indices, scores)
	}
}

// Differentiate implements [Differentiable].
func (g *topology) Differentiate(b *Batch, d *Gradients, n int) {
	g.balance.addLoss(b, d, n)
	g.config.addScores(b, d, n, b.Indices[2*n:][:2])
}
