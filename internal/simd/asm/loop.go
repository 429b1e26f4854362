package main

import (
	"fmt"
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// lanes is the number of float32 elements in a register.
const lanes = register / 4

// loop is a loop over float32 slices of one length. What is left at its end
// goes, under a mask, through the instructions that served whole registers,
// so that the result for an element does not depend on its place.
type loop struct {
	inputs   []string // slices to read; the length is that of the first
	output   string   // slice to write; "" for none
	second   string   // another one; pair gives the elements of both then
	unroll   int      // how many registers to do at a time while there are as many; 0 for one
	elements func(in []vector, mask vector) vector
	pair     func(in []vector) (first, second vector)
}

// write writes the loop. elements receives the inputs' next eight elements and
// returns those of the output; mask has all bits set in the lanes that exist,
// and is nil where all do.
func (l loop) write() {
	prefix := newLabel()
	n := Load(Param(l.inputs[0]).Len(), GP64())
	index := GP64()
	XORQ(index, index)
	at := map[string]reg.Register{}
	for _, name := range append(l.inputs, l.output, l.second) {
		if name != "" && at[name] == nil {
			at[name] = Load(Param(name).Base(), GP64())
		}
	}
	step := func(registers int) {
		for i := range registers {
			mem := func(name string) Mem {
				return Mem{Base: at[name], Index: index, Scale: 4, Disp: i * register}
			}
			in := make([]vector, len(l.inputs))
			for j, name := range l.inputs {
				in[j] = load(mem(name))
			}
			if l.pair != nil {
				first, second := l.pair(in)
				VMOVUPS(first, mem(l.output))
				VMOVUPS(second, mem(l.second))
			} else if out := l.elements(in, nil); out != nil {
				VMOVUPS(out, mem(l.output))
			}
		}
		ADDQ(U32(registers*lanes), index)
		SUBQ(U32(registers*lanes), n)
	}
	if l.unroll > 1 {
		Label(prefix + "many")
		CMPQ(n, U32(l.unroll*lanes))
		JL(LabelRef(prefix + "one"))
		step(l.unroll)
		JMP(LabelRef(prefix + "many"))
	}
	Label(prefix + "one")
	CMPQ(n, U32(lanes))
	JL(LabelRef(prefix + "rest"))
	step(1)
	JMP(LabelRef(prefix + "one"))

	Label(prefix + "rest")
	TESTQ(n, n)
	JE(LabelRef(prefix + "done"))
	mask := firstLanes(n)
	in := make([]vector, len(l.inputs))
	for j, name := range l.inputs {
		in[j] = YMM()
		VMASKMOVPS(Mem{Base: at[name], Index: index, Scale: 4}, mask, in[j])
	}
	store := func(v vector, name string) {
		VMASKMOVPS(v, mask, Mem{Base: at[name], Index: index, Scale: 4})
	}
	if l.pair != nil {
		first, second := l.pair(in)
		store(first, l.output)
		store(second, l.second)
	} else if out := l.elements(in, mask); out != nil {
		store(out, l.output)
	}
	Label(prefix + "done")
}

var labels int

// newLabel returns a prefix for labels that no other loop uses.
func newLabel() string {
	labels++
	return fmt.Sprintf("loop%d_", labels)
}

// maskTable is 8 lanes with all bits set, and 8 with none.
var maskTable Mem

// firstLanes returns a mask of the first n lanes.
func firstLanes(n reg.Register) vector {
	if maskTable.Symbol.Name == "" {
		maskTable = GLOBL("masks", RODATA|NOPTR)
		for i := range 2 * lanes {
			var bits uint32
			if i < lanes {
				bits = math.MaxUint32
			}
			DATA(4*i, U32(bits))
		}
	}
	table := GP64()
	LEAQ(maskTable.Offset(register), table)
	back := GP64()
	MOVQ(n, back)
	NEGQ(back)
	return load(Mem{Base: table, Index: back, Scale: 4})
}
