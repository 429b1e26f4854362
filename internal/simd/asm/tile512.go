package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// tile512 writes the kernel for processors with AVX-512. It reads what was
// packed for AVX2: a tile is two panels of columns, a register wide each, by
// two panels of rows or, at the end, what is left. Every sum has the same
// terms in the same order, hence the same bits, as AVX2's.
func tile512() {
	text("float32Tiles512", "(rows, depth int, a, b, c *float32, panel, stride int, add bool)",
		"[tiles] for two panels of columns, the second one panel elements behind the first.")
	t := operands512{
		operands: operands{
			rows: Load(Param("rows"), GP64()), depth: Load(Param("depth"), GP64()), a: Load(Param("a"), GP64()),
			b: Load(Param("b"), GP64()), c: Load(Param("c"), GP64()), stride: Load(Param("stride"), GP64()), add: Load(Param("add"), GP8()),
			left: GP64(), column: GP64(),
		},
		panel: Load(Param("panel"), GP64()), rowPanel: GP64(),
	}
	SHLQ(Imm(2), t.stride)
	SHLQ(Imm(2), t.panel)
	IMUL3Q(Imm(tileRows*4), t.depth, t.rowPanel)
	Label("next")
	const height = 2 * tileRows
	CMPQ(t.rows, U32(height))
	JGE(LabelRef(fmt.Sprintf("rows%d", height)))
	for n := height - 1; n > 0; n-- {
		CMPQ(t.rows, Imm(uint64(n)))
		JE(LabelRef(fmt.Sprintf("rows%d", n)))
	}
	end()
	for n := 1; n <= height; n++ {
		Label(fmt.Sprintf("rows%d", n))
		tile512Of(n, t)
		if n < height {
			end()
		}
	}
	SUBQ(U32(height), t.rows)
	JMP(LabelRef("next"))
}

// prefetchPage is how many bytes ahead the columns are fetched into the second
// cache: a page, beyond which processors do not look by themselves.
const prefetchPage = 4096

type operands512 struct {
	operands
	panel, rowPanel reg.Register // bytes of a panel of columns, and of rows
}

// tile512Of writes the loop for one number of rows. It moves a and c on.
func tile512Of(rows int, t operands512) {
	label := func(name string) string { return fmt.Sprintf("%s%d", name, rows) }
	const wide = 64 // bytes of a register
	t.eachRow(rows, func(_ int, row reg.Register) {
		for i := range 2 {
			PREFETCHT0(Mem{Base: row, Disp: i * wide})
		}
		PREFETCHT0(Mem{Base: row, Disp: 2*wide - 1})
	})
	// Registers are named, for avo takes zeroing by VPXORD as a use of what
	// was in them.
	columns, factors := [2]reg.VecPhysical{reg.Z0, reg.Z1}, [2]reg.VecPhysical{reg.Z2, reg.Z3}
	sums := [][2]reg.VecPhysical{{reg.Z4, reg.Z5}, {reg.Z6, reg.Z7}, {reg.Z8, reg.Z9}, {reg.Z10, reg.Z11},
		{reg.Z12, reg.Z13}, {reg.Z14, reg.Z15}, {reg.Z16, reg.Z17}, {reg.Z18, reg.Z19}, {reg.Z20, reg.Z21},
		{reg.Z22, reg.Z23}, {reg.Z24, reg.Z25}, {reg.Z26, reg.Z27}}[:rows]
	for _, row := range sums {
		for _, sum := range row {
			VPXORD(sum, sum, sum)
		}
	}
	at := func(base reg.Register, disp int, second bool, index reg.Register) Mem {
		m := Mem{Base: base, Disp: disp}
		if second {
			m.Index, m.Scale = index, 1
		}
		return m
	}
	steps := func(n int) {
		for l := range n {
			for j, column := range columns {
				if rows >= tileRows { // fewer wait for memory
					PREFETCHT0(at(t.column, l*wide+prefetch, j > 0, t.panel))
				}
				PREFETCHT1(at(t.column, l*wide+prefetchPage, j > 0, t.panel))
				VMOVUPS(at(t.column, l*wide, j > 0, t.panel), column)
			}
			for i := range rows {
				factor := factors[i%2]
				VBROADCASTSS(at(t.a, (l*tileRows+i%tileRows)*4, i >= tileRows, t.rowPanel), factor)
				for j, column := range columns {
					VFMADD231PS(column, factor, sums[i][j])
				}
			}
		}
		ADDQ(U32(n*tileRows*4), t.a)
		ADDQ(U32(n*wide), t.column)
		SUBQ(U32(n), t.left)
	}
	MOVQ(t.b, t.column)
	MOVQ(t.depth, t.left)
	byFours(label, t.left, steps)
	if rows > tileRows {
		ADDQ(t.rowPanel, t.a)
	}

	TESTB(t.add, t.add)
	JE(LabelRef(label("store")))
	t.eachRow(rows, func(i int, row reg.Register) {
		for j, sum := range sums[i] {
			VADDPS(Mem{Base: row, Disp: j * wide}, sum, sum)
		}
	})
	Label(label("store"))
	below := t.eachRow(rows, func(i int, row reg.Register) {
		for j, sum := range sums[i] {
			VMOVUPS(sum, Mem{Base: row, Disp: j * wide})
		}
	})
	MOVQ(below, t.c)
}
