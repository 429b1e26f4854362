package fmoefy

import (
	"math"
	"testing"
)

// TestPhilox has the known answers that come with the generator's reference
// implementation, Random123.
func TestPhilox(t *testing.T) {
	for _, c := range []struct {
		counter [4]uint32
		key     [2]uint32
		want    [4]uint32
	}{
		{[4]uint32{}, [2]uint32{},
			[4]uint32{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
		{[4]uint32{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, [2]uint32{0xffffffff, 0xffffffff},
			[4]uint32{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
		{[4]uint32{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, [2]uint32{0xa4093822, 0x299f31d0},
			[4]uint32{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
	} {
		if got := philox(c.counter, c.key); got != c.want {
			t.Errorf("philox(%x, %x) = %x, want %x", c.counter, c.key, got, c.want)
		}
	}
}

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
