package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// format is how the elements of compressed columns are stored.
type format struct {
	name     string
	step     int  // how many rows of a panel are stored together
	stepSize int  // in bytes
	integers bool // of a scale and a zero

	// load reads what is stored together for eight columns, and element takes
	// row l out of it: its elements, which have to be multiplied by weight(l).
	load    func(from Mem) vector
	element func(stored vector, l int) vector
	weight  func(l int) float64
}

// farPrefetch is how many bytes ahead compressed columns are fetched. They
// take longer to compute with than others of the same size.
const farPrefetch = 2048

// fewRows is how many rows a product reads compressed columns for.
const fewRows = 4

func formats() []format {
	alone := func(int) float64 { return 1 }
	same := func(stored vector, _ int) vector { return stored }
	nibbles := constantNibbles()
	return []format{
		{"int8", 1, 16, true, func(from Mem) vector {
			x := YMM()
			VPMOVSXBD(from, x)
			VCVTDQ2PS(x, x)
			return x
		}, same, alone},
		// A nibble is converted where it lies, which multiplies it.
		{"int4", 8, 64, true, func(from Mem) vector {
			x := YMM()
			VMOVDQU(from, x)
			return x
		}, func(stored vector, l int) vector {
			x := YMM()
			if l < 7 {
				VPAND(nibbles.Offset(l*register), stored, x)
			} else { // else it would be the sign
				VPSRLD(Imm(28), stored, x)
			}
			VCVTDQ2PS(x, x)
			return x
		}, func(l int) float64 {
			if l == 7 {
				return 1
			}
			return 1 / float64(int(1)<<(4*l))
		}},
		{"float16", 1, 32, false, func(from Mem) vector {
			x := YMM()
			VCVTPH2PS(from, x)
			return x
		}, same, alone},
		{"bfloat16", 1, 32, false, func(from Mem) vector {
			x := YMM()
			VPMOVZXWD(from, x)
			VPSLLD(Imm(16), x, x)
			return x
		}, same, alone},
	}
}

// constantNibbles returns the masks of a lane's lower seven nibbles.
func constantNibbles() Mem {
	table := GLOBL("nibbles", RODATA|NOPTR)
	for l := range 7 {
		for i := range lanes {
			DATA((l*lanes+i)*4, U32(15<<(4*l)))
		}
	}
	return table
}

// compressed writes the kernels that read compressed columns.
func compressed() {
	for _, f := range formats() {
		f.rows()
		f.expand()
	}
}

// panels are the panels of columns in use, one or two.
type panels struct {
	format
	registers                   int          // two for each panel
	data, dataStep              reg.Register // steps lead from one panel to the next, in bytes
	scales, scaleStep           reg.Register
	zeros, zeroStep, zeroStride reg.Register // zeroStride leads to the next block
	depth, block, left          reg.Register
}

// at returns where register i of what begins at base is, size bytes each.
func at(base, step reg.Register, i, disp, size int) Mem {
	m := Mem{Base: base, Disp: disp + i%2*size}
	if i > 1 {
		m.Index, m.Scale = step, 1
	}
	return m
}

// panels loads the arguments that all kernels have.
func (f format) panels() panels {
	p := panels{format: f, registers: 2, left: GP64(),
		depth: Load(Param("depth"), GP64()), block: Load(Param("block"), GP64()), data: Load(Param("data"), GP64())}
	if f.integers {
		p.scales, p.zeros = Load(Param("scales"), GP64()), Load(Param("zeros"), GP64())
		p.zeroStride = Load(Param("zeroStride"), GP64())
	}
	return p
}

// second lets the panels be two.
func (p *panels) second() {
	p.registers = 4
	p.dataStep = Load(Param("dataStep"), GP64())
	if p.integers {
		p.scaleStep, p.zeroStep = Load(Param("scaleStep"), GP64()), Load(Param("zeroStep"), GP64())
	}
}

// eachBlock writes the loop over the blocks of the depth, which is a multiple
// of the format's step. It calls begin, use for element i of row l, next to
// move on by some rows, and finish.
func (p *panels) eachBlock(prefix string, begin func(), use func(l, i int, element vector), next func(rows int), finish func()) {
	Label(prefix + "Block")
	MOVQ(p.block, p.left)
	CMPQ(p.depth, p.left)
	CMOVQLT(p.depth, p.left)
	SUBQ(p.left, p.depth)
	begin()
	rows := func(steps int) {
		for s := range steps {
			stored := make([]vector, p.registers)
			for i := range stored {
				from := at(p.data, p.dataStep, i, s*p.stepSize, p.stepSize/2)
				if i%2 == 0 {
					ahead := from
					ahead.Disp += farPrefetch
					PREFETCHT0(ahead)
				}
				if p.step > 1 {
					stored[i] = p.load(from)
				}
			}
			for l := range p.step {
				for i := range stored {
					if p.step == 1 {
						stored[i] = p.load(at(p.data, p.dataStep, i, s*p.stepSize, p.stepSize/2))
					}
					use(s*p.step+l, i, p.element(stored[i], l))
				}
			}
		}
		ADDQ(U32(steps*p.stepSize), p.data)
		SUBQ(U32(steps*p.step), p.left)
		next(steps * p.step)
	}
	if p.step == 1 {
		const unroll = 4
		Label(prefix + "Many")
		CMPQ(p.left, U32(unroll))
		JL(LabelRef(prefix + "Rest"))
		rows(unroll)
		JMP(LabelRef(prefix + "Many"))
	}
	Label(prefix + "Rest")
	TESTQ(p.left, p.left)
	JE(LabelRef(prefix + "Done"))
	rows(1)
	JMP(LabelRef(prefix + "Rest"))
	Label(prefix + "Done")
	finish()
	if p.integers {
		ADDQ(U32(2*register), p.scales)
		ADDQ(p.zeroStride, p.zeros)
	}
	TESTQ(p.depth, p.depth)
	JNE(LabelRef(prefix + "Block"))
}

// rows writes the product of few rows and one panel, or of one row and two. It
// is bound by the memory that it streams through.
func (f format) rows() {
	text(f.name+"Rows", "(rows, depth, block int, a, sums *float32, data *byte, dataStep int, scales *float32, scaleStep int, zeros *float32, zeroStep, zeroStride int, c *float32, stride int)",
		"[compressedRows]; two panels for no rows.")
	rows := Load(Param("rows"), GP64())
	for n := fewRows; n > 0; n-- {
		CMPQ(rows, Imm(uint64(n)))
		JE(LabelRef(fmt.Sprintf("rows%d", n)))
	}
	for n := 0; n <= fewRows; n++ {
		prefix := fmt.Sprintf("rows%d", n)
		Label(prefix)
		p := f.panels()
		if n == 0 {
			p.second()
		}
		f.rowsOf(prefix, max(n, 1), &p)
		end()
	}
}

func (f format) rowsOf(prefix string, rows int, p *panels) {
	a, c := Load(Param("a"), GP64()), Load(Param("c"), GP64())
	var sums, stride reg.Register
	if f.integers {
		sums = Load(Param("sums"), GP64())
	}
	if rows > 1 {
		stride = Load(Param("stride"), GP64())
	}
	part := make([][]vector, rows)
	for r := range part {
		part[r] = make([]vector, p.registers)
		for i := range part[r] {
			part[r][i] = YMM()
		}
	}
	begin := func() {
		for _, row := range part {
			for _, x := range row {
				VXORPS(x, x, x)
			}
		}
	}
	if p.registers > 2 {
		p.prefetchAfterNext()
	}
	var factor vector
	use := func(l, i int, element vector) {
		for r := range part {
			if rows > 1 || i == 0 {
				factor = YMM()
				VBROADCASTSS(Mem{Base: a, Disp: 4 * (l*rows + r)}, factor)
			}
			VFMADD231PS(element, factor, part[r][i])
		}
	}
	next := func(n int) { ADDQ(U32(4*n*rows), a) }
	finish := func() {
		out := c
		if rows > 1 {
			out = GP64()
			MOVQ(c, out)
		}
		for r, row := range part {
			if f.integers {
				factor = YMM()
				VBROADCASTSS(Mem{Base: sums, Disp: 4 * r}, factor)
			}
			for i, x := range row {
				place := Mem{Base: out, Disp: i * register}
				if f.integers && r == 0 && i%2 == 0 {
					PREFETCHT0(at(p.scales, p.scaleStep, i, farPrefetch, register))
				}
				if f.integers {
					VFNMADD231PS(at(p.zeros, p.zeroStep, i, 0, register), factor, x)
					total := load(place)
					VFMADD231PS(at(p.scales, p.scaleStep, i, 0, register), x, total)
					x = total
				} else {
					VADDPS(place, x, x)
				}
				VMOVUPS(x, place)
			}
			if r < rows-1 {
				ADDQ(stride, out)
			}
		}
		if f.integers {
			ADDQ(U32(4*rows), sums)
		}
	}
	p.eachBlock(prefix, begin, use, next, finish)
}

// prefetchAfterNext fetches the beginning of the second of the panels that
// follow two; that of the first one follows their end, so that it is fetched
// with it.
func (p *panels) prefetchAfterNext() {
	const line = 64
	start := func(base, step reg.Register) {
		third := GP64()
		LEAQ(Mem{Base: base, Index: step, Scale: 2}, third)
		ADDQ(step, third)
		for i := range farPrefetch / line {
			PREFETCHT1(Mem{Base: third, Disp: i * line})
		}
	}
	start(p.data, p.dataStep)
	if p.integers {
		start(p.scales, p.scaleStep)
	}
}

// expand writes the conversion of rows of a panel to float32.
func (f format) expand() {
	text(f.name+"Expand", "(depth, block int, data *byte, scales, zeros *float32, zeroStride int, out *float32)", "[expand] of depth rows of a panel.")
	p := f.panels()
	out := Load(Param("out"), GP64())
	var scale, zero [2]vector
	begin := func() {
		if f.integers {
			for i := range scale {
				scale[i], zero[i] = load(at(p.scales, nil, i, 0, register)), load(at(p.zeros, nil, i, 0, register))
			}
		}
	}
	use := func(l, i int, x vector) {
		if weight := f.weight(l % f.step); weight != 1 {
			VMULPS(constant(weight), x, x)
		}
		if f.integers {
			VSUBPS(zero[i], x, x)
			VMULPS(scale[i], x, x)
		}
		VMOVUPS(x, Mem{Base: out, Disp: (2*l + i) * register})
	}
	p.eachBlock("expand", begin, use, func(n int) { ADDQ(U32(2*n*register), out) }, func() {})
	end()
}
