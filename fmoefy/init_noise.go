package fmoefy

import (
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

// Noise makes experts copies of the dense MLP with Gaussian noise, so that
// they learn to differ.
const Noise Init = "noise"

var initNoise = initKind{
	name:  Noise,
	about: "copies of the MLP with Gaussian noise",
	given: func(o *Options) string {
		if o.NoiseScale != 0 {
			return "a noise scale"
		}
		return ""
	},
	complete: func(o *Options) error {
		setDefault(&o.NoiseScale, 0.01)
		return checkPositive("noise scale", o.NoiseScale)
	},
	begin: eachAlone(func(s *site) (*expertPlan, error) {
		m := s.each(func(slot int, dense *constant) stack {
			return noisyCopies(dense, s.options.NumExperts, s.options.NoiseScale, s.normals(slot))
		})
		m.promise = func(moe.Config) promise { return promise{changed, "every expert has noise of its own"} }
		return m, nil
	}),
}

// noisyCopies returns copies of c with Gaussian noise, whose standard
// deviation is given in units of that of c.
func noisyCopies(c *constant, experts int, scale float64, g normals) stack {
	return changedCopies(c, experts, g, func(elements []byte) func(int) change {
		std := scale * deviation(c.elementType(), elements)
		return func(int) change {
			return func(_ int64, values, normals []float64) {
				for i := range values {
					values[i] += float64(std * normals[i]) // not fused: the same bytes on every machine
				}
			}
		}
	})
}

// deviation returns the standard deviation of floating-point elements.
func deviation(t onnx.DataType, elements []byte) float64 {
	var m moments
	for values := range pieces(t, elements) {
		for _, x := range values {
			m.add(x)
		}
	}
	return m.deviation()
}
