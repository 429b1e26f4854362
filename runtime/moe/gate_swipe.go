package moe

// GateSwipe is the name of the gate that gives workers equal numbers of rows.
const GateSwipe = "swipe"

func init() {
	Register(Kind{
		Name:    GateSwipe,
		Summary: "the k largest logits, but in training choices move so that all workers compute the same number of rows",
		New: func(c Config, experts int) Gate {
			return &swipe{config: c, experts: experts, room: make([]int, c.Workers)}
		},
		Workers: true,
	})
}

// swipe is FastMoE's gate of that name. Each of W workers computes as many
// rows as its own tokens have choices. Slot after slot, workers accept choices
// in the order of the tokens while they have room; the others go, in the same
// order, to the first worker with room, whose expert number slot mod T/W they
// get. Scores are those of the experts that tokens have in the end. In
// evaluation, and on one worker, nothing moves.
type swipe struct {
	config  Config
	experts int
	room    []int // [W]
}

func (g *swipe) Slots() int { return g.config.TopK }

func (g *swipe) Choose(b *Batch, lo, hi int) {
	k := g.config.TopK
	for n := lo; n < hi; n++ {
		g.config.chooseLargest(b, n, b.Indices[n*k:][:k], b.Scores[n*k:][:k])
	}
}

func (g *swipe) Settle(b *Batch) {
	b.BalanceLoss = 0
	if !b.Training || g.config.Workers == 1 {
		return
	}
	k := g.config.TopK
	for w := range g.room {
		g.room[w] = b.unmasked(b.part(w, len(g.room))) * k
	}
	for j := range k {
		g.settleSlot(b, j)
	}
	for n := range b.Tokens {
		if !b.masked(n) {
			g.config.weigh(b.row(n), b.Indices[n*k:][:k], b.Scores[n*k:][:k])
		}
	}
}

// settleSlot lets workers accept choices number j of the tokens, and moves the
// others.
func (g *swipe) settleSlot(b *Batch, j int) {
	const moves = -2
	k, each := g.config.TopK, g.experts/len(g.room)
	for n := range b.Tokens {
		e := &b.Indices[n*k+j]
		if b.masked(n) {
			continue
		}
		if w := int(*e) / each; g.room[w] > 0 {
			g.room[w]--
		} else {
			*e = moves
		}
	}
	w := 0
	for n := range b.Tokens {
		e := &b.Indices[n*k+j]
		if *e != moves {
			continue
		}
		for g.room[w] == 0 {
			w++
		}
		g.room[w]--
		*e = int32(w*each + j%each)
	}
}

// Differentiate implements [Differentiable].
func (g *swipe) Differentiate(b *Batch, d *Gradients, n int) {
	g.config.addScores(b, d, n, b.Indices[n*g.config.TopK:][:g.config.TopK])
}
