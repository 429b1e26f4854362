// Command asm writes the AVX2 kernels of package simd; go generate runs it
// there.
package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
)

func main() {
	ConstraintExpr("!purego")
	tile(float32s)
	tile(float64s)
	tile512()
	inPlace512()
	row()
	interleave()
	copyRuns(16)
	copyRuns(tileRows)
	pause()
	arithmetic()
	axpy()
	functions()
	swish()
	gradients()
	slopes()
	dot()
	sum()
	largest()
	moments()
	expSum()
	normalize()
	halfConversions()
	dotRows()
	addRows()
	transposeColumns()
	masks()
	peak()
	compressed()
	Generate()
}

// elements are the instructions for one element type.
type elements struct {
	name      string
	size      int // in bytes
	broadcast func(...Op)
	load      func(...Op)
	multiply  func(...Op) // and add
	add       func(...Op)
}

var (
	float32s = elements{"float32", 4, VBROADCASTSS, VMOVUPS, VFMADD231PS, VADDPS}
	float64s = elements{"float64", 8, VBROADCASTSD, VMOVUPD, VFMADD231PD, VADDPD}
)

// register is the width of a vector register in bytes.
const register = 32
