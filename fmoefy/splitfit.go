package fmoefy

import (
	"errors"
	"math"
	"slices"

	"github.com/fmoe-go/fmoe/internal/simd"
)

// activity is what the hidden neurons of an MLP do on some tokens.
type activity struct {
	tokens, width, hidden int

	x      []float32 // [tokens, width + 1]: the MLP's inputs, each with a 1 behind it
	a      []float32 // [tokens, hidden]: what the second projection takes
	second []float32 // [hidden, width]: what a neuron adds to the result
}

// split is an MLP divided into experts, a token's topK of which are chosen.
type split struct {
	order  []int     // [hidden]: the neurons of the first expert, of the second one, …
	router []float64 // [width + 1, experts], the biases in the last row

	// What is added to the second projection of the neurons in their order,
	// [hidden, width], and each expert's bias, [experts, width]; nil for nothing.
	correction []float32
	bias       []float64

	// loss is how far the result is off on the tokens: the mean square of the
	// differences over the variance of the MLP's results.
	loss float64
}

// The parts of the fit.
const (
	clusterRounds = 12
	routerRounds  = 5

	// penalty is how much a correction costs, in units of the mean square of an
	// activation.
	penalty = 1e-2
)

// fit divides the neurons among experts and makes their router. Starting with
// the group of each neuron, it goes to and fro: a router is fitted to how much
// each expert contributes for a token, then neurons move to the experts which
// are chosen where they fire. What the experts that are not chosen would have
// contributed is made up for, as well as it can be, by the others' second
// projections, a least-squares fit; then the router is fitted to what is best
// with those. Where a token gets all experts, nothing is to be made up for, and
// the function is kept.
func (s *activity) fit(groups []int, experts, topK int) (*split, error) {
	for _, list := range [][]float32{s.x, s.a} {
		for _, v := range list {
			if v-v != 0 {
				return nil, errors.New("its values on the calibration data are not finite")
			}
		}
	}
	system, err := s.routerSystem()
	if err != nil {
		return nil, err
	}
	energy := s.energy()
	var router []float64
	for range clusterRounds {
		router = system.fit(s, contributions(energy, s.hidden, groups, experts))
		next := balanced(gains(energy, s.hidden, s.choose(router, experts, topK), experts), experts)
		if slices.Equal(next, groups) {
			break
		}
		groups = next
	}
	router = system.fit(s, contributions(energy, s.hidden, groups, experts))
	f := &split{order: inGroups(groups, experts), router: router}
	if topK == experts {
		return f, nil
	}
	if err := s.ordered(f.order).correct(f, experts, topK); err != nil {
		return nil, err
	}
	for range routerRounds {
		groups = balanced(gains(energy, s.hidden, s.choose(f.router, experts, topK), experts), experts)
		next := &split{order: inGroups(groups, experts), router: f.router}
		ordered := s.ordered(next.order)
		if err := ordered.correct(next, experts, topK); err != nil {
			return nil, err
		}
		next.router = ordered.improve(next, experts, topK)
		if err := ordered.correct(next, experts, topK); err != nil {
			return nil, err
		}
		if next.loss >= f.loss {
			break
		}
		f = next
	}
	return f, nil
}

// inGroups returns the items of the first group, of the second one and so on.
func inGroups(of []int, groups int) []int {
	order := make([]int, 0, len(of))
	for g := range groups {
		for i, x := range of {
			if x == g {
				order = append(order, i)
			}
		}
	}
	return order
}

// ordered returns the activity with the neurons in another order.
func (s *activity) ordered(order []int) *activity {
	o := *s
	o.a, o.second = make([]float32, len(s.a)), make([]float32, len(s.second))
	eachShare(s.tokens, 256, func(lo, hi int) {
		for n := lo; n < hi; n++ {
			from, to := s.a[n*s.hidden:][:s.hidden], o.a[n*s.hidden:][:s.hidden]
			for i, j := range order {
				to[i] = from[j]
			}
		}
	})
	for i, j := range order {
		copy(o.second[i*s.width:][:s.width], s.second[j*s.width:])
	}
	return &o
}

// energy returns by how much each neuron changes the result for each token,
// from what it adds on average: squares, [tokens, hidden].
func (s *activity) energy() []float32 {
	e := make([]float32, len(s.a))
	eachShare(s.hidden, 64, func(lo, hi int) {
		mean := make([]float64, hi-lo)
		for n := range s.tokens {
			for i, v := range s.a[n*s.hidden+lo : n*s.hidden+hi] {
				mean[i] += float64(v)
			}
		}
		norm := make([]float32, hi-lo)
		for i := range mean {
			mean[i] /= float64(s.tokens)
			row := s.second[(lo+i)*s.width:][:s.width]
			norm[i] = simd.Dot(row, row)
		}
		for n := range s.tokens {
			for i, v := range s.a[n*s.hidden+lo : n*s.hidden+hi] {
				d := v - float32(mean[i])
				e[n*s.hidden+lo+i] = d * d * norm[i]
			}
		}
	})
	return e
}

// contributions returns the root of the energy of each group of neurons for
// each token, [tokens, groups].
func contributions(energy []float32, hidden int, of []int, groups int) []float32 {
	tokens := len(energy) / hidden
	u := make([]float32, tokens*groups)
	eachShare(tokens, 256, func(lo, hi int) {
		for n := lo; n < hi; n++ {
			row := u[n*groups:][:groups]
			for j, e := range energy[n*hidden:][:hidden] {
				row[of[j]] += e
			}
			for g, e := range row {
				row[g] = float32(math.Sqrt(float64(e)))
			}
		}
	})
	return u
}

// gains returns the energy of each neuron over the tokens for which each expert
// is chosen, [hidden, experts].
func gains(energy []float32, hidden int, chosen [][]int, experts int) []float64 {
	gain := make([]float64, hidden*experts)
	eachShare(hidden, 64, func(lo, hi int) {
		for n, list := range chosen {
			for i, e := range energy[n*hidden+lo : n*hidden+hi] {
				row := gain[(lo+i)*experts:][:experts]
				for _, g := range list {
					row[g] += float64(e)
				}
			}
		}
	})
	return gain
}

// routerSystem are the equations of a linear layer's least-squares fit to
// anything (ridge regression): the factor of x·xᵀ.
type routerSystem struct {
	n      int
	factor []float64
}

func (s *activity) routerSystem() (*routerSystem, error) {
	n := s.width + 1
	r := &routerSystem{n, make([]float64, n*n)}
	addProduct(r.factor, s.x, n, s.x, n)
	addToDiagonal(r.factor, n, 0, n, 1e-3)
	return r, cholesky(r.factor, n)
}

// addToDiagonal adds a multiple of its mean to the elements from … to of a
// matrix's diagonal, and returns what it adds.
func addToDiagonal(m []float64, n, from, to int, factor float64) float64 {
	mean := 0.0
	for i := from; i < to; i++ {
		mean += m[i*n+i] / float64(to-from)
	}
	add := max(factor*mean, 1e-30)
	for i := from; i < to; i++ {
		m[i*n+i] += add
	}
	return add
}

// fit returns the linear layer [width + 1, cols] nearest to u [tokens, cols].
func (r *routerSystem) fit(s *activity, u []float32) []float64 {
	cols := len(u) / s.tokens
	b := make([]float64, r.n*cols)
	addProduct(b, s.x, r.n, u, cols)
	solve(r.factor, r.n, b, cols)
	return b
}

// logits returns what a router says of tokens [n, width + 1].
func logits(x []float32, router []float64, experts int) []float32 {
	n := len(router) / experts
	w := make([]float32, len(router))
	for i, v := range router {
		w[i] = float32(v)
	}
	z := make([]float32, len(x)/n*experts)
	multiply(z, simd.RowMajor(x, len(x)/n, n), simd.RowMajor(w, n, experts))
	return z
}

// largest lists the places of the k largest of some numbers, the largest
// first and of equal ones the first.
func largest(z []float32, k int, list []int) []int {
	list = list[:0]
	for range k {
		at := -1
		for e, v := range z {
			if (at < 0 || v > z[at]) && !slices.Contains(list, e) {
				at = e
			}
		}
		list = append(list, at)
	}
	return list
}

// choose returns the experts of each token.
func (s *activity) choose(router []float64, experts, topK int) [][]int {
	z := logits(s.x, router, experts)
	chosen := make([][]int, s.tokens)
	eachShare(s.tokens, 1024, func(lo, hi int) {
		for n := lo; n < hi; n++ {
			chosen[n] = largest(z[n*experts:][:experts], topK, make([]int, 0, topK))
		}
	})
	return chosen
}

// correct computes what is added to the second projections, given the router:
// the least-squares fit of what is missing by the activations of the experts
// that are chosen, and a 1 for each. The neurons are in order.
func (s *activity) correct(f *split, experts, topK int) error {
	chosen := s.choose(f.router, experts, topK)
	missing, variance := s.missing(chosen, experts)
	n, each := s.hidden+experts, s.hidden/experts
	// An expert's part of the equations: its neurons and its 1.
	at := func(e, i int) int {
		if i < each {
			return e*each + i
		}
		return s.hidden + e
	}
	tokens := make([][]int, experts)
	for t, list := range chosen {
		for _, e := range list {
			tokens[e] = append(tokens[e], t)
		}
	}
	m, b := make([]float64, n*n), make([]float64, n*s.width)
	eachOf(experts*(experts+1)/2, func(pair int) {
		e := 0
		for pair > e {
			pair -= e + 1
			e++
		}
		d := pair // d ≤ e: the lower triangle
		both := tokens[e]
		if d != e {
			both = common2(tokens[d], tokens[e])
		}
		sum := make([]float64, (each+1)*(each+1))
		for _, some := range parts(both, depthOfSums) {
			addProduct(sum, s.activations(e, each, some), each+1, s.activations(d, each, some), each+1)
		}
		for i := range each + 1 {
			for j := range each + 1 {
				m[at(e, i)*n+at(d, j)] = sum[i*(each+1)+j]
				if d != e { // a 1 comes behind all neurons
					m[at(d, j)*n+at(e, i)] = sum[i*(each+1)+j]
				}
			}
		}
	})
	eachOf(experts, func(e int) {
		sum := make([]float64, (each+1)*s.width)
		for _, some := range parts(tokens[e], depthOfSums) {
			addProduct(sum, s.activations(e, each, some), each+1, rows(missing, s.width, some), s.width)
		}
		for i := range each + 1 {
			copy(b[at(e, i)*s.width:][:s.width], sum[i*s.width:])
		}
	})
	wanted := slices.Clone(b)
	cost := addToDiagonal(m, n, 0, s.hidden, penalty)
	for e := range experts {
		m[(s.hidden+e)*n+s.hidden+e] += 1e-4 * float64(s.tokens)
	}
	if err := cholesky(m, n); err != nil {
		return err
	}
	solve(m, n, b, s.width)
	f.correction, f.bias = make([]float32, s.hidden*s.width), slices.Clone(b[s.hidden*s.width:])
	loss := 0.0
	for _, v := range missing {
		loss += float64(v) * float64(v)
	}
	for i, v := range b {
		// Of the equations the penalties are no loss.
		p := cost
		if i >= len(f.correction) {
			p = 1e-4 * float64(s.tokens)
		} else {
			f.correction[i] = float32(v)
		}
		loss -= v * (wanted[i] + p*v)
	}
	f.loss = max(0, loss) / max(variance, 1e-300)
	return nil
}

// missing returns what the experts that are not chosen contribute to each
// token, [tokens, width], and the sum of the squares of the differences between
// the MLP's results and their mean.
func (s *activity) missing(chosen [][]int, experts int) (missing []float32, variance float64) {
	each := s.hidden / experts
	missing = make([]float32, s.tokens*s.width)
	whole := make([]float32, s.tokens*s.width)
	second := simd.RowMajor(s.second, s.hidden, s.width)
	multiply(whole, simd.RowMajor(s.a, s.tokens, s.hidden), second)
	for lo := 0; lo < s.tokens; lo += depthOfSums {
		hi := min(lo+depthOfSums, s.tokens)
		a := slices.Clone(s.a[lo*s.hidden : hi*s.hidden])
		for n, list := range chosen[lo:hi] {
			for _, e := range list {
				clear(a[n*s.hidden+e*each:][:each])
			}
		}
		multiply(missing[lo*s.width:hi*s.width], simd.RowMajor(a, hi-lo, s.hidden), second)
	}
	mean := make([]float64, s.width)
	for i, v := range whole {
		mean[i%s.width] += float64(v) / float64(s.tokens)
	}
	for i, v := range whole {
		d := float64(v) - mean[i%s.width]
		variance += d * d
	}
	return missing, variance
}

// activations returns those of an expert's neurons for some tokens, with a 1
// behind each token's, [len(tokens), each + 1].
func (s *activity) activations(expert, each int, tokens []int) []float32 {
	list := make([]float32, 0, len(tokens)*(each+1))
	for _, t := range tokens {
		list = append(list, s.a[t*s.hidden+expert*each:][:each]...)
		list = append(list, 1)
	}
	return list
}

// rows returns some rows of a matrix.
func rows(m []float32, width int, which []int) []float32 {
	list := make([]float32, 0, len(which)*width)
	for _, i := range which {
		list = append(list, m[i*width:][:width]...)
	}
	return list
}

// parts cuts a list into pieces of a length.
func parts(list []int, length int) [][]int { return slices.Collect(slices.Chunk(list, length)) }

// common2 returns what two ascending lists have in common.
func common2(a, b []int) []int {
	var both []int
	for len(a) > 0 && len(b) > 0 {
		switch {
		case a[0] < b[0]:
			a = a[1:]
		case a[0] > b[0]:
			b = b[1:]
		default:
			both = append(both, a[0])
			a, b = a[1:], b[1:]
		}
	}
	return both
}
