package benchmodel

import (
	"encoding/binary"
	"io"
	"math"
	"sync"
)

// normal is the source of count float32 numbers that are normally distributed
// about mean. Equal seeds give equal numbers.
type normal struct {
	count     int64
	seed      uint64
	mean, std float32
}

func (s *normal) Size() int64 { return 4 * s.count }

// WriteTo implements [onnx.Source].
func (s *normal) WriteTo(w io.Writer) (int64, error) {
	table := quantiles()
	buffer := make([]byte, 1<<18)
	state, written := s.seed*0x9e3779b97f4a7c15+1, int64(0)
	for written < s.Size() {
		piece := buffer[:min(int64(len(buffer)), s.Size()-written)]
		for i := 0; i < len(piece); i += 4 {
			state ^= state << 13 // xorshift
			state ^= state >> 7
			state ^= state << 17
			x := s.mean + s.std*table[state>>(64-quantileBits)]
			binary.LittleEndian.PutUint32(piece[i:], math.Float32bits(x))
		}
		n, err := w.Write(piece)
		written += int64(n)
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

const quantileBits = 16

// quantiles are those of the standard normal distribution, evenly spaced.
// Drawing from them is as fast as writing the file.
var quantiles = sync.OnceValue(func() []float32 {
	table := make([]float32, 1<<quantileBits)
	for i := range table {
		p := (float64(i) + 0.5) / float64(len(table))
		table[i] = float32(math.Sqrt2 * math.Erfinv(2*p-1))
	}
	return table
})
