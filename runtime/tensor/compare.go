package tensor

import (
	"fmt"
	"math"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
)

// Difference is how far two tensors are apart.
type Difference struct {
	MaxAbs float64 // largest |got − want|
	MaxRel float64 // largest |got − want| / |want| where want is not 0
	// Failures counts the elements outside the tolerance; Worst is the index
	// of the one furthest outside it, in row-major order, −1 when there is
	// none.
	Failures, Worst int
	Got, Want       float64 // the worst element, where it is a number
}

// Compare measures the difference of got from want. An element is within
// tolerance when |got − want| ≤ atol + rtol·|want|; NaN equals NaN, and equal
// infinities are equal. Integers, booleans and strings are compared with the
// same rule. The error says that type or shape differ.
func Compare(got, want *Tensor, rtol, atol float64) (Difference, error) {
	d := Difference{Worst: -1}
	if got.Type != want.Type || !slices.Equal(got.Shape, want.Shape) {
		return d, fmt.Errorf("is %s, expected %s", got, want)
	}
	if want.Type == onnx.String {
		for i, s := range want.Strings {
			if got.Strings[i] != s {
				if d.Failures++; d.Worst < 0 {
					d.Worst = i
				}
			}
		}
		return d, nil
	}
	g, err := Float64s(got)
	if err != nil {
		return d, err
	}
	w, err := Float64s(want)
	if err != nil {
		return d, err
	}
	excess := 0.0
	for i := range w {
		if g[i] == w[i] || math.IsNaN(g[i]) && math.IsNaN(w[i]) {
			continue
		}
		diff := math.Abs(g[i] - w[i])
		if math.IsNaN(diff) {
			diff = math.Inf(1)
		}
		d.MaxAbs = max(d.MaxAbs, diff)
		if w[i] != 0 {
			d.MaxRel = max(d.MaxRel, diff/math.Abs(w[i]))
		}
		if over := diff - (atol + rtol*math.Abs(w[i])); over > 0 || math.IsNaN(over) {
			d.Failures++
			if d.Worst < 0 || over > excess {
				excess, d.Worst, d.Got, d.Want = over, i, g[i], w[i]
			}
		}
	}
	return d, nil
}

// Index turns a position in row-major order into one index for each
// dimension.
func Index(shape []int, at int) []int {
	index := make([]int, len(shape))
	for i := len(shape) - 1; i >= 0; i-- {
		if shape[i] > 0 {
			index[i] = at % shape[i]
			at /= shape[i]
		}
	}
	return index
}
