package fmoefy

import (
	"math"
	"slices"
	"testing"
)

func uniformNumbers(seed uint64, n int) []float64 {
	list := make([]float64, (n+3)/4*4)
	normals{seed, 1}.fill(list, 0)
	return list[:n]
}

func singles(list []float64) []float32 {
	x := make([]float32, len(list))
	for i, v := range list {
		x[i] = float32(v)
	}
	return x
}

// TestBalanced: groups have equal sizes, no exchange of two items gains
// anything, and items get the groups that they are made for where that is
// possible.
func TestBalanced(t *testing.T) {
	for _, c := range []struct{ groups, each int }{{1, 1}, {1, 5}, {2, 1}, {3, 4}, {8, 64}, {16, 3}} {
		n := c.groups * c.each
		gain := uniformNumbers(uint64(n), n*c.groups)
		of := balanced(gain, c.groups)
		counts := make([]int, c.groups)
		for _, g := range of {
			counts[g]++
		}
		if slices.Min(counts) != c.each || slices.Max(counts) != c.each {
			t.Fatalf("groups of %v items, want %d each", counts, c.each)
		}
		for i := range n {
			for j := range i {
				now := gain[i*c.groups+of[i]] + gain[j*c.groups+of[j]]
				if swapped := gain[i*c.groups+of[j]] + gain[j*c.groups+of[i]]; swapped > now+1e-9 {
					t.Fatalf("%d groups: exchanging %d and %d gains %g", c.groups, i, j, swapped-now)
				}
			}
		}
		if !slices.Equal(of, balanced(gain, c.groups)) {
			t.Error("another result for the same gains")
		}
		clear(gain)
		for i := range n {
			gain[i*c.groups+i%c.groups] = 1
		}
		for i, g := range balanced(gain, c.groups) {
			if g != i%c.groups {
				t.Fatalf("item %d of %d is in group %d", i, n, g)
			}
		}
	}
}

// TestBalancedKMeans: rows around centres far from one another are groups.
func TestBalancedKMeans(t *testing.T) {
	const groups, each, width = 4, 9, 5
	rows := singles(uniformNumbers(3, groups*each*width))
	for i := range groups * each {
		rows[i*width+i%groups] += 100
	}
	of := balancedKMeans(rows, width, groups, 0)
	for i, g := range of {
		if g != of[i%groups] {
			t.Fatalf("row %d is not in the group of row %d: %v", i, i%groups, of)
		}
	}
	if !slices.Equal(of, balancedKMeans(rows, width, groups, 0)) {
		t.Error("another result for the same rows")
	}
}

// TestSolve: the solution solves the equations, in sizes around the blocks.
func TestSolve(t *testing.T) {
	for _, n := range []int{1, 2, 127, 128, 129, 300} {
		for _, cols := range []int{1, 3, 70} {
			a := uniformNumbers(uint64(n), n*n)
			m := make([]float64, n*n)
			for i := range n {
				for j := range n {
					for k := range n {
						m[i*n+j] += a[i*n+k] * a[j*n+k]
					}
				}
				m[i*n+i] += 1
			}
			b := uniformNumbers(uint64(cols), n*cols)
			x, factor := slices.Clone(b), slices.Clone(m)
			if err := cholesky(factor, n); err != nil {
				t.Fatal(err)
			}
			solve(factor, n, x, cols)
			for i := range n {
				for c := range cols {
					sum := 0.0
					for j := range n {
						sum += m[i*n+j] * x[j*cols+c]
					}
					if math.Abs(sum-b[i*cols+c]) > 1e-7 {
						t.Fatalf("n %d, %d columns: equation %d gives %g, want %g", n, cols, i, sum, b[i*cols+c])
					}
				}
			}
		}
	}
	if cholesky([]float64{0}, 1) == nil || cholesky([]float64{1, 2, 2, 1}, 2) == nil || cholesky([]float64{math.NaN()}, 1) == nil {
		t.Error("a matrix that is not positive definite has a factor")
	}
}

// exampleActivity is an MLP whose neurons fire for some directions of tokens.
func exampleActivity(tokens int) *activity {
	const width, hidden = 6, 24
	s := &activity{tokens: tokens, width: width, hidden: hidden, second: singles(uniformNumbers(9, hidden*width))}
	first, x := uniformNumbers(7, hidden*width), uniformNumbers(8, tokens*width)
	for n := range tokens {
		s.x = append(append(s.x, singles(x[n*width:][:width])...), 1)
		for j := range hidden {
			sum := -1.0
			for i := range width {
				sum += first[j*width+i] * x[n*width+i]
			}
			s.a = append(s.a, float32(max(sum, 0)))
		}
	}
	return s
}

// result computes what a split gives for the tokens, from its definition, and
// how far that is off.
func result(s *activity, f *split, experts, topK int) (loss float64) {
	each := s.hidden / experts
	z := logits(s.x, f.router, experts)
	squares, variance := 0.0, 0.0
	mean, whole := make([]float64, s.width), make([]float64, s.tokens*s.width)
	for n := range s.tokens {
		for j := range s.hidden {
			for i := range s.width {
				whole[n*s.width+i] += float64(s.a[n*s.hidden+j]) * float64(s.second[j*s.width+i])
			}
		}
		for i := range s.width {
			mean[i] += whole[n*s.width+i] / float64(s.tokens)
		}
	}
	for n := range s.tokens {
		y := make([]float64, s.width)
		for _, e := range largest(z[n*experts:][:experts], topK, nil) {
			for i := range y {
				if f.bias != nil {
					y[i] += f.bias[e*s.width+i]
				}
			}
			for p, j := range f.order[e*each:][:each] {
				for i := range y {
					w := s.second[j*s.width+i]
					if f.correction != nil {
						w += f.correction[(e*each+p)*s.width+i]
					}
					y[i] += float64(s.a[n*s.hidden+j]) * float64(w)
				}
			}
		}
		for i := range y {
			squares += (y[i] - whole[n*s.width+i]) * (y[i] - whole[n*s.width+i])
			variance += (whole[n*s.width+i] - mean[i]) * (whole[n*s.width+i] - mean[i])
		}
	}
	return squares / variance
}

// TestSplitFit: a fit divides all neurons, states the loss that it has, loses
// less than without corrections and nothing where all experts are chosen, and
// is the same every time.
func TestSplitFit(t *testing.T) {
	s := exampleActivity(700)
	for _, c := range []struct{ experts, topK int }{{1, 1}, {2, 1}, {4, 1}, {4, 2}, {4, 3}, {4, 4}, {24, 5}} {
		groups := make([]int, s.hidden)
		for i := range groups {
			groups[i] = i % c.experts
		}
		f, err := s.fit(groups, c.experts, c.topK)
		if err != nil {
			t.Fatal(err)
		}
		for i, j := range slices.Sorted(slices.Values(f.order)) {
			if i != j {
				t.Fatalf("the order %v is no permutation", f.order)
			}
		}
		loss := result(s, f, c.experts, c.topK)
		if math.Abs(loss-f.loss) > 1e-4 {
			t.Errorf("%+v: the loss is %g, the fit says %g", c, loss, f.loss)
		}
		if c.topK == c.experts && (loss > 1e-12 || f.correction != nil) {
			t.Errorf("%+v: all experts lose %g", c, loss)
		}
		if plain := result(s, &split{order: f.order, router: f.router}, c.experts, c.topK); loss > plain {
			t.Errorf("%+v: corrected the loss is %g, without %g", c, loss, plain)
		}
		again, err := s.fit(groups, c.experts, c.topK)
		if err != nil || !slices.Equal(again.order, f.order) || !slices.Equal(again.router, f.router) || !slices.Equal(again.correction, f.correction) {
			t.Errorf("%+v: another fit to the same data", c)
		}
	}
	s.a[3] = float32(math.NaN())
	if _, err := s.fit(make([]int, s.hidden), 1, 1); err == nil {
		t.Error("a fit to values that are not finite")
	}
	few := exampleActivity(1)
	if _, err := few.fit([]int{0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1}, 2, 1); err != nil {
		t.Errorf("one token: %v", err)
	}
}
