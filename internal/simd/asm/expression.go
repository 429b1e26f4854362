package main

import (
	"fmt"
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

type vector = reg.VecVirtual

var constants = map[uint32]Mem{}

// constant returns a register's width of memory that holds v in every lane.
func constant(v float64) Mem { return constantBits(math.Float32bits(float32(v))) }

func constantBits(bits uint32) Mem {
	m, ok := constants[bits]
	if !ok {
		m = GLOBL(fmt.Sprintf("lanes%08x", bits), RODATA|NOPTR)
		for i := range lanes {
			DATA(4*i, U32(bits))
		}
		constants[bits] = m
	}
	return m
}

// The following return a new register, so that formulas can be written as
// expressions. The first operand is a register, others may be memory.

func load(m Op) vector {
	v := YMM()
	VMOVUPS(m, v)
	return v
}

func apply(instruction func(...Op), a vector, b Op) vector {
	v := YMM()
	instruction(b, a, v)
	return v
}

func add(a vector, b Op) vector      { return apply(VADDPS, a, b) }
func subtract(a vector, b Op) vector { return apply(VSUBPS, a, b) }
func multiply(a vector, b Op) vector { return apply(VMULPS, a, b) }
func divide(a vector, b Op) vector   { return apply(VDIVPS, a, b) }
func and(a vector, b Op) vector      { return apply(VANDPS, a, b) }
func or(a vector, b Op) vector       { return apply(VORPS, a, b) }

// atLeast and atMost return max(x, bound) and min(x, bound). NaN stays NaN: it
// is the second operand that is returned where any is not a number.
func atLeast(x vector, bound float64) vector { return apply(VMAXPS, load(constant(bound)), x) }
func atMost(x vector, bound float64) vector  { return apply(VMINPS, load(constant(bound)), x) }

// horner returns the value at x of the polynomial with the given coefficients,
// that of the highest power first.
func horner(x vector, coefficients ...float64) vector {
	p := load(constant(coefficients[0]))
	for _, c := range coefficients[1:] {
		VFMADD213PS(constant(c), x, p)
	}
	return p
}

// broadcast returns the float32 parameter in every lane.
func broadcast(parameter string) vector {
	p, err := Param(parameter).Resolve()
	if err != nil {
		panic(err)
	}
	v := YMM()
	VBROADCASTSS(p.Addr, v)
	return v
}
