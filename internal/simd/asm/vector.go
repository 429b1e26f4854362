package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// lanes is the number of float32 elements in a register.
const lanes = register / 4

func axpy() {
	TEXT("float32Axpy", NOSPLIT, "func(alpha float32, x, y *float32, n int)")
	Pragma("noescape")
	Doc("float32Axpy is [Axpy] for n elements, a multiple of 8.")
	alpha := YMM()
	VBROADCASTSS(NewParamAddr("alpha", 0), alpha)
	x := Load(Param("x"), GP64())
	y := Load(Param("y"), GP64())
	n := Load(Param("n"), GP64())
	step := func(registers int) {
		for i := range registers {
			sum := YMM()
			VMOVUPS(Mem{Base: y, Disp: i * register}, sum)
			VFMADD231PS(Mem{Base: x, Disp: i * register}, alpha, sum)
			VMOVUPS(sum, Mem{Base: y, Disp: i * register})
		}
		ADDQ(U32(registers*register), x)
		ADDQ(U32(registers*register), y)
		SUBQ(U32(registers*lanes), n)
	}
	loops(n, 4, step)
	VZEROUPPER()
	RET()
}

func dot() {
	TEXT("float32Dot", NOSPLIT, "func(x, y *float32, n int) float32")
	Pragma("noescape")
	Doc("float32Dot is [Dot] for n elements, a multiple of 8, as 32 interleaved sums.")
	x := Load(Param("x"), GP64())
	y := Load(Param("y"), GP64())
	n := Load(Param("n"), GP64())
	sums := make([]reg.VecVirtual, 4)
	for i := range sums {
		sums[i] = YMM()
		VXORPS(sums[i], sums[i], sums[i])
	}
	step := func(registers int) {
		for i := range registers {
			v := YMM()
			VMOVUPS(Mem{Base: x, Disp: i * register}, v)
			VFMADD231PS(Mem{Base: y, Disp: i * register}, v, sums[i])
		}
		ADDQ(U32(registers*register), x)
		ADDQ(U32(registers*register), y)
		SUBQ(U32(registers*lanes), n)
	}
	loops(n, 4, step)
	VADDPS(sums[2], sums[0], sums[0])
	VADDPS(sums[3], sums[1], sums[1])
	VADDPS(sums[1], sums[0], sums[0])
	high := XMM()
	low := sums[0].AsX()
	VEXTRACTF128(Imm(1), sums[0], high)
	VADDPS(high, low, low)
	VHADDPS(low, low, low)
	VHADDPS(low, low, low)
	Store(low, ReturnIndex(0))
	VZEROUPPER()
	RET()
}

// loops calls step for as many registers at a time as unroll says while n
// elements have that many left, and then for one.
func loops(n reg.Register, unroll int, step func(registers int)) {
	Label("many")
	CMPQ(n, U32(unroll*lanes))
	JL(LabelRef("one"))
	step(unroll)
	JMP(LabelRef("many"))
	Label("one")
	TESTQ(n, n)
	JE(LabelRef("done"))
	step(1)
	JMP(LabelRef("one"))
	Label("done")
}
