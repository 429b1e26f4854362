package op

import (
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

func init() {
	Register(
		// MoE of ONNX Runtime, com.microsoft 1: a mixture of experts whose
		// router is computed elsewhere; see moe.MicrosoftConfig.
		Operator{Domain: moe.MicrosoftDomain, Name: "MoE", Since: []int{1}, Inputs: Between(3, 8), Outputs: Exactly(1),
			Attributes: moe.MicrosoftAttributes[:8], Gradient: refuseMoEGradient, Infer: inferMoE},
		// QMoE of ONNX Runtime, com.microsoft 1: MoE with weights of 2, 4 or 8
		// bits, without the inputs from router_weights on.
		Operator{Domain: moe.MicrosoftDomain, Name: "QMoE", Since: []int{1}, Inputs: Between(4, 14), Outputs: Exactly(1),
			Attributes: moe.MicrosoftAttributes, Gradient: refuseRounding, Infer: inferMoE},
	)
}

func inferMoE(c *Inference) error {
	config, err := moe.ParseMicrosoft(c.Node.Node)
	if err != nil {
		return err
	}
	floats := []int{moe.MicrosoftX, moe.MicrosoftLogits}
	var packed []int
	for i, l := range config.Layers {
		if i < 2 && !c.Has(l.Weight) {
			return fmt.Errorf("lacks its input %d, a weight", l.Weight)
		}
		floats = append(floats, l.Bias)
		if config.Quantized {
			packed = append(packed, l.Weight, l.Zeros)
		} else {
			floats = append(floats, l.Weight)
		}
	}
	t, err := c.typeAmong([]onnx.DataType{onnx.Float32, onnx.Float16, onnx.BFloat16}, floats...)
	if err != nil {
		return err
	}
	if _, err := c.typeAmong([]onnx.DataType{onnx.Uint8}, packed...); err != nil {
		return err
	}
	shapes := make([][]int, len(c.Inputs))
	known := true
	for i := range c.Inputs {
		if c.Has(i) {
			known = known && c.Inputs[i].Concrete()
			if known {
				shapes[i] = c.Inputs[i].Ints()
			}
		}
	}
	if known {
		if _, err := config.Shape(shapes); err != nil {
			return err
		}
	}
	c.Set(0, t, c.Shape(moe.MicrosoftX))
	return nil
}

// refuseMoEGradient says how a model with this operator is trained.
func refuseMoEGradient(b *Backward) {
	b.Fail(fmt.Errorf("%w: rewrite com.microsoft::MoE to FMoE by `fmoefy import`, and train that model", ErrNoGradient))
}
