package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// row writes the product of one row with panels of columns. It is bound by
// the memory that it streams through, which the processor's own prefetching
// does best, from two panels at a time. It keeps sums of a block of the depth,
// as the tiles of taller products do.
func row() {
	text("float32Row", "(depth, block, panels int, a, b, c *float32)",
		"the product of a row and panels that lie one behind the other, summed up block by block of the depth.")
	depth, block := Load(Param("depth"), GP64()), Load(Param("block"), GP64())
	panels := Load(Param("panels"), GP64())
	a, b, c := Load(Param("a"), GP64()), Load(Param("b"), GP64()), Load(Param("c"), GP64())
	panel := GP64()
	MOVQ(depth, panel)
	SHLQ(Imm(6), panel) // bytes
	Label("two")
	CMPQ(panels, Imm(2))
	JL(LabelRef("one"))
	rowOf("two", 2, depth, block, panel, a, b, c)
	SUBQ(Imm(2), panels)
	JMP(LabelRef("two"))
	Label("one")
	TESTQ(panels, panels)
	JE(LabelRef("end"))
	rowOf("one", 1, depth, block, panel, a, b, c)
	Label("end")
	end()
}

// rowOf writes the loop over a number of panels. It moves b and c on.
func rowOf(prefix string, panels int, depth, block, panel, a, b, c reg.Register) {
	const width = 2 // registers of a panel's row
	totals, sums := make([]vector, width*panels), make([]vector, width*panels)
	clear := func(list []vector) {
		for _, x := range list {
			VXORPS(x, x, x)
		}
	}
	for i := range totals {
		totals[i], sums[i] = YMM(), YMM()
	}
	left, inBlock, factors := GP64(), GP64(), GP64()
	MOVQ(depth, left)
	MOVQ(a, factors)
	clear(totals)

	Label(prefix + "Block")
	MOVQ(block, inBlock)
	CMPQ(left, inBlock)
	CMOVQLT(left, inBlock)
	SUBQ(inBlock, left)
	clear(sums)
	step := func(n int) {
		for l := range n {
			factor := YMM()
			VBROADCASTSS(Mem{Base: factors, Disp: 4 * l}, factor)
			for i := range sums {
				at := Mem{Base: b, Disp: (l*width + i%width) * register}
				if i >= width {
					at.Index, at.Scale = panel, 1
				}
				VFMADD231PS(at, factor, sums[i])
			}
		}
		ADDQ(U32(4*n), factors)
		ADDQ(U32(n*width*register), b)
		SUBQ(U32(n), inBlock)
	}
	byFours(func(name string) string { return prefix + "_" + name }, inBlock, step)
	for i := range sums {
		VADDPS(sums[i], totals[i], totals[i])
	}
	TESTQ(left, left)
	JNE(LabelRef(prefix + "Block"))

	for i, x := range totals {
		VMOVUPS(x, Mem{Base: c, Disp: i * register})
	}
	ADDQ(U32(len(totals)*register), c)
	for range panels - 1 {
		ADDQ(panel, b)
	}
}
