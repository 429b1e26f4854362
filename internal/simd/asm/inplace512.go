package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// inPlace512 writes the kernel for rows that are not packed, for products that
// are too narrow to make up for packing. It keeps a register for where each
// row of a tile lies. A tile is as wide as the columns need: half a panel, one
// or two, the rest masked. Every sum has the same terms in the same order as
// those of packed rows.
func inPlace512() {
	text("float32InPlace512", "(rows, depth, skip int, a **float32, b, c *float32, panel, stride, columns int, bias *float32, add bool)",
		"[tiles] for 1 to 32 columns, the second panel of which lies panel elements behind the first, and a multiple of 12 rows that begin skip elements behind where a points. The bias is added last, unless it is nil.")
	const width = 16 // of a panel
	state := AllocLocal(3 * 8)
	t := inPlace{rows: state, list: state.Offset(8), c: state.Offset(16)}
	for _, p := range []struct {
		name string
		at   Mem
	}{{"rows", t.rows}, {"a", t.list}, {"c", t.c}} {
		MOVQ(Load(Param(p.name), GP64()), p.at)
	}
	// The mask is for the columns of the last panel.
	last, second, bits := GP64(), GP64(), GP32()
	Load(Param("columns"), last)
	LEAQ(Mem{Base: last, Disp: -width}, second)
	CMPQ(last, Imm(width))
	CMOVQGT(second, last)
	MOVL(U32(1<<width-1), bits)
	BZHIL(last.As32(), bits, bits)
	KMOVW(bits, reg.K1)

	columns := Load(Param("columns"), GP64())
	CMPQ(columns, Imm(width/2))
	JLE(LabelRef("nexthalf"))
	CMPQ(columns, Imm(width))
	JG(LabelRef("nexttwo"))
	zmm := func(i int) reg.VecPhysical { return registers512[i] }
	for _, tile := range []struct {
		name   string
		wide   int
		panels int
		vector func(i int) reg.VecPhysical
	}{
		{"one", 64, 1, zmm},
		{"two", 64, 2, zmm},
		{"half", 32, 1, func(i int) reg.VecPhysical { return registers512[i].AsY().(reg.VecPhysical) }},
	} {
		t.name, t.wide, t.panels, t.vector = tile.name, tile.wide, tile.panels, tile.vector
		Label("next" + t.name)
		t.tile()
		SUBQ(U32(2*tileRows), t.rows)
		JNE(LabelRef("next" + t.name))
		end()
	}
}

// Registers are named, for avo takes zeroing by VPXORD as a use of what was
// in them.
var registers512 = []reg.VecPhysical{reg.Z0, reg.Z1, reg.Z2, reg.Z3, reg.Z4, reg.Z5, reg.Z6, reg.Z7, reg.Z8, reg.Z9, reg.Z10,
	reg.Z11, reg.Z12, reg.Z13, reg.Z14, reg.Z15, reg.Z16, reg.Z17, reg.Z18, reg.Z19, reg.Z20, reg.Z21, reg.Z22, reg.Z23, reg.Z24,
	reg.Z25, reg.Z26, reg.Z27}

// inPlace are the variables of the kernel, on the stack, and one of its tiles.
type inPlace struct {
	rows, list, c Mem
	name          string
	wide          int // bytes of a register
	panels        int
	vector        func(i int) reg.VecPhysical
}

// tile writes a tile. It moves list and c on.
func (t inPlace) tile() {
	const height = 2 * tileRows
	label := func(name string) string { return name + t.name }
	columns, factors, sums := t.vector, func(i int) reg.VecPhysical { return t.vector(2 + i%2) },
		func(i, j int) reg.VecPhysical { return t.vector(4 + i*t.panels + j) }
	eachRow := func(do func(i int, row reg.Register)) (below reg.Register) {
		row, stride := GP64(), Load(Param("stride"), GP64())
		MOVQ(t.c, row)
		for i := range height {
			do(i, row)
			LEAQ(Mem{Base: row, Index: stride, Scale: 4}, row)
		}
		return row
	}
	eachRow(func(_ int, row reg.Register) {
		for j := range t.panels {
			PREFETCHT0(Mem{Base: row, Disp: j * t.wide})
		}
	})

	// Rows are addressed from their ends, by the number of elements left.
	var rows [height]reg.GPVirtual
	skip, list := Load(Param("skip"), GP64()), GP64()
	ADDQ(Load(Param("depth"), GP64()), skip)
	SHLQ(Imm(2), skip)
	MOVQ(t.list, list)
	for i := range rows {
		rows[i] = GP64()
		MOVQ(Mem{Base: list, Disp: 8 * i}, rows[i])
		ADDQ(skip, rows[i])
	}
	ADDQ(U32(8*height), list)
	MOVQ(list, t.list)
	column, left := Load(Param("b"), GP64()), Load(Param("depth"), GP64())
	var panel reg.Register
	if t.panels == 2 {
		panel = Load(Param("panel"), GP64())
	}
	NEGQ(left)
	for i := range height {
		for j := range t.panels {
			VPXORD(sums(i, j), sums(i, j), sums(i, j))
		}
	}
	steps := func(n int) {
		for l := range n {
			for j := range t.panels {
				m := Mem{Base: column, Disp: l * 2 * register}
				if j > 0 {
					m.Index, m.Scale = panel, 4
				}
				VMOVUPS(m, columns(j))
			}
			for i, row := range rows {
				VBROADCASTSS(Mem{Base: row, Index: left, Scale: 4, Disp: 4 * l}, factors(i))
				for j := range t.panels {
					VFMADD231PS(columns(j), factors(i), sums(i, j))
				}
			}
		}
		ADDQ(U32(n*2*register), column)
		ADDQ(Imm(uint64(n)), left)
	}
	Label(label("four"))
	CMPQ(left, I8(-4))
	JG(LabelRef(label("step")))
	steps(4)
	JMP(LabelRef(label("four")))
	Label(label("step"))
	TESTQ(left, left)
	JE(LabelRef(label("done")))
	steps(1)
	JMP(LabelRef(label("step")))
	Label(label("done"))

	add := Load(Param("add"), GP8())
	TESTB(add, add)
	JE(LabelRef(label("bias")))
	eachRow(func(i int, row reg.Register) {
		for j := range t.panels {
			m, sum := Mem{Base: row, Disp: j * t.wide}, sums(i, j)
			if j == t.panels-1 {
				VADDPS(m, sum, reg.K1, sum)
			} else {
				VADDPS(m, sum, sum)
			}
		}
	})
	Label(label("bias"))
	bias := Load(Param("bias"), GP64())
	TESTQ(bias, bias)
	JE(LabelRef(label("store")))
	for j := range t.panels {
		if m := (Mem{Base: bias, Disp: j * t.wide}); j == t.panels-1 {
			VMOVUPS_Z(m, reg.K1, columns(j))
		} else {
			VMOVUPS(m, columns(j))
		}
	}
	for i := range height {
		for j := range t.panels {
			VADDPS(columns(j), sums(i, j), sums(i, j))
		}
	}
	Label(label("store"))
	below := eachRow(func(i int, row reg.Register) {
		for j := range t.panels {
			if m := (Mem{Base: row, Disp: j * t.wide}); j == t.panels-1 {
				VMOVUPS(sums(i, j), reg.K1, m)
			} else {
				VMOVUPS(sums(i, j), m)
			}
		}
	})
	MOVQ(below, t.c)
}
