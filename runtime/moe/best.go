package moe

import "math"

// bar is what the best of many tokens surpass: a number that they exceed, and
// how many that equal it are let through, those that come first.
type bar struct {
	order uint64
	equal int
}

// best returns the bar of the count largest of n values. A value that is not
// a number counts as smallest, one that value says is none of them does not
// count; there must be count others. It counts the values by their digits, so
// that the time is in proportion to n whatever they are.
func best(n, count int, value func(i int) (x float64, ok bool)) bar {
	b := bar{equal: count}
	if count <= 0 {
		return bar{order: math.MaxUint64}
	}
	for shift := 56; shift >= 0; shift -= 8 {
		var digits [256]int
		for i := range n {
			if x, ok := value(i); ok {
				if o := order(x); shift == 56 || o>>(shift+8) == b.order {
					digits[o>>shift&0xff]++
				}
			}
		}
		digit := 255
		for digit > 0 && digits[digit] < b.equal {
			b.equal -= digits[digit]
			digit--
		}
		b.order = b.order<<8 | uint64(digit)
	}
	return b
}

// admits reports whether a value is one of the best. It is to be asked once
// for each, in their order, which decides among equal ones.
func (b *bar) admits(x float64) bool {
	switch o := order(x); {
	case o > b.order:
		return true
	case o < b.order || b.equal == 0:
		return false
	}
	b.equal--
	return true
}

// order maps numbers to integers of the same order.
func order(x float64) uint64 {
	if x != x {
		return 0
	}
	bits := math.Float64bits(x + 0) // −0 becomes 0
	if bits>>63 != 0 {
		return ^bits
	}
	return bits | 1<<63
}
