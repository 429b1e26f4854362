package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// peakSums is how many sums are computed side by side: more than two
// multipliers with a latency of four or five cycles keep busy.
const peakSums = 12

// peak writes a loop of fused multiply-adds that needs no memory.
func peak() {
	TEXT("float32Peak", NOSPLIT, "func(rounds int)")
	Doc("float32Peak does 12 multiply-adds of registers in each round.")
	rounds := Load(Param("rounds"), GP64())
	x := YMM()
	VXORPS(x, x, x)
	sums := make([]reg.VecVirtual, peakSums)
	for i := range sums {
		sums[i] = YMM()
		VXORPS(sums[i], sums[i], sums[i])
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
