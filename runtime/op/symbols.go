package op

import (
	"fmt"
	"math"
	"slices"
)

// Symbols makes symbols that differ from one another. Sums and products of
// the same symbols are the same symbol.
type Symbols struct {
	last     Dim
	sums     map[[2]Dim]Dim
	terms    map[Dim][2]Dim
	products map[string]Dim
	factors  map[Dim]monomial
	limits   map[[2]Dim]Dim // min(symbol, number)
	limited  map[Dim]Dim    // the symbol in it
}

// monomial is a product of a number and symbols, which are sorted.
type monomial struct {
	number  Dim
	symbols []Dim
}

// maxFactors bounds the symbols of a product that is told from others.
const maxFactors = 8

// Fresh returns a symbol that equals no other.
func (s *Symbols) Fresh() Dim {
	s.last--
	return s.last
}

// sum returns the symbol for the sum of two dimensions, of which one at least
// is a symbol.
func (s *Symbols) sum(a, b Dim) Dim {
	key := [2]Dim{min(a, b), max(a, b)}
	if d, ok := s.sums[key]; ok {
		return d
	}
	if s.sums == nil {
		s.sums, s.terms = map[[2]Dim]Dim{}, map[Dim][2]Dim{}
	}
	d := s.Fresh()
	s.sums[key], s.terms[d] = d, key
	return d
}

// limit returns the symbol for the smaller one of a symbol and a number that
// is at least 1.
func (s *Symbols) limit(d, number Dim) Dim {
	key := [2]Dim{d, number}
	if m, ok := s.limits[key]; ok {
		return m
	}
	if s.limits == nil {
		s.limits, s.limited = map[[2]Dim]Dim{}, map[Dim]Dim{}
	}
	m := s.Fresh()
	s.limits[key], s.limited[m] = m, d
	return m
}

// difference returns what must be added to b for a, where a is known as a sum
// with b.
func (s *Symbols) difference(a, b Dim) (Dim, bool) {
	if a == b {
		return 0, true
	}
	terms, ok := s.terms[a]
	switch {
	case ok && terms[0] == b:
		return terms[1], true
	case ok && terms[1] == b:
		return terms[0], true
	}
	return 0, false
}

// product returns the product of dimensions that do not overflow.
func (s *Symbols) product(dims ...Dim) Dim {
	m := monomial{number: 1}
	for _, d := range dims {
		f := s.monomial(d)
		if f.number != 0 && m.number > math.MaxInt/f.number {
			return math.MaxInt
		}
		m.number *= f.number
		m.symbols = append(m.symbols, f.symbols...)
	}
	switch {
	case m.number == 0 || len(m.symbols) == 0:
		return m.number
	case len(m.symbols) == 1 && m.number == 1:
		return m.symbols[0]
	case len(m.symbols) > maxFactors:
		return s.Fresh()
	}
	slices.Sort(m.symbols)
	key := fmt.Sprint(m)
	if d, ok := s.products[key]; ok {
		return d
	}
	if s.products == nil {
		s.products, s.factors = map[string]Dim{}, map[Dim]monomial{}
	}
	d := s.Fresh()
	s.products[key], s.factors[d] = d, m
	return d
}

func (s *Symbols) monomial(d Dim) monomial {
	if d.Known() {
		return monomial{number: d}
	}
	if m, ok := s.factors[d]; ok {
		return m
	}
	return monomial{number: 1, symbols: []Dim{d}}
}

// quotient divides the product of dims a by that of b, neither of which is
// known to be 0, where symbols cancel out. ok is false where they do not, or
// where the numbers do not divide.
func (s *Symbols) quotient(a, b []Dim) (d Dim, ok bool) {
	m, divisor := monomial{number: 1}, monomial{number: 1}
	for _, d := range a {
		f := s.monomial(d)
		m.number, m.symbols = m.number*f.number, append(m.symbols, f.symbols...)
	}
	for _, d := range b {
		f := s.monomial(d)
		divisor.number, divisor.symbols = divisor.number*f.number, append(divisor.symbols, f.symbols...)
	}
	for _, d := range divisor.symbols {
		at := slices.Index(m.symbols, d)
		if at < 0 {
			return 0, false
		}
		m.symbols = slices.Delete(m.symbols, at, at+1)
	}
	if divisor.number <= 0 || m.number <= 0 || m.number%divisor.number != 0 {
		return 0, false
	}
	return s.product(append(m.symbols, m.number/divisor.number)...), true
}
