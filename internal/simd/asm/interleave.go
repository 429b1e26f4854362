package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// interleave writes the packing of a panel of rows: eight columns of the six
// rows at a time, turned by shuffles.
func interleave() {
	text("float32Interleave", "(dst *float32, rows *[6]*float32, depth int)",
		"[interleaveRows] for six rows and the columns up to a multiple of 8.")
	dst, list, depth := Load(Param("dst"), GP64()), Load(Param("rows"), GP64()), Load(Param("depth"), GP64())
	var rows [tileRows]reg.Register
	for i := range rows {
		rows[i] = GP64()
		MOVQ(Mem{Base: list, Disp: 8 * i}, rows[i])
	}
	column := GP64()
	XORQ(column, column)
	SUBQ(Imm(lanes), depth)
	Label("eight")
	CMPQ(column, depth)
	JG(LabelRef("end"))
	var x [tileRows]vector
	for i, row := range rows {
		x[i] = load(Mem{Base: row, Index: column, Scale: 4})
	}
	// Pairs of rows, for the even and for the odd pairs of columns.
	var pairs [tileRows]vector
	for i := 0; i < tileRows; i += 2 {
		pairs[i], pairs[i+1] = YMM(), YMM()
		VUNPCKLPS(x[i+1], x[i], pairs[i])
		VUNPCKHPS(x[i+1], x[i], pairs[i+1])
	}
	const run = tileRows * 4 // bytes
	for i := range 4 {       // columns i and, in the upper half, i+4
		first := YMM()
		VSHUFPS(Imm(uint64(0x44+0xAA*(i%2))), pairs[2+i/2], pairs[i/2], first)
		VMOVUPS(first.AsX(), Mem{Base: dst, Disp: i * run})
		VEXTRACTF128(Imm(1), first, Mem{Base: dst, Disp: (i + 4) * run})
	}
	for i := range 2 {
		last, upper := pairs[4+i], XMM()
		VEXTRACTF128(Imm(1), last, upper)
		VMOVLPS(last.AsX(), Mem{Base: dst, Disp: (2*i)*run + 16})
		VMOVHPS(last.AsX(), Mem{Base: dst, Disp: (2*i+1)*run + 16})
		VMOVLPS(upper, Mem{Base: dst, Disp: (2*i+4)*run + 16})
		VMOVHPS(upper, Mem{Base: dst, Disp: (2*i+5)*run + 16})
	}
	ADDQ(U32(lanes*run), dst)
	ADDQ(Imm(lanes), column)
	JMP(LabelRef("eight"))
	Label("end")
	end()
}

// copyRuns writes the packing of contiguous rows: the part that a panel of the
// given width has of each of them, panel by panel.
func copyRuns(width int) {
	text(fmt.Sprintf("float32Runs%d", width), "(dst, src *float32, panels, runs, panelStep, stride int)",
		fmt.Sprintf("[packRuns] for panels of %d elements; steps and strides are in bytes.", width))
	dst, src, panels := Load(Param("dst"), GP64()), Load(Param("src"), GP64()), Load(Param("panels"), GP64())
	runs, panelStep, stride := Load(Param("runs"), GP64()), Load(Param("panelStep"), GP64()), Load(Param("stride"), GP64())
	from, to, left := GP64(), GP64(), GP64()
	size := 4 * width
	Label("panel")
	MOVQ(src, from)
	MOVQ(dst, to)
	MOVQ(runs, left)
	Label("run")
	for at := 0; at < size; {
		switch part := size - at; {
		case part >= register:
			x := YMM()
			VMOVUPS(Mem{Base: from, Disp: at}, x)
			VMOVUPS(x, Mem{Base: to, Disp: at})
			at += register
		case part >= 16:
			x := XMM()
			VMOVUPS(Mem{Base: from, Disp: at}, x)
			VMOVUPS(x, Mem{Base: to, Disp: at})
			at += 16
		default:
			x := GP64()
			MOVQ(Mem{Base: from, Disp: at}, x)
			MOVQ(x, Mem{Base: to, Disp: at})
			at += 8
		}
	}
	ADDQ(stride, from)
	ADDQ(Imm(uint64(size)), to)
	DECQ(left)
	JNZ(LabelRef("run"))
	ADDQ(Imm(uint64(size)), src)
	ADDQ(panelStep, dst)
	DECQ(panels)
	JNZ(LabelRef("panel"))
	end()
}
