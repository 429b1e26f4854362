package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// strides are the addresses of four rows from one register on.
type strides struct{ one, three reg.Register }

// loadStrides loads a parameter that counts float32 elements between rows.
func loadStrides(name string) strides {
	s := strides{one: Load(Param(name), GP64()), three: GP64()}
	SHLQ(Imm(2), s.one)
	LEAQ(Mem{Base: s.one, Index: s.one, Scale: 2}, s.three)
	return s
}

// rows returns the addresses of four rows, the first one at base.
func (s strides) rows(base reg.Register) [4]Mem {
	at := Mem{Base: base}
	return [4]Mem{at, at.Idx(s.one, 1), at.Idx(s.one, 2), at.Idx(s.three, 1)}
}

// dotRows writes the products of a query with four keys at a time, which wait
// for memory.
func dotRows() {
	text("float32DotFour", "(groups, size int, a, b *float32, stride int, c *float32)",
		"the products of a with groups of four rows of b, stride apart, as 8 interleaved sums each. The size is a multiple of 8.")
	groups, size := Load(Param("groups"), GP64()), Load(Param("size"), GP64())
	a, b, c := Load(Param("a"), GP64()), Load(Param("b"), GP64()), Load(Param("c"), GP64())
	step := loadStrides("stride")
	Label("group")
	TESTQ(groups, groups)
	JE(LabelRef("end"))
	var sums [4]vector
	for i := range sums {
		sums[i] = YMM()
		VXORPS(sums[i], sums[i], sums[i])
	}
	left, factors, row := GP64(), GP64(), GP64()
	MOVQ(size, left)
	MOVQ(a, factors)
	MOVQ(b, row)
	Label("eight")
	factor := load(Mem{Base: factors})
	for i, at := range step.rows(row) {
		VFMADD231PS(at, factor, sums[i])
	}
	ADDQ(Imm(register), factors)
	ADDQ(Imm(register), row)
	SUBQ(Imm(lanes), left)
	JNE(LabelRef("eight"))
	VHADDPS(sums[1], sums[0], sums[0])
	VHADDPS(sums[3], sums[2], sums[2])
	VHADDPS(sums[2], sums[0], sums[0])
	upper := XMM()
	VEXTRACTF128(Imm(1), sums[0], upper)
	VADDPS(upper, sums[0].AsX(), upper)
	VMOVUPS(upper, Mem{Base: c})
	ADDQ(Imm(16), c)
	LEAQ(Mem{Base: b, Index: step.one, Scale: 4}, b)
	DECQ(groups)
	JMP(LabelRef("group"))
	Label("end")
	end()
}

// addRows writes the weighted sum of rows, as many columns at a time as
// registers hold.
func addRows() {
	text("float32AddRows", "(rows, width int, a, b *float32, stride int, c *float32)",
		"c += a·b for one row a and rows of b that lie stride apart. The width is a multiple of 8.")
	rows, width := Load(Param("rows"), GP64()), Load(Param("width"), GP64())
	a, b, c := Load(Param("a"), GP64()), Load(Param("b"), GP64()), Load(Param("c"), GP64())
	stride := Load(Param("stride"), GP64())
	SHLQ(Imm(2), stride)
	for _, registers := range []int{8, 1} {
		name := func(s string) string { return fmt.Sprintf("%s%d", s, registers) }
		Label(name("columns"))
		CMPQ(width, U32(registers*lanes))
		JL(LabelRef(name("done")))
		at := func(base reg.Register, i int) Mem { return Mem{Base: base, Disp: i * register} }
		sums := make([]vector, registers)
		for i := range sums {
			sums[i] = load(at(c, i))
		}
		left, factors, row := GP64(), GP64(), GP64()
		MOVQ(rows, left)
		MOVQ(a, factors)
		MOVQ(b, row)
		Label(name("row"))
		factor := YMM()
		VBROADCASTSS(Mem{Base: factors}, factor)
		for i, sum := range sums {
			VFMADD231PS(at(row, i), factor, sum)
		}
		ADDQ(Imm(4), factors)
		ADDQ(stride, row)
		DECQ(left)
		JNE(LabelRef(name("row")))
		for i, sum := range sums {
			VMOVUPS(sum, at(c, i))
		}
		ADDQ(U32(registers*register), b)
		ADDQ(U32(registers*register), c)
		SUBQ(U32(registers*lanes), width)
		JMP(LabelRef(name("columns")))
		Label(name("done"))
	}
	end()
}

// transposeColumns writes the packing of a panel whose columns are contiguous:
// squares of eight by eight elements, turned by shuffles.
func transposeColumns() {
	text("float32Columns", "(dst, src *float32, stride, depth int)",
		"the packing of 16 columns, stride apart, whose depth is a multiple of 8.")
	dst, src, depth := Load(Param("dst"), GP64()), Load(Param("src"), GP64()), Load(Param("depth"), GP64())
	step := loadStrides("stride")
	var quarters [4]reg.Register
	quarters[0] = src
	for i := range quarters[1:] {
		quarters[i+1] = GP64()
		LEAQ(Mem{Base: quarters[i], Index: step.one, Scale: 4}, quarters[i+1])
	}
	Label("eight")
	for half := range 2 {
		var x [8]vector
		for i := range 2 {
			for j, at := range step.rows(quarters[2*half+i]) {
				x[4*i+j] = load(at)
			}
		}
		for i, y := range transpose(x) {
			VMOVUPS(y, Mem{Base: dst, Disp: (2*i + half) * register})
		}
	}
	for _, q := range quarters {
		ADDQ(Imm(register), q)
	}
	ADDQ(U32(2*lanes*register), dst)
	SUBQ(Imm(lanes), depth)
	JNE(LabelRef("eight"))
	end()
}

// transpose turns eight by eight elements.
func transpose(x [8]vector) [8]vector {
	var pairs, fours, out [8]vector
	for i := 0; i < 8; i += 2 {
		pairs[i], pairs[i+1] = YMM(), YMM()
		VUNPCKLPS(x[i+1], x[i], pairs[i])
		VUNPCKHPS(x[i+1], x[i], pairs[i+1])
	}
	for i := 0; i < 8; i += 4 {
		for j := range 4 {
			fours[i+j] = YMM()
			VSHUFPS(Imm(uint64(0x44+0xAA*(j%2))), pairs[i+2+j/2], pairs[i+j/2], fours[i+j])
		}
	}
	for j := range 4 {
		out[j], out[j+4] = YMM(), YMM()
		VPERM2F128(Imm(0x20), fours[j+4], fours[j], out[j])
		VPERM2F128(Imm(0x31), fours[j+4], fours[j], out[j+4])
	}
	return out
}

// masks writes what hides scores.
func masks() {
	text("float32AddMask", "(x, mask []float32)", "[AddMask].")
	least := load(constantBits(0xff800000)) // −∞
	loop{inputs: []string{"x", "mask"}, output: "x", unroll: 2, elements: func(in []vector, _ vector) vector {
		hidden, sum := YMM(), add(in[0], in[1])
		VCMPPS(Imm(0), least, in[1], hidden)
		VBLENDVPS(hidden, least, sum, sum)
		return sum
	}}.write()
	end()

	text("float32Keep", "(n int, x *float32, mask *bool)", "[Keep] for a multiple of 8 elements.")
	n, x, mask := Load(Param("n"), GP64()), Load(Param("x"), GP64()), Load(Param("mask"), GP64())
	least, zero := load(constantBits(0xff800000)), YMM()
	VXORPS(zero, zero, zero)
	Label("eight")
	hidden := YMM()
	VPMOVZXBD(Mem{Base: mask}, hidden)
	VPCMPEQD(zero, hidden, hidden)
	kept := load(Mem{Base: x})
	VBLENDVPS(hidden, least, kept, kept)
	VMOVUPS(kept, Mem{Base: x})
	ADDQ(Imm(lanes), mask)
	ADDQ(Imm(register), x)
	SUBQ(Imm(lanes), n)
	JNE(LabelRef("eight"))
	end()
}
