package main

import (
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// expConstants are what exp needs, each filling a register; the names say
// where package simd has them.
type expConstants struct {
	highest, lowest, log2e, ln2High, ln2Low, one, bias Mem
	polynomial                                         []Mem // the highest power first
}

func newExpConstants() *expConstants {
	global := GLOBL("expConstants", RODATA|NOPTR)
	offset := 0
	fill := func(v Constant) Mem {
		m := global.Offset(offset)
		for range lanes {
			DATA(offset, v)
			offset += 4
		}
		return m
	}
	const ln2High = 0.693359375
	c := &expConstants{
		highest: fill(F32(89)), lowest: fill(F32(-104)), // where e^x is ∞ and 0
		log2e: fill(F32(math.Log2E)), ln2High: fill(F32(ln2High)), ln2Low: fill(F32(math.Ln2 - ln2High)),
		one: fill(F32(1)), bias: fill(U32(127)),
	}
	for _, p := range []float32{1.3950602e-3, 8.3689535e-3, 4.1666206e-2, 1.6666518e-1, 0.5} {
		c.polynomial = append(c.polynomial, fill(F32(p)))
	}
	return c
}

// exp replaces the elements of a register by their exponentials.
func exp(x reg.VecVirtual, c *expConstants) {
	// An element that is not a number stays as it is: it is the operand that
	// minimum and maximum return then.
	limit := YMM()
	VMOVUPS(c.highest, limit)
	VMINPS(x, limit, x)
	VMOVUPS(c.lowest, limit)
	VMAXPS(x, limit, x)
	whole := YMM()
	VMULPS(c.log2e, x, whole)
	VROUNDPS(Imm(8), whole, whole) // to the nearest
	VFNMADD231PS(c.ln2High, whole, x)
	VFNMADD231PS(c.ln2Low, whole, x)
	p := YMM()
	VMOVUPS(c.polynomial[0], p)
	for _, next := range c.polynomial[1:] {
		VFMADD213PS(next, x, p)
	}
	square := YMM()
	VMULPS(x, x, square)
	VFMADD213PS(x, square, p)
	VADDPS(c.one, p, x)
	// 2^whole may lie outside float32 where e^x does not: apply it in halves.
	half := YMM()
	VCVTPS2DQ(whole, whole)
	VPSRAD(Imm(1), whole, half)
	VPSUBD(half, whole, whole)
	for _, k := range []reg.VecVirtual{half, whole} {
		VPADDD(c.bias, k, k)
		VPSLLD(Imm(23), k, k)
		VMULPS(k, x, x)
	}
}

func expKernel() {
	constants := newExpConstants()
	TEXT("float32Exp", NOSPLIT, "func(x *float32, n int)")
	Pragma("noescape")
	Doc("float32Exp is [Exp] for n elements, a multiple of 8.")
	x := Load(Param("x"), GP64())
	n := Load(Param("n"), GP64())
	loops(n, 2, func(registers int) {
		for i := range registers {
			v := YMM()
			VMOVUPS(Mem{Base: x, Disp: i * register}, v)
			exp(v, constants)
			VMOVUPS(v, Mem{Base: x, Disp: i * register})
		}
		ADDQ(U32(registers*register), x)
		SUBQ(U32(registers*lanes), n)
	})
	VZEROUPPER()
	RET()
}
