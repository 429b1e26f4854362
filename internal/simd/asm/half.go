package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
)

// halfConversions writes the conversions from and to 16-bit floats. They are
// exact or rounded as IEEE 754 says, here as in portable Go, which does what is
// left after whole registers.
func halfConversions() {
	const toFloat32, fromFloat32 = "(dst []float32, src []uint16)", "(dst []uint16, src []float32)"

	conversion("float16ToFloat32", toFloat32, 2, 4, func(src, dst Mem) {
		v := YMM()
		VCVTPH2PS(src, v)
		VMOVUPS(v, dst)
	})
	conversion("float32ToFloat16", fromFloat32, 4, 2, func(src, dst Mem) {
		const nearestEven = 0
		VCVTPS2PH(Imm(nearestEven), load(src), dst)
	})
	conversion("bfloat16ToFloat32", toFloat32, 2, 4, func(src, dst Mem) {
		v := YMM()
		VPMOVZXWD(src, v)
		VPSLLD(Imm(16), v, v)
		VMOVUPS(v, dst)
	})
	conversion("float32ToBFloat16", fromFloat32, 4, 2, func(src, dst Mem) {
		x := load(src)
		upper, odd, rounded, isNaN, high := YMM(), YMM(), YMM(), YMM(), XMM()
		VPSRLD(Imm(16), x, upper)
		VPAND(constantBits(1), upper, odd)
		VPADDD(constantBits(0x7fff), x, rounded)
		VPADDD(odd, rounded, rounded)
		VPSRLD(Imm(16), rounded, rounded)
		VPOR(constantBits(0x40), upper, upper) // a quiet NaN, whatever is cut off
		const unordered = 3
		VCMPPS(Imm(unordered), x, x, isNaN)
		VBLENDVPS(isNaN, upper, rounded, rounded)
		VEXTRACTI128(Imm(1), rounded, high)
		VPACKUSDW(high, rounded.AsX(), high)
		VMOVDQU(high, dst)
	})
}

// conversion writes a loop over the whole registers of src, whose elements have
// the size from and become those of size to.
func conversion(name, signature string, from, to uint8, eight func(src, dst Mem)) {
	text(name, signature, "the conversion of as many elements as src has, but for the last few beyond a multiple of 8.")
	n := Load(Param("src").Len(), GP64())
	src := Mem{Base: Load(Param("src").Base(), GP64()), Index: GP64(), Scale: from}
	dst := Mem{Base: Load(Param("dst").Base(), GP64()), Index: src.Index, Scale: to}
	XORQ(src.Index, src.Index)
	step := func(registers int) {
		for i := range registers {
			eight(src.Offset(i*lanes*int(from)), dst.Offset(i*lanes*int(to)))
		}
		ADDQ(U32(registers*lanes), src.Index)
		SUBQ(U32(registers*lanes), n)
	}
	const unroll = 4
	Label("many")
	CMPQ(n, U32(unroll*lanes))
	JL(LabelRef("one"))
	step(unroll)
	JMP(LabelRef("many"))
	Label("one")
	CMPQ(n, U32(lanes))
	JL(LabelRef("done"))
	step(1)
	JMP(LabelRef("one"))
	Label("done")
	end()
}
