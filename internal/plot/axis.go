package plot

import (
	"math"
	"strconv"
	"strings"
)

// axis maps numbers to a length.
type axis struct {
	low, high float64
	log       bool
}

// newAxis returns an axis that has all numbers; of a logarithmic one they are
// above 0. ok is false where there is none.
func newAxis(log, zero bool, margin float64, numbers ...[]float64) (a axis, ok bool) {
	a = axis{math.Inf(1), math.Inf(-1), log}
	for _, list := range numbers {
		for _, x := range list {
			if a.has(x) {
				a.low, a.high = min(a.low, x), max(a.high, x)
			}
		}
	}
	if a.low > a.high {
		return a, false
	}
	if log {
		if a.high < 1.2*a.low {
			a.low, a.high = a.low/1.1, a.high*1.1
		}
		room := math.Pow(a.high/a.low, margin)
		a.low, a.high = a.low/room, a.high*room
		return a, true
	}
	if zero && a.low >= 0 {
		a.low = 0
		a.high += margin * a.high
	} else {
		room := margin * (a.high - a.low)
		a.low, a.high = a.low-room, a.high+room
	}
	if size := max(math.Abs(a.low), math.Abs(a.high)); a.high-a.low <= 1e-9*size || size == 0 {
		room := max(size/10, 1e-9)
		if size == 0 {
			room = 1
		}
		if a.high += room; !zero {
			a.low -= room
		}
	}
	return a, true
}

// mostNumber bounds what is drawn, so that ranges are finite.
const mostNumber = 1e150

// has reports whether a number can be drawn.
func (a axis) has(x float64) bool {
	return math.Abs(x) <= mostNumber && (!a.log || x >= 1/mostNumber)
}

// at returns where a number is, from 0 to 1.
func (a axis) at(x float64) float64 {
	if a.log {
		return math.Log(x/a.low) / math.Log(a.high/a.low)
	}
	return (x - a.low) / (a.high - a.low)
}

// maxTicks is more than an axis has.
const maxTicks = 20

// ticks returns about so many round numbers within the axis.
func (a axis) ticks(about int) (ticks []float64) {
	if a.log && a.high >= 4*a.low {
		return a.logTicks(about)
	}
	step := round((a.high - a.low) / float64(about))
	for i := range maxTicks {
		x := (math.Ceil(a.low/step) + float64(i)) * step
		if x > a.high {
			break
		}
		ticks = append(ticks, x)
	}
	return ticks
}

// logTicks returns powers of ten, or 1, 2 and 5 times them where those are few.
func (a axis) logTicks(about int) (ticks []float64) {
	first, last := int(math.Floor(math.Log10(a.low))), int(math.Ceil(math.Log10(a.high)))
	factors := []float64{1}
	if last-first <= 3 {
		factors = []float64{1, 2, 5}
	}
	every := max(1, (last-first)/about)
	for e := first; e <= last; e += every {
		for _, f := range factors {
			if x := f * math.Pow(10, float64(e)); x >= a.low && x <= a.high {
				ticks = append(ticks, x)
			}
		}
	}
	return ticks
}

// round returns the next number that is 1, 2 or 5 times a power of ten.
func round(x float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(x)))
	for _, f := range []float64{1, 2, 5} {
		if f*power >= x {
			return f * power
		}
	}
	return 10 * power
}

// labels writes ticks, all with the same unit and number of decimals.
func labels(ticks []float64) []string {
	size := 0.0
	for _, x := range ticks {
		size = max(size, math.Abs(x))
	}
	unit, factor := "", 1.0
	switch {
	case size == 0:
	case size >= 1e12 || size < 1e-3:
		return each(ticks, func(x float64) string { return strconv.FormatFloat(x, 'g', 3, 64) })
	case size >= 1e9:
		unit, factor = "G", 1e9
	case size >= 2e6:
		unit, factor = "M", 1e6
	case size >= 1e4:
		unit, factor = "k", 1e3
	}
	return each(ticks, func(x float64) string {
		if x == 0 {
			return "0"
		}
		s := strconv.FormatFloat(x/factor, 'f', 6, 64)
		return strings.TrimSuffix(strings.TrimRight(s, "0"), ".") + unit
	})
}

func each(numbers []float64, f func(float64) string) []string {
	s := make([]string, len(numbers))
	for i, x := range numbers {
		s[i] = f(x)
	}
	return s
}
