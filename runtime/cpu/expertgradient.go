package cpu

import (
	"math"

	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

// slopes are those of the experts' activations: they write what an activation
// makes of x to value, and its derivative at x to slope.
type slopes struct {
	float32 func(value, slope, x []float32)
	float64 func(value, slope, x []float64)
}

var expertSlopes = map[moe.Activation]slopes{
	moe.Identity:  slopesOf(moe.Identity, func(float64) float64 { return 1 }),
	moe.ReLU:      slopesOf(moe.ReLU, reluSlope),
	moe.ReLU2:     slopesOf(moe.ReLU2, func(x float64) float64 { return 2 * relu(x) }),
	moe.GELU:      {simd.GELUSlope, slopesOf(moe.GELU, geluSlope).float64},
	moe.GELUTanh:  {geluTanhSlopes, slopesOf(moe.GELUTanh, geluTanhSlope).float64},
	moe.QuickGELU: {swishSlopes(1.702), slopesOf(moe.QuickGELU, swishSlope(1.702)).float64},
	moe.SiLU:      {swishSlopes(1), slopesOf(moe.SiLU, swishSlope(1)).float64},
	moe.Mish:      slopesOf(moe.Mish, mishSlope),
	moe.HardSwish: slopesOf(moe.HardSwish, hardSwishSlope),
	moe.Sigmoid:   slopesOf(moe.Sigmoid, sigmoidSlope),
	moe.Tanh:      slopesOf(moe.Tanh, tanhSlope),
}

// slopesOf makes them from an activation's derivative.
func slopesOf(a moe.Activation, slope func(float64) float64) slopes {
	return slopes{withSlope(expertActivations[a].float32, slope), withSlope(expertActivations[a].float64, slope)}
}

func withSlope[T float](activate func([]T), of func(float64) float64) func(value, slope, x []T) {
	return func(value, slope, x []T) {
		for i, v := range x {
			slope[i] = T(of(float64(v)))
		}
		copy(value, x)
		activate(value)
	}
}

func geluTanhSlopes(value, slope, x []float32) {
	for i := range slope {
		slope[i] = 1
	}
	simd.GELUTanhGradient(slope, slope, x)
	copy(value, x)
	simd.GELUTanh(value)
}

func swishSlopes(alpha float32) func(value, slope, x []float32) {
	return func(value, slope, x []float32) { simd.SwishSlope(value, slope, x, alpha) }
}

func reluSlope(x float64) float64 {
	if x > 0 {
		return 1
	}
	return 0
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
