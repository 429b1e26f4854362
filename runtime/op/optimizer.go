package op

import (
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

// The input slots of an AdamUpdate node; those from AdamScale on are tensors of
// one element, of the weight's type but for the last.
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
	AdamApply           // bool, optional: false changes nothing
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
		// elements of the same place. Where apply is false, they are weight, m and
		// v, whatever the gradient.
		Operator{Domain: moe.Domain, Name: "AdamUpdate", Since: []int{1}, Inputs: Between(AdamApply, AdamInputs), Outputs: Exactly(3),
			Infer: inferAdamUpdate},
		// SumOfSquares gives a vector with the sum of squares of each input. All
		// are float32 or all float64, of any shapes.
		Operator{Domain: moe.Domain, Name: "SumOfSquares", Since: []int{1}, Inputs: AtLeast(1), Outputs: Exactly(1),
			Infer: inferSumOfSquares},
	)
}

func inferAdamUpdate(c *Inference) error {
	t, err := c.typeAmong(floatTypes, counted(AdamApply)...)
	if err != nil {
		return err
	}
	if _, err := c.typeAmong([]onnx.DataType{onnx.Bool}, AdamApply); err != nil {
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

func inferSumOfSquares(c *Inference) error {
	n := len(c.Node.Inputs)
	t, err := c.typeAmong([]onnx.DataType{onnx.Float32, onnx.Float64}, counted(n)...)
	if err == nil {
		c.Set(0, t, []Dim{Dim(n)})
	}
	return err
}

// counted returns the numbers from 0 to before n.
func counted(n int) []int {
	list := make([]int, n)
	for i := range list {
		list[i] = i
	}
	return list
}
