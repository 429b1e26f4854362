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

// tile writes the kernel that goes down a panel of columns tile by tile. What
// is left at the end has a loop for each number of rows, so that a product of
// few rows does not compute the others.
func tile(e elements) {
	TEXT(e.name+"Tiles", NOSPLIT, fmt.Sprintf("func(rows, depth int, a, b, c *%s, stride int, add bool)", e.name))
	Pragma("noescape")
	Doc(e.name + "Tiles is [tiles].")
	t := operands{
		rows: Load(Param("rows"), GP64()), depth: Load(Param("depth"), GP64()), a: Load(Param("a"), GP64()),
		b: Load(Param("b"), GP64()), c: Load(Param("c"), GP64()), stride: Load(Param("stride"), GP64()), add: Load(Param("add"), GP8()),
		left: GP64(), column: GP64(),
	}
	IMUL3Q(Imm(uint64(e.size)), t.stride, t.stride)
	Label("next")
	CMPQ(t.rows, Imm(tileRows))
	JGE(LabelRef(fmt.Sprintf("rows%d", tileRows)))
	for n := tileRows - 1; n > 0; n-- {
		CMPQ(t.rows, Imm(uint64(n)))
		JE(LabelRef(fmt.Sprintf("rows%d", n)))
	}
	end()
	for n := 1; n <= tileRows; n++ {
		Label(fmt.Sprintf("rows%d", n))
		tileOf(e, n, t)
		if n < tileRows {
			end()
		}
	}
	SUBQ(Imm(tileRows), t.rows)
	JMP(LabelRef("next"))
}

// operands are the registers that hold the kernel's arguments; left and column
// are depth and b of the tile in progress.
type operands struct{ rows, depth, a, b, c, stride, add, left, column reg.Register }

// eachRow goes over a number of rows of c and returns what lies below them.
func (t operands) eachRow(rows int, do func(i int, row reg.Register)) (below reg.Register) {
	row := GP64()
	MOVQ(t.c, row)
	for i := range rows {
		do(i, row)
		ADDQ(t.stride, row)
	}
	return row
}

// byFours writes a loop that goes on until nothing is left: steps takes four
// steps at a time while there are as many, then one, and counts them off.
func byFours(label func(string) string, left reg.Register, steps func(n int)) {
	Label(label("four"))
	CMPQ(left, U32(4))
	JL(LabelRef(label("one")))
	steps(4)
	JMP(LabelRef(label("four")))
	Label(label("one"))
	TESTQ(left, left)
	JE(LabelRef(label("done")))
	steps(1)
	JMP(LabelRef(label("one")))
	Label(label("done"))
}

// tileOf writes the loop for one number of rows. It moves a and c on to the
// next tile.
func tileOf(e elements, rows int, t operands) {
	label := func(name string) string { return fmt.Sprintf("%s%d", name, rows) }
	t.eachRow(rows, func(_ int, row reg.Register) { // which may lie on two cache lines
		PREFETCHT0(Mem{Base: row})
		PREFETCHT0(Mem{Base: row, Disp: 2*register - 1})
	})

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
		PREFETCHT0(Mem{Base: t.column, Disp: at + prefetch})
		for j, column := range columns {
			e.load(Mem{Base: t.column, Disp: at + j*register}, column)
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
		ADDQ(U32(n*2*register), t.column)
		SUBQ(U32(n), t.left)
	}

	MOVQ(t.b, t.column)
	MOVQ(t.depth, t.left)
	byFours(label, t.left, steps)

	TESTB(t.add, t.add)
	JE(LabelRef(label("store")))
	t.eachRow(rows, func(i int, row reg.Register) {
		for j, sum := range sums[i] {
			e.add(Mem{Base: row, Disp: j * register}, sum, sum)
		}
	})
	Label(label("store"))
	below := t.eachRow(rows, func(i int, row reg.Register) {
		for j, sum := range sums[i] {
			e.load(sum, Mem{Base: row, Disp: j * register})
		}
	})
	MOVQ(below, t.c)
}
