package fmoefy

import (
	"hash/fnv"
	"math"
	"math/bits"
	"sync"
)

// normals is a stream of normally distributed numbers in which each number
// depends on the seed, the stream's name and its own place alone, so that the
// order in which streams are read does not matter.
type normals struct {
	seed, stream uint64
}

func newNormals(seed uint64, name string) normals {
	h := fnv.New64a()
	h.Write([]byte(name))
	return normals{seed, h.Sum64()}
}

// fill writes the numbers from place first on, a multiple of 4, on all
// processors.
func (g normals) fill(dst []float64, first uint64) {
	const share = 1 << 14
	var all sync.WaitGroup
	for start := 0; start < len(dst); start += share {
		part := dst[start:min(start+share, len(dst))]
		all.Go(func() { g.fillSerially(part, first+uint64(start)) })
	}
	all.Wait()
}

func (g normals) fillSerially(dst []float64, first uint64) {
	key := [2]uint32{uint32(g.seed), uint32(g.seed >> 32)}
	for i := 0; i < len(dst); i += 4 {
		at := (first + uint64(i)) / 4
		r := philox([4]uint32{uint32(at), uint32(at >> 32), uint32(g.stream), uint32(g.stream >> 32)}, key)
		var quad [4]float64
		quad[0], quad[1] = boxMuller(r[0], r[1])
		quad[2], quad[3] = boxMuller(r[2], r[3])
		copy(dst[i:], quad[:])
	}
}

// boxMuller turns two uniformly distributed numbers into two normally
// distributed ones.
func boxMuller(a, b uint32) (float64, float64) {
	radius := math.Sqrt(-2 * math.Log((float64(a)+0.5)/(1<<32)))
	sin, cos := math.Sincos(2 * math.Pi * (float64(b) + 0.5) / (1 << 32))
	return radius * cos, radius * sin
}

// philox is Philox4x32-10, the counter-based generator of Salmon et al.,
// "Parallel Random Numbers: As Easy as 1, 2, 3" (2011).
func philox(counter [4]uint32, key [2]uint32) [4]uint32 {
	for range 10 {
		hi0, lo0 := bits.Mul32(0xd2511f53, counter[0])
		hi1, lo1 := bits.Mul32(0xcd9e8d57, counter[2])
		counter = [4]uint32{hi1 ^ counter[1] ^ key[0], lo1, hi0 ^ counter[3] ^ key[1], lo0}
		key[0] += 0x9e3779b9
		key[1] += 0xbb67ae85
	}
	return counter
}
