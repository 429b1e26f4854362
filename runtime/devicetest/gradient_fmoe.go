package devicetest

import (
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// The gradients of FMoE with every gate, of all outputs that the loss may
// depend on.
func init() {
	for _, gate := range moe.Gates() {
		config := moe.DefaultConfig(gate)
		config.TopK, config.Activation, config.Tile = 2, moe.SiLU, min(config.Tile, 3)
		if config.Check(4) != nil {
			config.TopK = 1
		}
		GradientCases = append(GradientCases, fmoeGradient("FMoE/"+gate, config, true, false))
	}
	GradientCases = append(GradientCases, fmoeGradient("FMoE/gated", moe.NaiveConfig(2, moe.GELU), false, true))
}

// fmoeGradient is the case of a layer of 4 experts with all inputs that its
// gate takes.
func fmoeGradient(name string, config moe.Config, training, gated bool) GradientCase {
	const experts, d, h, tokens = 4, 5, 6, 12
	in := make([]Input, moe.InputCount)
	for i := range in {
		in[i].Absent = true
	}
	in[moe.InputX] = Random(2, tokens/2, d)
	in[moe.InputGateWeight], in[moe.InputGateBias] = Random(d, experts), Random(experts)
	in[moe.InputFC1Weight], in[moe.InputFC1Bias] = Random(experts, h, d), Random(experts, h)
	in[moe.InputFC2Weight], in[moe.InputFC2Bias] = Random(experts, d, h), Random(experts, d)
	if gated {
		in[moe.InputFC3Weight], in[moe.InputFC3Bias] = Random(experts, h, d), Random(experts, h)
	}
	kind, err := moe.KindOf(config.Gate)
	if err != nil {
		panic(err)
	}
	if training {
		in[moe.InputStep] = Input{Value: tensor.Scalar(int64(3))}
		if kind.Noisy {
			in[moe.InputNoiseWeight] = Random(d, experts)
		}
		mask := tensor.New(onnx.Bool, 2, tokens/2)
		for i := range mask.Data {
			mask.Data[i] = byte(min(1, i%5))
		}
		in[moe.InputMask] = Input{Value: mask}
	}
	return GradientCase{Name: name, Domain: moe.Domain, OpType: moe.OpType, Attributes: config.Encode(), Inputs: in, Outputs: moe.OutputHidden}
}
