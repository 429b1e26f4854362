package op

import (
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
)

func init() {
	Register(
		// NonMaxSuppression, ONNX 10 and 11: the best boxes of each batch
		// entry and class that do not overlap better ones.
		Operator{Name: "NonMaxSuppression", Since: []int{10, 11}, Inputs: Between(2, 5), Outputs: Exactly(1),
			Attributes: []string{"center_point_box"}, Infer: inferNonMaxSuppression},
	)
}

func inferNonMaxSuppression(c *Inference) error {
	boxes, scores := c.Shape(0), c.Shape(1)
	if boxes != nil && (len(boxes) != 3 || boxes[2].Known() && boxes[2] != 4) {
		return fmt.Errorf("boxes have shape %s, need [batch,boxes,4]", FormatDims(boxes))
	}
	if scores != nil && len(scores) != 3 {
		return fmt.Errorf("scores have shape %s, need [batch,classes,boxes]", FormatDims(scores))
	}
	if boxes != nil && scores != nil {
		if err := sameShape([]Dim{boxes[0], boxes[1]}, []Dim{scores[0], scores[2]}); err != nil {
			return fmt.Errorf("boxes and scores differ in batch or number: %w", err)
		}
	}
	for i := 2; i < len(c.Inputs); i++ {
		want := onnx.Float32
		if i == 2 {
			want = onnx.Int64
		}
		if t := c.Type(i); t != onnx.Undefined && t != want {
			return fmt.Errorf("input %d has elements of type %s, needs %s", i, t, want)
		}
		for _, d := range c.Shape(i) {
			if d.Known() && d != 1 {
				return fmt.Errorf("input %d has shape %s, needs a scalar", i, FormatDims(c.Shape(i)))
			}
		}
	}
	c.Set(0, onnx.Int64, []Dim{c.Fresh(), 3})
	return nil
}
