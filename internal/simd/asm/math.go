package main

import (
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
)

// The functions are those of exp.go and erf.go in package simd, formula by
// formula. What is an exponent is rounded there and here alike, without fused
// operations, because exp multiplies the difference.

// The same as in exp and reduceExp.
const (
	expUnderflow = -103.97208

	ln2High = 0.693359375
	ln2Low  = math.Ln2 - ln2High
	shift   = 3 << 22
)

// reduceExp returns n, an integer, and e^r − 1.
func reduceExp(x vector) (n, y vector) {
	n = load(constant(math.Log2E))
	VFMADD213PS(constant(shift), x, n)
	whole := subtract(n, constant(shift))
	remainder := load(constant(ln2High))
	VFNMADD213PS(x, whole, remainder)
	r := load(constant(ln2Low))
	VFNMADD213PS(remainder, whole, r)
	y = horner(r, 1.3950602e-3, 8.3689535e-3, 4.1666206e-2, 1.6666518e-1, 0.5)
	VFMADD213PS(r, multiply(r, r), y)
	// The sum's last bits are the integer.
	VPSUBD(constant(shift), n, n)
	return n, y
}

// power2 returns 2^k for −126 ≤ k ≤ 127.
func power2(k vector) vector {
	v := YMM()
	VPSLLD(Imm(23), k, v)
	VPADDD(constant(1), v, v)
	return v
}

// exp needs no case for large x: from 89 on the products overflow. Those of
// very small x, which attention has for masked elements, are 0 before they
// underflow, which takes processors long.
func exp(x vector) vector {
	const notLess = 0x15 // or unordered; quiet
	counts := YMM()
	VCMPPS(Imm(notLess), constant(expUnderflow), x, counts)
	n, y := reduceExp(atMost(atLeast(x, expUnderflow), 89))
	half := YMM()
	VPSRAD(Imm(1), n, half)
	VPSUBD(half, n, n)
	scale := power2(half)
	VFMADD213PS(scale, scale, y)
	return multiply(and(y, counts), power2(n))
}

// logistic returns x/(1 + e^exponent).
func logistic(x, exponent vector) vector {
	return divide(x, add(exp(exponent), constant(1)))
}

func magnitude(x vector) vector { return and(x, constantBits(1<<31-1)) }
func sign(x vector) vector      { return and(x, constantBits(1<<31)) }
func negative(x vector) vector  { return apply(VXORPS, x, constantBits(1<<31)) }

func sigmoid(x vector) vector { return logistic(load(constant(1)), negative(x)) }

func tanh(x vector) vector {
	a := atMost(magnitude(x), 9.5)
	n, m := reduceExp(add(a, a))
	scale := power2(n)
	VFMADD213PS(subtract(scale, constant(1)), scale, m)
	return or(divide(m, add(m, constant(2))), sign(x))
}

func erfc(a vector) vector { return multiply(erfcx(a), exp(negative(multiply(a, a)))) }

// erfcx returns e^a²·erfc(a).
func erfcx(a vector) vector {
	t := divide(load(constant(2)), add(a, constant(2)))
	p := horner(t, -5.9068985e-2, 2.8457508e-1, -4.8720013e-1, 2.7806741e-1, -2.6625827e-2,
		2.0268694e-1, 2.4310374e-1, 2.8237531e-1, 2.8208642e-1)
	return multiply(p, t)
}

func erf(x vector) vector {
	a := magnitude(x)
	large := or(subtract(load(constant(1)), erfc(a)), sign(x))
	small := multiply(x, horner(multiply(x, x), -7.3509955e-4, 5.1768936e-3, -2.6857518e-2,
		1.1283719e-1, -3.7612637e-1, 1.1283792))
	const lessThan = 0x11 // ordered, quiet
	isSmall := YMM()
	VCMPPS(Imm(lessThan), constant(0.6), a, isSmall)
	VBLENDVPS(isSmall, small, large, large)
	return large
}

// relu adds 0 so that −0 becomes 0.
func relu(x vector) vector { return add(atLeast(x, 0), constant(0)) }

func gelu(x vector) vector {
	tail := multiply(erfc(multiply(magnitude(x), constant(math.Sqrt2/2))), constant(0.5))
	normal := subtract(load(constant(1)), tail)
	VBLENDVPS(x, tail, normal, normal) // by the sign of x
	return multiply(x, normal)
}

func geluTanh(x vector) vector {
	const (
		linear = 2 * math.Sqrt2 / math.SqrtPi
		cubic  = 0.044715 * linear
	)
	factor := add(multiply(multiply(x, x), constant(cubic)), constant(linear))
	return logistic(x, multiply(negative(x), factor))
}

// mish has no case for large x either: from 20 on n/(n + 2) is 1.
func mish(x vector) vector {
	e := exp(atMost(x, 20))
	n := multiply(e, add(e, constant(2)))
	return multiply(x, divide(n, add(n, constant(2))))
}

// functions writes the functions of one slice, which they replace.
func functions() {
	for _, f := range []struct {
		name string
		of   func(vector) vector
	}{
		{"Exp", exp}, {"Sigmoid", sigmoid}, {"Tanh", tanh}, {"Erf", erf},
		{"ReLU", relu}, {"ReLUSquared", func(x vector) vector { y := relu(x); return multiply(y, y) }},
		{"GELU", gelu}, {"GELUTanh", geluTanh}, {"Mish", mish},
	} {
		text("float32"+f.name, "(x []float32)", "["+f.name+"].")
		loop{inputs: []string{"x"}, output: "x", elements: func(in []vector, _ vector) vector {
			return f.of(in[0])
		}}.write()
		end()
	}
}

// swish writes the functions with a parameter.
func swish() {
	text("float32Swish", "(x []float32, alpha float32)", "[Swish].")
	factor := negative(broadcast("alpha"))
	loop{inputs: []string{"x"}, output: "x", elements: func(in []vector, _ vector) vector {
		return logistic(in[0], multiply(in[0], factor))
	}}.write()
	end()

	text("float32SwiGLU", "(out, gate, linear []float32, alpha float32)", "[SwiGLU].")
	factor = negative(broadcast("alpha"))
	loop{inputs: []string{"gate", "linear"}, output: "out", elements: func(in []vector, _ vector) vector {
		return multiply(logistic(in[0], multiply(in[0], factor)), in[1])
	}}.write()
	end()
}

// within returns x between two bounds. NaN stays NaN.
func within(x vector, bound float64) vector { return atMost(atLeast(x, -bound), bound) }

func geluGradient(x vector) vector {
	x = within(x, 14)
	tail := multiply(erfc(multiply(magnitude(x), constant(math.Sqrt2/2))), constant(0.5))
	normal := subtract(load(constant(1)), tail)
	VBLENDVPS(x, tail, normal, normal) // by the sign of x
	density := exp(multiply(negative(multiply(x, x)), constant(0.5)))
	return add(normal, multiply(x, multiply(density, constant(0.5*math.Sqrt2/math.SqrtPi))))
}

func geluTanhGradient(x vector) vector {
	const (
		linear = 2 * math.Sqrt2 / math.SqrtPi
		cubic  = 0.044715 * linear
	)
	x = within(x, 10)
	square := multiply(x, x)
	exponent := multiply(x, add(multiply(square, constant(cubic)), constant(linear)))
	slope := multiply(x, add(multiply(square, constant(3*cubic)), constant(linear)))
	return logisticGradient(exponent, slope)
}

// logisticGradient returns s + slope·s·(1 − s), s being sigmoid(x), whose
// 1 − s is e^−x·s.
func logisticGradient(x, slope vector) vector {
	e := exp(negative(x))
	s := divide(load(constant(1)), add(e, constant(1)))
	return add(s, multiply(slope, multiply(s, multiply(e, s))))
}

// geluSlope shares the exponential between the function and its derivative.
func geluSlope(x vector) (value, slope vector) {
	density := exp(multiply(negative(multiply(x, x)), constant(0.5)))
	tail := multiply(multiply(erfcx(multiply(magnitude(x), constant(math.Sqrt2/2))), density), constant(0.5))
	normal := subtract(load(constant(1)), tail)
	VBLENDVPS(x, tail, normal, normal) // by the sign of x
	return multiply(x, normal), add(normal, multiply(within(x, 14), multiply(density, constant(0.5*math.Sqrt2/math.SqrtPi))))
}

// swishSlope is likewise, exponent being α·x.
func swishSlope(x, exponent vector) (value, slope vector) {
	e := exp(negative(exponent))
	whole := add(e, constant(1))
	s := divide(load(constant(1)), whole)
	// 1 − s is e·s, but where e is infinite.
	rest := multiply(atMost(e, 0x1p126), s)
	return divide(x, whole), add(s, multiply(within(exponent, 88), multiply(s, rest)))
}

// slopes writes functions that write a function's values and its derivative.
func slopes() {
	text("float32GELUSlope", "(value, slope, x []float32)", "[GELUSlope].")
	loop{inputs: []string{"x"}, output: "value", second: "slope", pair: func(in []vector) (vector, vector) {
		return geluSlope(in[0])
	}}.write()
	end()

	text("float32SwishSlope", "(value, slope, x []float32, alpha float32)", "[SwishSlope].")
	factor := broadcast("alpha")
	loop{inputs: []string{"x"}, output: "value", second: "slope", pair: func(in []vector) (vector, vector) {
		return swishSlope(in[0], multiply(in[0], factor))
	}}.write()
	end()
}

// gradients writes the products of a gradient and a function's derivative.
func gradients() {
	text("float32ReLUGradient", "(out, gradient, y []float32)", "[ReLUGradient].")
	loop{inputs: []string{"gradient", "y"}, output: "out", unroll: 4, elements: func(in []vector, _ vector) vector {
		const greater = 0x1e // ordered, quiet
		positive := YMM()
		VCMPPS(Imm(greater), constant(0), in[1], positive)
		return and(in[0], positive)
	}}.write()
	end()

	for _, f := range []struct {
		name string
		of   func(vector) vector
	}{{"GELUGradient", geluGradient}, {"GELUTanhGradient", geluTanhGradient}} {
		text("float32"+f.name, "(out, gradient, x []float32)", "["+f.name+"].")
		loop{inputs: []string{"gradient", "x"}, output: "out", elements: func(in []vector, _ vector) vector {
			return multiply(in[0], f.of(in[1]))
		}}.write()
		end()
	}

	text("float32SwishGradient", "(out, gradient, x []float32, alpha float32)", "[SwishGradient].")
	factor := broadcast("alpha")
	loop{inputs: []string{"gradient", "x"}, output: "out", elements: func(in []vector, _ vector) vector {
		exponent := within(multiply(in[1], factor), 88)
		return multiply(in[0], logisticGradient(exponent, exponent))
	}}.write()
	end()
}
