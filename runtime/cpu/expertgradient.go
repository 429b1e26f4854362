package cpu

import (
	"math"

	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

// expertDerivatives are those of the experts' activations: they multiply dy by
// the derivative at x.
var expertDerivatives = map[moe.Activation]struct {
	float32 func(dy, x []float32)
	float64 func(dy, x []float64)
}{
	moe.Identity: {func(_, _ []float32) {}, func(_, _ []float64) {}},
	moe.ReLU:     {timesStep[float32], timesStep[float64]},
	moe.ReLU2: {timesSlope[float32](func(x float64) float64 { return 2 * relu(x) }),
		timesSlope[float64](func(x float64) float64 { return 2 * relu(x) })},
	moe.GELU:      {func(dy, x []float32) { simd.GELUGradient(dy, dy, x) }, timesSlope[float64](geluSlope)},
	moe.GELUTanh:  {func(dy, x []float32) { simd.GELUTanhGradient(dy, dy, x) }, timesSlope[float64](geluTanhSlope)},
	moe.QuickGELU: {func(dy, x []float32) { simd.SwishGradient(dy, dy, x, 1.702) }, timesSlope[float64](swishSlope(1.702))},
	moe.SiLU:      {func(dy, x []float32) { simd.SwishGradient(dy, dy, x, 1) }, timesSlope[float64](swishSlope(1))},
	moe.Mish:      {timesSlope[float32](mishSlope), timesSlope[float64](mishSlope)},
	moe.HardSwish: {timesSlope[float32](hardSwishSlope), timesSlope[float64](hardSwishSlope)},
	moe.Sigmoid:   {timesSlope[float32](sigmoidSlope), timesSlope[float64](sigmoidSlope)},
	moe.Tanh:      {timesSlope[float32](tanhSlope), timesSlope[float64](tanhSlope)},
}

func timesSlope[T float](slope func(float64) float64) func(dy, x []T) {
	return func(dy, x []T) {
		for i, v := range x {
			dy[i] *= T(slope(float64(v)))
		}
	}
}

func timesStep[T float](dy, x []T) {
	for i, v := range x {
		if v <= 0 {
			dy[i] = 0
		}
	}
}

func swishSlope(alpha float64) func(float64) float64 {
	return func(x float64) float64 {
		x = max(-700, min(700, alpha*x)) // where the slope is 0 or 1
		return logisticSlope(x, x)
	}
}

func mishSlope(x float64) float64 {
	y := math.Tanh(softplus(x))
	return y + x*(1-y*y)/(1+math.Exp(-x))
}

func hardSwishSlope(x float64) float64 {
	switch {
	case x <= -3:
		return 0
	case x >= 3:
		return 1
	}
	return x/3 + 0.5
}

func sigmoidSlope(x float64) float64 {
	s := 1 / (1 + math.Exp(-x))
	return s * (1 - s)
}

func tanhSlope(x float64) float64 {
	y := math.Tanh(x)
	return 1 - y*y
}
