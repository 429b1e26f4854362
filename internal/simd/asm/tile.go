package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// tileRows is the height of a tile. Two registers wide, its twelve sums leave
// two registers for the columns and two for the rows.
const tileRows = 6

// prefetch is how many bytes ahead the columns are fetched, which are read
// only once while rows stay in the first cache.
const prefetch = 512

// tile writes the kernel of a tile's first rows: a loop for each number of
// rows, so that a product of few rows does not compute the others.
func tile(e elements) {
	TEXT(e.name+"Tile", NOSPLIT, fmt.Sprintf("func(rows, depth int, a, b, c *%s, stride int, add bool)", e.name))
	Pragma("noescape")
	Doc(fmt.Sprintf("%sTile is [tile] for 1 to %d rows.", e.name, tileRows))
	rows := Load(Param("rows"), GP64())
	t := operands{
		depth: Load(Param("depth"), GP64()), a: Load(Param("a"), GP64()), b: Load(Param("b"), GP64()),
		c: Load(Param("c"), GP64()), stride: Load(Param("stride"), GP64()), add: Load(Param("add"), GP8()),
	}
	IMUL3Q(Imm(uint64(e.size)), t.stride, t.stride)
	for n := tileRows; n > 1; n-- {
		CMPQ(rows, Imm(uint64(n)))
		JE(LabelRef(fmt.Sprintf("rows%d", n)))
	}
	for n := 1; n <= tileRows; n++ {
		Label(fmt.Sprintf("rows%d", n))
		tileOf(e, n, t)
	}
}

// operands are the registers that hold a tile's arguments.
type operands struct{ depth, a, b, c, stride, add reg.Register }

// tileOf writes the loop for one number of rows, to the function's end.
func tileOf(e elements, rows int, t operands) {
	label := func(name string) string { return fmt.Sprintf("%s%d", name, rows) }
	sums := make([][2]reg.VecVirtual, rows)
	for i := range sums {
		for j := range sums[i] {
			sums[i][j] = YMM()
			VXORPS(sums[i][j], sums[i][j], sums[i][j])
		}
	}
	columns := [2]reg.VecVirtual{YMM(), YMM()}
	factors := [2]reg.VecVirtual{YMM(), YMM()}
	step := func(l int) {
		at := l * 2 * register
		PREFETCHT0(Mem{Base: t.b, Disp: at + prefetch})
		for j, column := range columns {
			e.load(Mem{Base: t.b, Disp: at + j*register}, column)
		}
		for i := range rows {
			factor := factors[i%2]
			e.broadcast(Mem{Base: t.a, Disp: (l*tileRows + i) * e.size}, factor)
			for j, column := range columns {
				e.multiply(column, factor, sums[i][j])
			}
		}
	}
	steps := func(n int) {
		for l := range n {
			step(l)
		}
		ADDQ(U32(n*tileRows*e.size), t.a)
		ADDQ(U32(n*2*register), t.b)
		SUBQ(U32(n), t.depth)
	}

	const unroll = 4
	Label(label("four"))
	CMPQ(t.depth, U32(unroll))
	JL(LabelRef(label("one")))
	steps(unroll)
	JMP(LabelRef(label("four")))
	Label(label("one"))
	TESTQ(t.depth, t.depth)
	JE(LabelRef(label("done")))
	steps(1)
	JMP(LabelRef(label("one")))
	Label(label("done"))

	eachRow := func(do func(sum reg.VecVirtual, at Mem)) {
		row := GP64()
		MOVQ(t.c, row)
		for i := range sums {
			for j, sum := range sums[i] {
				do(sum, Mem{Base: row, Disp: j * register})
			}
			if i < rows-1 {
				ADDQ(t.stride, row)
			}
		}
	}
	TESTB(t.add, t.add)
	JE(LabelRef(label("store")))
	eachRow(func(sum reg.VecVirtual, at Mem) { e.add(at, sum, sum) })
	Label(label("store"))
	eachRow(func(sum reg.VecVirtual, at Mem) { e.load(sum, at) })
	VZEROUPPER()
	RET()
}
