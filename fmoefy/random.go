package fmoefy

import (
	"hash/fnv"
	"sync"

	"github.com/fmoe-go/fmoe/internal/random"
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
	for i := 0; i < len(dst); i += 4 {
		quad := random.Normal(g.bits((first + uint64(i)) / 4))
		copy(dst[i:], quad[:])
	}
}

// bits returns uniformly distributed numbers.
func (g normals) bits(at uint64) [4]uint32 {
	return random.Philox([4]uint32{uint32(at), uint32(at >> 32), uint32(g.stream), uint32(g.stream >> 32)},
		[2]uint32{uint32(g.seed), uint32(g.seed >> 32)})
}
