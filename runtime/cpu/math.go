package cpu

import (
	"math"

	"github.com/fmoe-go/fmoe/internal/simd"
)

func init() {
	functions := map[string]func(float64) float64{
		"Floor":      math.Floor,
		"Ceil":       math.Ceil,
		"Round":      math.RoundToEven,
		"Sqrt":       math.Sqrt,
		"Reciprocal": func(x float64) float64 { return 1 / x },
		"Exp":        math.Exp,
		"Log":        math.Log,
		"Erf":        math.Erf,
		"Sin":        math.Sin,
		"Cos":        math.Cos,
		"Tan":        math.Tan,
		"Asin":       math.Asin,
		"Acos":       math.Acos,
		"Atan":       math.Atan,
		"Sinh":       math.Sinh,
		"Cosh":       math.Cosh,
		"Tanh":       math.Tanh,
		"Asinh":      math.Asinh,
		"Acosh":      math.Acosh,
		"Atanh":      math.Atanh,
		"Sigmoid":    func(x float64) float64 { return 1 / (1 + math.Exp(-x)) },
	}
	for name, f := range functions {
		register("", name, newElementwise)
		define[float64](name, overOne(each(f)))
		define[float32](name, overOne(each(func(x float32) float32 { return float32(f(float64(x))) })))
	}
	define[float32]("Sqrt", overOne(each(func(x float32) float32 { return float32(math.Sqrt(float64(x))) })))
	define[float32]("Reciprocal", overOne(each(func(x float32) float32 { return 1 / x })))
	define[float32]("Exp", overOne(inPlace(simd.Exp)))
	define[float32]("Tanh", overOne(inPlace(simd.Tanh)))
	define[float32]("Sigmoid", overOne(inPlace(simd.Sigmoid)))
	define[float32]("Erf", overOne(inPlace(simd.Erf)))

	for _, name := range []string{"Abs", "Neg", "Sign", "BitwiseNot"} {
		register("", name, newElementwise)
	}
	defineSigns[float32]()
	defineSigns[float64]()
	defineBits[int8]()
	defineBits[int16]()
	defineBits[int32]()
	defineBits[int64]()
	defineBits[uint8]()
	defineBits[uint16]()
	defineBits[uint32]()
	defineBits[uint64]()
}

func defineSigns[T number]() {
	define[T]("Neg", overOne(each(func(x T) T { return -x })))
	define[T]("Abs", overOne(each(func(x T) T {
		switch {
		case x < 0:
			return -x
		case x == 0:
			return 0 // for −0
		}
		return x
	})))
	define[T]("Sign", overOne(each(func(x T) T {
		switch {
		case x > 0:
			return 1
		case x < 0:
			return T(0) - 1
		}
		return x // 0 or NaN
	})))
}

func defineBits[T integer]() {
	defineSigns[T]()
	define[T]("BitwiseNot", overOne(each(func(x T) T { return ^x })))
}
