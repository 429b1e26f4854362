package cpu

import (
	"fmt"
	"math"
	"unsafe"

	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	for _, name := range []string{"Add", "Sub", "Mul", "Div", "Mod", "Pow", "PRelu", "Min", "Max", "Sum", "Mean", "Clip",
		"BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor"} {
		register("", name, newElementwise)
	}
	defineInteger[int8]()
	defineInteger[int16]()
	defineInteger[int32]()
	defineInteger[int64]()
	defineInteger[uint8]()
	defineInteger[uint16]()
	defineInteger[uint32]()
	defineInteger[uint64]()
	defineFloat[float32]()
	defineFloat[float64]()

	define[float32]("Add", overTwo(simd.Add))
	define[float32]("Sub", overTwo(simd.Sub))
	define[float32]("Mul", overTwo(simd.Mul))
	define[float32]("Div", overTwo(simd.Div))
	define[float32]("Sum", overMany(simd.Add, nil))
	definePower[int32](integerPower)
	definePower[int64](integerPower)
	definePower[float32](floatPower)
	definePower[float64](floatPower)
}

func defineNumber[T number]() {
	add := func(x, y T) T { return x + y }
	define[T]("Add", overTwo(eachPair(add)))
	define[T]("Sub", overTwo(eachPair(func(x, y T) T { return x - y })))
	define[T]("Mul", overTwo(eachPair(func(x, y T) T { return x * y })))
	define[T]("PRelu", overTwo(eachPair(func(x, slope T) T {
		if x < 0 {
			return x * slope
		}
		return x
	})))
	define[T]("Min", overMany(eachPair(func(x, y T) T { return min(x, y) }), nil))
	define[T]("Max", overMany(eachPair(func(x, y T) T { return max(x, y) }), nil))
	define[T]("Sum", overMany(eachPair(add), nil))
	define[T]("Mean", overMany(eachPair(add), func(sum []T, n int) {
		for i := range sum {
			sum[i] /= T(n)
		}
	}))
	define[T]("Clip", bindClip[T])
}

func defineInteger[T integer]() {
	defineNumber[T]()
	// ONNX leaves division by zero open; like numpy's, ours gives 0.
	define[T]("Div", overTwo(eachPair(func(x, y T) T {
		if y == 0 {
			return 0
		}
		return x / y
	})))
	remainder := overTwo(eachPair(func(x, y T) T {
		if y == 0 {
			return 0
		}
		return x % y
	}))
	modulo := overTwo(eachPair(func(x, y T) T {
		if y == 0 {
			return 0
		}
		r := x % y
		if r != 0 && (r < 0) != (y < 0) {
			r += y
		}
		return r
	}))
	define[T]("Mod", either("fmod", remainder, modulo))
	define[T]("BitwiseAnd", overTwo(eachPair(func(x, y T) T { return x & y })))
	define[T]("BitwiseOr", overTwo(eachPair(func(x, y T) T { return x | y })))
	define[T]("BitwiseXor", overTwo(eachPair(func(x, y T) T { return x ^ y })))
	define[T]("BitShift", bindShift[T])
}

func defineFloat[T float]() {
	defineNumber[T]()
	define[T]("Div", overTwo(eachPair(func(x, y T) T { return x / y })))
	remainder := overTwo(eachPair(func(x, y T) T { return T(math.Mod(float64(x), float64(y))) }))
	modulo := overTwo(eachPair(func(x, y T) T {
		r := math.Mod(float64(x), float64(y))
		switch {
		case r == 0:
			r = math.Copysign(0, float64(y))
		case (r < 0) != (y < 0):
			r += float64(y)
		}
		return T(r)
	}))
	define[T]("Mod", either("fmod", remainder, modulo))
}

// either chooses between binders by an integer attribute, 0 where the node
// has none.
func either(attribute string, set, unset binder) binder {
	return func(d *Device, n *op.Node, c *device.Call) (func() error, error) {
		if n.Int(attribute, 0) != 0 {
			return set(d, n, c)
		}
		return unset(d, n, c)
	}
}

// bindShift shifts by the unsigned reading of the second operand: a negative
// amount is a very large one, which leaves only copies of the sign.
func bindShift[T integer](d *Device, n *op.Node, c *device.Call) (func() error, error) {
	shift := func(x, y T) T { return x << uint64(y) }
	if n.String("direction", "") == "RIGHT" {
		shift = func(x, y T) T { return x >> uint64(y) }
	}
	return overTwo(eachPair(shift))(d, n, c)
}

// bindClip reads the limits, attributes before version 11, at each run.
func bindClip[T number](d *Device, n *op.Node, c *device.Call) (func() error, error) {
	limit := func(input int, attribute string) (T, bool) {
		if a := n.Attribute(attribute); a != nil {
			return T(a.Float), true
		}
		if input < len(c.In) && c.In[input] != nil {
			return tensor.Of[T](c.In[input])[0], true
		}
		return 0, false
	}
	for _, t := range c.In[1:] {
		if t != nil && t.Len() != 1 {
			return nil, fmt.Errorf("limit of shape %s, needs a scalar", tensor.FormatShape(t.Shape))
		}
	}
	loop := func(out, x []T) {
		copy(out, x)
		if lower, ok := limit(1, "min"); ok {
			for i, v := range out {
				out[i] = max(v, lower)
			}
		}
		if upper, ok := limit(2, "max"); ok {
			for i, v := range out {
				out[i] = min(v, upper)
			}
		}
	}
	return overOne(loop)(d, n, c)
}

// definePower gives Pow its arithmetic on bases of type T. The exponent may
// have any type; power computes in T's own way and gets exponents as float64,
// which holds every exponent that matters.
func definePower[T number](power func(x T, y float64) T) {
	table := map[onnx.DataType]binder{}
	addPower[int8](table, power)
	addPower[int16](table, power)
	addPower[int32](table, power)
	addPower[int64](table, power)
	addPower[uint8](table, power)
	addPower[uint16](table, power)
	addPower[uint32](table, power)
	addPower[uint64](table, power)
	addPower[float32](table, power)
	addPower[float64](table, power)
	define[T]("Pow", func(d *Device, n *op.Node, c *device.Call) (func() error, error) {
		bind := table[c.In[1].Type]
		if bind == nil {
			return nil, device.UnsupportedType(c.In[1].Type)
		}
		return bind(d, n, c)
	})
}

func addPower[E, T number](table map[onnx.DataType]binder, power func(x T, y float64) T) {
	table[tensor.TypeOf[E]()] = overTwo(func(out, x []T, y []E) {
		x, y = x[:len(out)], y[:len(out)]
		for i := range out {
			switch e := y[i]; e {
			case 2:
				out[i] = x[i] * x[i]
			case 3:
				out[i] = x[i] * x[i] * x[i]
			default:
				out[i] = power(x[i], float64(e))
			}
		}
	})
}

func floatPower[T float](x T, y float64) T {
	if y == 0.5 && x >= 0 {
		return T(math.Sqrt(float64(x)))
	}
	return T(math.Pow(float64(x), y))
}

// integerPower multiplies modulo 2^bits where the exponent is a natural
// number, as integer arithmetic does; other powers are truncated.
func integerPower[T integer](x T, y float64) T {
	if y != math.Trunc(y) || y < 0 || y >= 1<<63 {
		power := math.Pow(float64(x), y)
		if limit := math.Ldexp(1, 8*int(unsafe.Sizeof(x))-1); !(math.Abs(power) < limit) {
			return 0
		}
		return T(power)
	}
	result := T(1)
	for e := uint64(y); e > 0; e >>= 1 {
		if e&1 != 0 {
			result *= x
		}
		x *= x
	}
	return result
}
