package cpu

import (
	"math"

	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/op"
)

// A formula gives an activation function for the attributes of a node.
type formula func(n *op.Node) func(x float64) float64

// A vectorFormula gives the same for float32, over a slice in place.
type vectorFormula func(n *op.Node) func(x []float32)

func init() {
	for _, a := range []struct {
		name   string
		scalar formula
		vector vectorFormula // nil: the scalar one serves float32 too
	}{
		{"Relu", plain(relu), func(*op.Node) func([]float32) { return simd.ReLU }},
		{"LeakyRelu", leakyRelu, nil},
		{"ThresholdedRelu", thresholdedRelu, nil},
		{"Elu", elu, nil},
		{"Selu", selu, nil},
		{"Celu", celu, nil},
		{"HardSigmoid", hardSigmoid, nil},
		{"HardSwish", plain(func(x float64) float64 { return x * max(0, min(1, x/6+0.5)) }), nil},
		{"Softplus", plain(softplus), nil},
		{"Softsign", plain(func(x float64) float64 { return x / (1 + math.Abs(x)) }), nil},
		{"Shrink", shrink, nil},
		{"Mish", plain(func(x float64) float64 { return x * math.Tanh(softplus(x)) }), func(*op.Node) func([]float32) { return simd.Mish }},
		{"Gelu", gelu, geluVector},
		{"Swish", swish(1), swishVector(1)},
	} {
		register("", a.name, newElementwise)
		define[float64](a.name, scalarActivation[float64](a.scalar))
		if a.vector != nil {
			define[float32](a.name, vectorActivation(a.vector))
		} else {
			define[float32](a.name, scalarActivation[float32](a.scalar))
		}
	}
	for _, name := range []string{"Gelu", "QuickGelu", "FastGelu", "BiasGelu"} {
		register("com.microsoft", name, newElementwise)
	}
	defineIntegerActivations[int8]()
	defineIntegerActivations[int16]()
	defineIntegerActivations[int32]()
	defineIntegerActivations[int64]()
	defineIntegerActivations[uint8]()
	defineIntegerActivations[uint16]()
	defineIntegerActivations[uint32]()
	defineIntegerActivations[uint64]()

	define[float32]("QuickGelu", vectorActivation(swishVector(1.702)))
	define[float64]("QuickGelu", scalarActivation[float64](swish(1.702)))
	define[float32]("BiasGelu", biased(simd.GELU))
	define[float64]("BiasGelu", biased(overSlice(geluExact)))
	define[float32]("FastGelu", biased(simd.GELUTanh))
	define[float64]("FastGelu", biased(overSlice(geluTanh)))

	for _, name := range []string{"ReluGradient", "GeluGradient", "SwishGradient"} {
		register(moe.Domain, name, newElementwise)
	}
	define[float32]("ReluGradient", overTwo(simd.ReLUGradient))
	define[float64]("ReluGradient", overTwo(eachPair(func(g, y float64) float64 {
		if y > 0 {
			return g
		}
		return 0
	})))
	define[float32]("GeluGradient", func(d *Device, n *op.Node, c *device.Call) (func() error, error) {
		loop := simd.GELUGradient
		if n.String("approximate", "none") == "tanh" {
			loop = simd.GELUTanhGradient
		}
		return overTwo(loop)(d, n, c)
	})
	define[float64]("GeluGradient", func(d *Device, n *op.Node, c *device.Call) (func() error, error) {
		slope := geluSlope
		if n.String("approximate", "none") == "tanh" {
			slope = geluTanhSlope
		}
		return overTwo(eachPair(func(g, x float64) float64 { return g * slope(x) }))(d, n, c)
	})
	define[float32]("SwishGradient", func(d *Device, n *op.Node, c *device.Call) (func() error, error) {
		alpha := n.Float("alpha", 1)
		return overTwo(func(out, g, x []float32) { simd.SwishGradient(out, g, x, alpha) })(d, n, c)
	})
	define[float64]("SwishGradient", func(d *Device, n *op.Node, c *device.Call) (func() error, error) {
		slope := swishSlope(float64(n.Float("alpha", 1)))
		return overTwo(eachPair(func(g, x float64) float64 { return g * slope(x) }))(d, n, c)
	})

	register("", "SwiGLU", newElementwise)
	define[float32]("SwiGLU", func(d *Device, n *op.Node, c *device.Call) (func() error, error) {
		alpha := n.Float("alpha", 1)
		return overTwo(func(out, gate, linear []float32) { simd.SwiGLU(out, gate, linear, alpha) })(d, n, c)
	})
	define[float64]("SwiGLU", func(d *Device, n *op.Node, c *device.Call) (func() error, error) {
		f := swish(1)(n)
		return overTwo(eachPair(func(gate, linear float64) float64 { return f(gate) * linear }))(d, n, c)
	})
}

func scalarActivation[T number](f formula) binder {
	return func(d *Device, n *op.Node, c *device.Call) (func() error, error) {
		scalar := f(n)
		return overOne(each(func(x T) T { return T(scalar(float64(x))) }))(d, n, c)
	}
}

func vectorActivation(f vectorFormula) binder {
	return func(d *Device, n *op.Node, c *device.Call) (func() error, error) {
		return overOne(inPlace(f(n)))(d, n, c)
	}
}

func defineIntegerActivations[T integer]() {
	define[T]("Relu", overOne(each(func(x T) T { return max(x, 0) })))
	define[T]("Shrink", scalarActivation[T](shrink))
}

// biased is an activation of the sum of input 0 and, where there is one,
// input 1.
func biased[T float](activate func([]T)) binder {
	sum := overTwo(func(out, x, bias []T) {
		for i := range out {
			out[i] = x[i] + bias[i]
		}
		activate(out)
	})
	return func(d *Device, n *op.Node, c *device.Call) (func() error, error) {
		if len(c.In) > 1 && c.In[1] != nil {
			return sum(d, n, c)
		}
		return overOne(inPlace(activate))(d, n, c)
	}
}

func overSlice(f func(float64) float64) func([]float64) {
	return func(x []float64) {
		for i, v := range x {
			x[i] = f(v)
		}
	}
}

func plain(f func(float64) float64) formula {
	return func(*op.Node) func(float64) float64 { return f }
}

func relu(x float64) float64 { return max(x, 0) }

func softplus(x float64) float64 { return max(x, 0) + math.Log1p(math.Exp(-math.Abs(x))) }

func leakyRelu(n *op.Node) func(float64) float64 {
	alpha := float64(n.Float("alpha", 0.01))
	return func(x float64) float64 {
		if x < 0 {
			return alpha * x
		}
		return x
	}
}

func thresholdedRelu(n *op.Node) func(float64) float64 {
	alpha := float64(n.Float("alpha", 1))
	return func(x float64) float64 {
		if x <= alpha {
			return 0
		}
		return x
	}
}

func elu(n *op.Node) func(float64) float64 {
	return exponentialUnit(1, float64(n.Float("alpha", 1)), 1)
}

func selu(n *op.Node) func(float64) float64 {
	return exponentialUnit(float64(n.Float("gamma", 1.0507010221481323)), float64(n.Float("alpha", 1.6732631921768188)), 1)
}

func celu(n *op.Node) func(float64) float64 {
	alpha := float64(n.Float("alpha", 1))
	return exponentialUnit(1, alpha, alpha)
}

// exponentialUnit is gamma·x for positive x, gamma·alpha·(e^(x/scale) − 1) for
// others.
func exponentialUnit(gamma, alpha, scale float64) func(float64) float64 {
	return func(x float64) float64 {
		if x > 0 {
			return gamma * x
		}
		return gamma * alpha * math.Expm1(x/scale)
	}
}

func hardSigmoid(n *op.Node) func(float64) float64 {
	alpha, beta := float64(n.Float("alpha", 0.2)), float64(n.Float("beta", 0.5))
	return func(x float64) float64 { return max(0, min(1, alpha*x+beta)) }
}

func shrink(n *op.Node) func(float64) float64 {
	lambda, bias := float64(n.Float("lambd", 0.5)), float64(n.Float("bias", 0))
	return func(x float64) float64 {
		switch {
		case x < -lambda:
			return x + bias
		case x > lambda:
			return x - bias
		}
		return 0
	}
}

func gelu(n *op.Node) func(float64) float64 {
	if n.String("approximate", "none") == "tanh" {
		return geluTanh
	}
	return geluExact
}

func geluVector(n *op.Node) func([]float32) {
	if n.String("approximate", "none") == "tanh" {
		return simd.GELUTanh
	}
	return simd.GELU
}

func geluExact(x float64) float64 { return 0.5 * x * math.Erfc(-x/math.Sqrt2) }

func geluTanh(x float64) float64 {
	return 0.5 * x * (1 + math.Tanh(math.Sqrt2/math.SqrtPi*(x+0.044715*x*x*x)))
}

func geluSlope(x float64) float64 {
	x = max(-40, min(40, x)) // where the density is 0
	return 0.5*math.Erfc(-x/math.Sqrt2) + x*math.Exp(-x*x/2)/(math.Sqrt2*math.SqrtPi)
}

func geluTanhSlope(x float64) float64 {
	const linear, cubic = 2 * math.Sqrt2 / math.SqrtPi, 0.044715 * 2 * math.Sqrt2 / math.SqrtPi
	x = max(-20, min(20, x)) // where the slope is 0 or 1
	return logisticSlope(x*(linear+cubic*x*x), x*(linear+3*cubic*x*x))
}

// logisticSlope is s + slope·s·(1 − s), s being sigmoid(x) and 1 − s = e^−x·s.
func logisticSlope(x, slope float64) float64 {
	e := math.Exp(-x)
	s := 1 / (1 + e)
	return s + slope*(s*(e*s))
}

// swish is x·sigmoid(alpha·x); fallback is the operator's default for alpha.
func swish(fallback float32) formula {
	return func(n *op.Node) func(float64) float64 {
		alpha := float64(n.Float("alpha", fallback))
		return func(x float64) float64 { return x / (1 + math.Exp(-alpha*x)) }
	}
}

func swishVector(fallback float32) vectorFormula {
	return func(n *op.Node) func([]float32) {
		alpha := n.Float("alpha", fallback)
		return func(x []float32) { simd.Swish(x, alpha) }
	}
}
