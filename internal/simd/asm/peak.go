package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// peakSums is how many sums are computed side by side: more than two
// multipliers with a latency of four or five cycles keep busy.
const peakSums = 12

// peak writes loops of fused multiply-adds that need no memory, for both
// widths of registers.
func peak() {
	peakOf("float32Peak", VXORPS, func() reg.VecVirtual { return YMM() })
	peakOf("float32Peak512", VPXORD, func() reg.VecVirtual { return ZMM() })
}

func peakOf(name string, clear func(...Op), register func() reg.VecVirtual) {
	TEXT(name, NOSPLIT, "func(rounds int)")
	Doc(name + " does 12 multiply-adds of registers in each round.")
	rounds := Load(Param("rounds"), GP64())
	x := register()
	clear(x, x, x)
	sums := make([]reg.VecVirtual, peakSums)
	for i := range sums {
		sums[i] = register()
		clear(sums[i], sums[i], sums[i])
	}
	Label("round")
	TESTQ(rounds, rounds)
	JLE(LabelRef("done"))
	for _, sum := range sums {
		VFMADD231PS(x, x, sum)
	}
	DECQ(rounds)
	JMP(LabelRef("round"))
	Label("done")
	end()
}
