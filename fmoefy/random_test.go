package fmoefy

import (
	"math"
	"testing"
)

// TestNormals compares the moments of a stream with those of the normal
// distribution, within five standard errors.
func TestNormals(t *testing.T) {
	const n = 1 << 18
	x := make([]float64, n)
	newNormals(1, "experts").fill(x, 0)
	for power, want := range map[int]struct{ mean, variance float64 }{1: {0, 1}, 2: {1, 2}, 3: {0, 15}, 4: {3, 96}} {
		mean := 0.0
		for _, v := range x {
			mean += math.Pow(v, float64(power)) / n
		}
		if math.Abs(mean-want.mean) > 5*math.Sqrt(want.variance/n) {
			t.Errorf("mean of x^%d is %g, want %g", power, mean, want.mean)
		}
	}
}

// TestNormalsAreIndependent: a number depends on seed, stream and place alone.
func TestNormalsAreIndependent(t *testing.T) {
	all := make([]float64, 1000)
	newNormals(7, "a").fill(all, 0)
	part := make([]float64, 501)
	newNormals(7, "a").fill(part, 400)
	for i, v := range part {
		if v != all[400+i] {
			t.Fatalf("number %d is %g alone and %g in a longer row", 400+i, v, all[400+i])
		}
	}
	for name, g := range map[string]normals{"seed": newNormals(8, "a"), "stream": newNormals(7, "b")} {
		other := make([]float64, 1000)
		g.fill(other, 0)
		correlation := 0.0
		for i := range all {
			correlation += all[i] * other[i] / 1000
		}
		if math.Abs(correlation) > 5/math.Sqrt(1000) {
			t.Errorf("another %s gives numbers of correlation %g", name, correlation)
		}
	}
}
