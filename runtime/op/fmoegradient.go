package op

import (
	"fmt"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

func init() {
	Register(
		// FMoEGradient, ai.fmoe 1: the gradients of FMoE; see package moe.
		Operator{Domain: moe.Domain, Name: moe.GradientOpType, Since: []int{moe.Version},
			Inputs: Between(1, moe.GradientInputCount), Outputs: Between(0, moe.GradientCount),
			Attributes: moe.Attributes, Infer: inferFMoEGradient},
	)
}

func inferFMoEGradient(c *Inference) error {
	l, err := inferFMoELayer(c)
	if err != nil {
		return err
	}
	for _, slot := range []int{moe.SavedRouterLogits, moe.SavedHidden, moe.SavedFactor} {
		if want := slot != moe.SavedFactor || c.Has(moe.InputFC3Weight); c.Has(slot) != want {
			return fmt.Errorf("input %d is there: %t, must be %t", slot, c.Has(slot), want)
		}
	}
	if err := l.checkGradients(c); err != nil {
		return err
	}
	c.Set(moe.InputX, l.tokens, l.x)
	for i := moe.InputX + 1; i < moe.GradientCount; i++ {
		if c.Has(i) && (c.Type(i) == l.tokens || !slices.Contains(fmoeWeights, i)) {
			c.Set(i, c.Type(i), c.Shape(i))
		}
	}
	return nil
}

// differentiateFMoE adds one FMoEGradient node for all inputs.
func differentiateFMoE(b *Backward) {
	if err := trainable(b); err != nil {
		b.Fail(err)
		return
	}
	inputs := make([]Value, moe.GradientInputCount)
	for i := range inputs {
		inputs[i] = b.Input(i)
	}
	inputs[moe.GradientY] = b.Gradient(moe.OutputY)
	inputs[moe.GradientAuxLoss] = b.Gradient(moe.OutputAuxLoss)
	inputs[moe.GradientZLoss] = b.Gradient(moe.OutputZLoss)
	inputs[moe.GradientExpertScores] = b.Gradient(moe.OutputExpertScores)
	inputs[moe.GradientRouterLogits] = b.Gradient(moe.OutputRouterLogits)
	inputs[moe.SavedRouterLogits] = b.Output(moe.OutputRouterLogits)
	inputs[moe.SavedHidden] = b.Output(moe.OutputHidden)
	if b.Input(moe.InputFC3Weight) != NoValue {
		inputs[moe.SavedFactor] = b.Output(moe.OutputFactor)
	}
	n := &onnx.Node{Domain: moe.Domain, OpType: moe.GradientOpType, Attributes: b.Node.Attributes}
	for i, g := range b.AddMany(n, moe.GradientCount, inputs...) {
		if b.Wants(i) {
			b.Set(i, g)
		}
	}
}

// trainable fails where gradients are wanted that there are none of.
func trainable(b *Backward) error {
	config, err := moe.ParseConfig(b.Node.Node)
	if err != nil {
		return err
	}
	t := b.Fact(b.Input(moe.InputX)).Type
	for _, slot := range fmoeWeights {
		if w := b.Fact(b.Input(slot)).Type; b.Wants(slot) && w != t {
			return fmt.Errorf("%s has type %s and no gradient; freeze it, or store experts that are to be trained in %s", moe.InputNames[slot], w, t)
		}
	}
	if b.Gradient(moe.OutputHidden) != NoValue || b.Gradient(moe.OutputFactor) != NoValue {
		return fmt.Errorf("the loss depends on the outputs hidden or factor, of which there is no gradient")
	}
	shape := b.Fact(b.Input(moe.InputGateWeight)).Shape
	if len(shape) != 2 || !shape[1].Known() {
		return fmt.Errorf("gate_weight has shape %s; the gradient needs to know the number of experts", FormatDims(shape))
	}
	gate, err := moe.NewGate(config, int(shape[1]))
	if err != nil {
		return err
	}
	if _, ok := gate.(moe.Differentiable); !ok {
		return fmt.Errorf("the gate %s cannot be trained: it must implement moe.Differentiable; \"fmoefy regate\" gives the model another one", config.Gate)
	}
	return nil
}

// checkGradients checks the inputs of FMoEGradient behind those of FMoE.
func (l *fmoeLayer) checkGradients(c *Inference) error {
	for slot := moe.GradientY; slot < moe.GradientInputCount; slot++ {
		want := l.router
		if slot == moe.GradientY || slot == moe.SavedHidden || slot == moe.SavedFactor {
			want = l.tokens
		}
		if c.Has(slot) && c.Type(slot) != want {
			return fmt.Errorf("input %d has type %s, must be %s", slot, c.Type(slot), want)
		}
	}
	rows := l.rows(c)
	for slot, want := range map[int][]Dim{
		moe.GradientY:            l.x,
		moe.GradientAuxLoss:      {},
		moe.GradientZLoss:        {},
		moe.GradientRouterLogits: JoinDims(l.leading, []Dim{l.experts}),
		moe.SavedRouterLogits:    JoinDims(l.leading, []Dim{l.experts}),
		moe.SavedHidden:          {rows, l.hidden},
		moe.SavedFactor:          {rows, l.hidden},
	} {
		if shape := c.Shape(slot); l.x != nil && shape != nil {
			if err := c.wantShape(slot, want...); err != nil {
				return err
			}
		}
	}
	return nil
}
