package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// accumulator is what is collected over a slice: several registers, in turn,
// so that a step need not wait for the one before.
type accumulator struct {
	registers []vector
	next      int
}

// newAccumulator returns registers that hold 0 in every lane.
func newAccumulator(registers int) *accumulator {
	a := &accumulator{}
	for range registers {
		v := YMM()
		VXORPS(v, v, v)
		a.registers = append(a.registers, v)
	}
	return a
}

func (a *accumulator) turn() vector {
	a.next++
	return a.registers[a.next%len(a.registers)]
}

// addWide adds float32 elements to sums in float64.
func (a *accumulator) addWide(v vector) {
	for _, half := range wide(v) {
		s := a.turn()
		VADDPD(half, s, s)
	}
}

// wide returns the lower and the upper elements of v as float64.
func wide(v vector) [2]vector {
	low, high, upper := YMM(), YMM(), XMM()
	VCVTPS2PD(v.AsX(), low)
	VEXTRACTF128(Imm(1), v, upper)
	VCVTPS2PD(upper, high)
	return [2]vector{low, high}
}

// fold combines all lanes but those of half a register, which it returns.
func (a *accumulator) fold(combine func(...Op)) reg.Register {
	for n := len(a.registers); n > 1; n /= 2 {
		for i := range n / 2 {
			combine(a.registers[i+n/2], a.registers[i], a.registers[i])
		}
	}
	low, high := a.registers[0].AsX(), XMM()
	VEXTRACTF128(Imm(1), a.registers[0], high)
	combine(high, low, low)
	return low
}

// storeSum makes the sum of all float32 lanes the result.
func (a *accumulator) storeSum() {
	low := a.fold(VADDPS)
	VHADDPS(low, low, low)
	VHADDPS(low, low, low)
	Store(low, ReturnIndex(0))
}

// storeWideSum makes the sum of all float64 lanes the result.
func (a *accumulator) storeWideSum() {
	low := a.fold(VADDPD)
	VHADDPD(low, low, low)
	Store(low, ReturnIndex(0))
}

func dot() {
	text("float32Dot", "(x, y []float32) float32", "[Dot], as 32 interleaved sums.")
	sums := newAccumulator(4)
	loop{inputs: []string{"x", "y"}, unroll: 4, elements: func(in []vector, _ vector) vector {
		VFMADD231PS(in[0], in[1], sums.turn())
		return nil
	}}.write()
	sums.storeSum()
	end()
}

func sum() {
	text("float32Sum", "(x []float32) float32", "[Sum], as 32 interleaved sums.")
	sums := newAccumulator(4)
	loop{inputs: []string{"x"}, unroll: 4, elements: func(in []vector, _ vector) vector {
		s := sums.turn()
		VADDPS(in[0], s, s)
		return nil
	}}.write()
	sums.storeSum()
	end()
}

func largest() {
	text("float32Max", "(x []float32) float32", "[Max].")
	least := load(constantBits(0xff800000)) // −∞
	tops := newAccumulator(4)
	for _, top := range tops.registers {
		VMOVAPS(least, top)
	}
	loop{inputs: []string{"x"}, unroll: 4, elements: func(in []vector, mask vector) vector {
		x := in[0]
		if mask != nil {
			VBLENDVPS(mask, x, least, x)
		}
		top := tops.turn()
		VMAXPS(top, x, top) // top, where x is not a number
		return nil
	}}.write()
	low := tops.fold(VMAXPS)
	for _, swap := range []uint64{0b01_00_11_10, 0b10_11_00_01} { // halves, then neighbours
		other := XMM()
		VPERMILPS(Imm(swap), low, other)
		VMAXPS(other, low, low)
	}
	Store(low, ReturnIndex(0))
	end()
}

// moments writes the sums in float64 behind mean and variance.
func moments() {
	text("float32WideSum", "(x []float32) float64", "[wideSum], as 16 interleaved sums.")
	sums := newAccumulator(4)
	loop{inputs: []string{"x"}, unroll: 4, elements: func(in []vector, _ vector) vector {
		sums.addWide(in[0])
		return nil
	}}.write()
	sums.storeWideSum()
	end()

	text("float32Deviation", "(x []float32, mean float64) float64", "[deviation], as 16 interleaved sums.")
	p, _ := Param("mean").Resolve()
	mean := YMM()
	VBROADCASTSD(p.Addr, mean)
	sums = newAccumulator(4)
	loop{inputs: []string{"x"}, unroll: 4, elements: func(in []vector, mask vector) vector {
		list := wide(in[0])
		var exists [2]vector
		if mask != nil {
			exists = wideMask(mask)
		}
		for i, v := range list {
			VSUBPD(mean, v, v)
			if mask != nil {
				VANDPD(exists[i], v, v)
			}
			VFMADD231PD(v, v, sums.turn())
		}
		return nil
	}}.write()
	sums.storeWideSum()
	end()
}

// wideMask returns the lower and the upper lanes of a mask as those of
// float64.
func wideMask(mask vector) [2]vector {
	low, high, upper := YMM(), YMM(), XMM()
	VPMOVSXDQ(mask.AsX(), low)
	VEXTRACTI128(Imm(1), mask, upper)
	VPMOVSXDQ(upper, high)
	return [2]vector{low, high}
}

// expSum writes the part of softmax that takes the time.
func expSum() {
	text("float32ExpSum", "(out, x []float32, shift float32) float64", "[ExpSum], as 16 interleaved sums.")
	shift := broadcast("shift")
	sums := newAccumulator(4)
	loop{inputs: []string{"x"}, output: "out", elements: func(in []vector, mask vector) vector {
		e := exp(subtract(in[0], shift))
		if mask != nil {
			sums.addWide(and(e, mask))
		} else {
			sums.addWide(e)
		}
		return e
	}}.write()
	sums.storeWideSum()
	end()
}

// normalize writes one loop for each combination of scale and bias.
func normalize() {
	text("float32Normalize", "(out, x, scale, bias []float32, mean, factor float32)", "[Normalize]. Scale and bias may be empty, and bias without scale.")
	mean, factor := broadcast("mean"), broadcast("factor")
	inputs := []string{"x", "scale", "bias"}
	for _, missing := range inputs[1:] {
		n := Load(Param(missing).Len(), GP64())
		TESTQ(n, n)
		JE(LabelRef("no_" + missing))
	}
	for _, label := range []string{"", "no_bias", "no_scale"} {
		if label != "" {
			Label(label)
			inputs = inputs[:len(inputs)-1]
		}
		loop{inputs: inputs, output: "out", elements: func(in []vector, _ vector) vector {
			y := multiply(subtract(in[0], mean), factor)
			switch len(in) {
			case 2:
				y = multiply(y, in[1])
			case 3:
				VFMADD213PS(in[2], in[1], y)
			}
			return y
		}}.write()
		end()
	}
}
