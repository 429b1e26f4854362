package dataset

import (
	"math"

	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// Summary describes the elements of a tensor.
type Summary struct {
	Min, Max, Mean float64 // of the finite elements
	NotFinite      int     // infinities and NaN
}

// Summarize looks at all elements. It returns false for a tensor that has no
// numbers, or none that are finite.
func Summarize(t *tensor.Tensor) (Summary, bool) {
	values, err := tensor.Float64s(t)
	if err != nil {
		return Summary{}, false
	}
	s := Summary{Min: math.Inf(1), Max: math.Inf(-1)}
	finite := 0
	for _, x := range values {
		if math.IsInf(x, 0) || math.IsNaN(x) {
			s.NotFinite++
			continue
		}
		finite++
		s.Min, s.Max = min(s.Min, x), max(s.Max, x)
		s.Mean += (x - s.Mean) / float64(finite)
	}
	return s, finite > 0
}

// Largest returns the largest magnitude of an element.
func (s Summary) Largest() float64 { return max(math.Abs(s.Min), math.Abs(s.Max)) }
