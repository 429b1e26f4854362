package routing

import "math"

// Statistics are what was seen of a model's layers, of all tokens that are not
// masked.
type Statistics struct {
	Runs   int     `json:"runs"`
	Layers []Layer `json:"layers"`

	// Agreement [layers][layers] says how much the first choice of a token in
	// one layer tells of that in another: their normalised mutual information,
	// from 0 to 1. It is not a number where two layers never saw equally many
	// tokens in a run, and nil where their experts are too many to compare.
	Agreement [][]Number `json:"agreement"`
}

// Layer is what was seen of one layer of T experts. Entropies are natural
// ones, in nats. What nothing was seen of is not a number, as the load of a
// layer in a branch that was never taken.
type Layer struct {
	Name    string `json:"name"`
	Gate    string `json:"gate"`
	Experts int    `json:"experts"` // 0 where the layer never ran
	Slots   int    `json:"slots"`   // of a token
	Tokens  int64  `json:"tokens"`
	Masked  int64  `json:"masked"` // tokens that were masked

	// Rows [T] is how many rows each expert computed. Where experts choose
	// tokens, Dropped is the share of tokens that no expert computed, as
	// Unserved is.
	Rows []int64 `json:"rows"`
	Balance

	// Unserved is the share of tokens that no expert computed.
	Unserved Number `json:"unserved"`

	// RouterEntropy is the mean over tokens of the entropy of the router's
	// probabilities, and Indecision that over ln T: 0 where it is always sure.
	RouterEntropy Number `json:"router_entropy"`
	Indecision    Number `json:"router_entropy_normalized"`

	// FirstScore is the mean score of the tokens' first choices, those that
	// were not dropped.
	FirstScore Number `json:"first_score"`

	// BalanceLoss is the gate's balance loss and ZLoss the router z-loss, the
	// means over runs weighted by their tokens.
	BalanceLoss Number `json:"balance_loss"`
	ZLoss       Number `json:"z_loss"`
}

// Statistics returns what was seen so far.
func (w *Watch) Statistics() *Statistics {
	s := &Statistics{Runs: w.runs, Layers: make([]Layer, len(w.layers))}
	for i, l := range w.layers {
		s.Layers[i] = l.statistics()
	}
	if len(w.layers) > 1 && w.pairs == nil {
		return s
	}
	s.Agreement = make([][]Number, len(w.layers))
	for i := range s.Agreement {
		s.Agreement[i] = make([]Number, len(w.layers))
		s.Agreement[i][i] = 1
	}
	for _, p := range w.pairs {
		x := Number(p.information())
		s.Agreement[p.a][p.b], s.Agreement[p.b][p.a] = x, x
	}
	return s
}

func (l *layer) statistics() Layer {
	s := Layer{Name: l.name, Gate: l.config.Gate, Experts: l.experts, Slots: l.slots, Tokens: l.tokens, Masked: l.masked,
		Rows: append([]int64{}, l.computed...), Balance: BalanceOf(l.computed, l.tokens*int64(l.slots))}
	tokens := float64(l.tokens)
	s.Unserved = Number(float64(l.unserved) / tokens)
	if l.expertChoice() {
		s.Dropped = s.Unserved
	}
	r := l.routerEntropy / tokens
	s.RouterEntropy = Number(r)
	if most := math.Log(float64(l.experts)); most > 0 {
		s.Indecision = Number(r / most)
	} else { // the router of one expert is sure
		s.Indecision = Number(r)
	}
	s.FirstScore = Number(l.firstScore / float64(l.firsts))
	s.BalanceLoss, s.ZLoss = Number(l.balanceLoss/tokens), Number(l.zLoss/tokens)
	return s
}
