package cpu

import (
	"math"

	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

// expertActivations are the activations of FMoE's experts, in place.
var expertActivations = map[moe.Activation]struct {
	float32 func([]float32)
	float64 func([]float64)
}{
	moe.Identity:  {func([]float32) {}, func([]float64) {}},
	moe.ReLU:      {simd.ReLU, overSlice(relu)},
	moe.ReLU2:     {simd.ReLUSquared, overSlice(func(x float64) float64 { return relu(x) * relu(x) })},
	moe.GELU:      {simd.GELU, overSlice(geluExact)},
	moe.GELUTanh:  {simd.GELUTanh, overSlice(geluTanh)},
	moe.QuickGELU: {simd.QuickGELU, overSlice(swish64(1.702))},
	moe.SiLU:      {simd.SiLU, overSlice(swish64(1))},
	moe.Mish:      {simd.Mish, overSlice(func(x float64) float64 { return x * math.Tanh(softplus(x)) })},
	moe.HardSwish: {hardSwish32, overSlice(func(x float64) float64 { return x * max(0, min(1, x/6+0.5)) })},
	moe.Sigmoid:   {simd.Sigmoid, overSlice(func(x float64) float64 { return 1 / (1 + math.Exp(-x)) })},
	moe.Tanh:      {simd.Tanh, overSlice(math.Tanh)},
}

func swish64(alpha float64) func(float64) float64 {
	return func(x float64) float64 { return x / (1 + math.Exp(-alpha*x)) }
}

func hardSwish32(x []float32) {
	for i, v := range x {
		x[i] = v * max(0, min(1, v/6+0.5))
	}
}
