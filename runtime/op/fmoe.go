package op

import (
	"fmt"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

func init() {
	Register(
		// FMoE, ai.fmoe 1: a mixture of experts; see package moe.
		Operator{Domain: moe.Domain, Name: moe.OpType, Since: []int{moe.Version},
			Inputs: Between(1, moe.InputCount), Outputs: Between(1, moe.OutputCount),
			Attributes: moe.Attributes, Infer: inferFMoE},
	)
}

func inferFMoE(c *Inference) error {
	config, err := moe.ParseConfig(c.Node.Node)
	if err != nil {
		return err
	}
	if err := fmoeInputs(c); err != nil {
		return err
	}
	t, err := fmoeType(c)
	if err != nil {
		return err
	}

	// The letters of the operator's definition, as far as they are known.
	experts, model, hidden := c.Fresh(), c.Fresh(), c.Fresh()
	x := slices.Clone(c.Shape(moe.InputX))
	if x != nil {
		if len(x) == 0 {
			return fmt.Errorf("input X is a scalar, needs a last dimension of d_model")
		}
		model = x[len(x)-1]
	}
	for _, in := range []struct {
		slot  int
		shape []*Dim
	}{
		{moe.InputGateWeight, []*Dim{&model, &experts}},
		{moe.InputGateBias, []*Dim{&experts}},
		{moe.InputFC1Weight, []*Dim{&experts, &hidden, &model}},
		{moe.InputFC1Bias, []*Dim{&experts, &hidden}},
		{moe.InputFC2Weight, []*Dim{&experts, &model, &hidden}},
		{moe.InputFC2Bias, []*Dim{&experts, &model}},
		{moe.InputFC3Weight, []*Dim{&experts, &hidden, &model}},
		{moe.InputFC3Bias, []*Dim{&experts, &hidden}},
	} {
		if err := c.unifyInput(in.slot, in.shape); err != nil {
			return err
		}
	}
	if experts.Known() && Dim(config.TopK) > experts {
		return fmt.Errorf("attribute top_k is %d, more than the %d experts", config.TopK, experts)
	}
	if model == 0 {
		return fmt.Errorf("d_model is 0, the tokens have no elements")
	}
	if x != nil {
		x[len(x)-1] = model
	}
	c.Set(moe.OutputY, t, x)
	c.Set(moe.OutputAuxLoss, t, Dims[int]())
	c.Set(moe.OutputExpertCount, onnx.Int64, []Dim{experts})
	return nil
}

// fmoeInputs checks which of the optional inputs are there.
func fmoeInputs(c *Inference) error {
	for _, slot := range []int{moe.InputGateWeight, moe.InputFC1Weight, moe.InputFC2Weight} {
		if !c.Has(slot) {
			return fmt.Errorf("lacks its input %d, %s", slot, moe.InputNames[slot])
		}
	}
	if c.Has(moe.InputFC3Bias) && !c.Has(moe.InputFC3Weight) {
		return fmt.Errorf("has fc3_bias without fc3_weight")
	}
	if c.Has(moe.InputNoiseWeight) {
		return fmt.Errorf("has noise_weight, which the gates %q do not take", moe.Gates)
	}
	return nil
}

// fmoeType returns the type of tokens and experts. The router has it too, or
// is float32 where they are narrower.
func fmoeType(c *Inference) (onnx.DataType, error) {
	var experts []int
	for slot := range moe.InputCount {
		if slot != moe.InputGateWeight && slot != moe.InputGateBias {
			experts = append(experts, slot)
		}
	}
	t, err := c.sameType(experts...)
	switch {
	case err != nil:
		return t, err
	case t != onnx.Undefined && (!t.IsFloat() || t.Bits() < 16):
		return t, fmt.Errorf("cannot compute experts of type %s", t)
	}
	router, err := c.sameType(moe.InputGateWeight, moe.InputGateBias)
	if err != nil {
		return t, err
	}
	if t == onnx.Undefined || router == onnx.Undefined || router == t || router == onnx.Float32 && t.Bits() == 16 {
		return t, nil
	}
	return t, fmt.Errorf("its router has type %s, its experts %s; it must be the same type, or float32 for experts of float16 or bfloat16", router, t)
}

// unifyInput checks the shape of an input against dimensions, and sets those
// that were not known yet.
func (c *Inference) unifyInput(slot int, want []*Dim) error {
	shape := c.Shape(slot)
	if shape == nil {
		return nil
	}
	expected, matches := make([]Dim, len(want)), len(shape) == len(want)
	for i, d := range want {
		expected[i] = *d
	}
	for i := 0; matches && i < len(want); i++ {
		_, err := Unify(expected[i], shape[i])
		matches = err == nil
	}
	if !matches {
		return fmt.Errorf("input %s has shape %s, needs %s", moe.InputNames[slot], FormatDims(shape), FormatDims(expected))
	}
	for i, d := range want {
		*d, _ = Unify(*d, shape[i])
	}
	return nil
}
