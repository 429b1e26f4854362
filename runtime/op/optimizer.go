package op

import "github.com/fmoe-go/fmoe/runtime/moe"

// The input slots of an AdamUpdate node; those from AdamScale on are tensors of
// one element.
const (
	AdamWeight   = iota // any shape, which the next three have too
	AdamGradient        // of the loss
	AdamFirst           // m, mean of the gradients
	AdamSecond          // v, mean of their squares
	AdamScale           // multiplies the gradient
	AdamDecay           // is added to it, times the weight
	AdamKeep            // multiplies the weight
	AdamBeta1           // multiplies m, and
	AdamRest1           // the gradient that is added to it
	AdamBeta2           // multiplies v, and
	AdamRest2           // the square that is added to it
	AdamRate            // multiplies m
	AdamRoot            // multiplies √v
	AdamEpsilon         // is added to it
	AdamInputs
)

func init() {
	Register(
		// AdamUpdate, a step of Adam (arXiv 1412.6980) or AdamW (arXiv
		// 1711.05101), depending on its numbers:
		//
		//	g = scale·gradient + decay·weight
		//	m' = beta1·m + rest1·g
		//	v' = beta2·v + rest2·g²
		//	weight' = keep·weight − rate·m' / (root·√v' + epsilon)
		//
		// Outputs are weight', m' and v', each of whose elements depends on the
		// elements of the same place.
		Operator{Domain: moe.Domain, Name: "AdamUpdate", Since: []int{1}, Inputs: Exactly(AdamInputs), Outputs: Exactly(3),
			Infer: inferAdamUpdate},
	)
}

func inferAdamUpdate(c *Inference) error {
	inputs := make([]int, AdamInputs)
	for i := range inputs {
		inputs[i] = i
	}
	t, err := c.typeAmong(floatTypes, inputs...)
	if err != nil {
		return err
	}
	shape := c.Shape(AdamWeight)
	if shape != nil {
		for i := AdamGradient; i <= AdamSecond; i++ {
			if err := c.wantShape(i, shape...); err != nil {
				return err
			}
		}
	}
	for i := AdamScale; i < AdamInputs; i++ {
		if err := c.wantScalar(i); err != nil {
			return err
		}
	}
	for i := range 3 {
		c.Set(i, t, shape)
	}
	return nil
}
