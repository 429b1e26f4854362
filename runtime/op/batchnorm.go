package op

import "fmt"

func init() {
	Register(
		// BatchNormalization, ONNX 7, 9, 14 and 15. Training is implemented
		// as version 14 states it.
		Operator{Name: "BatchNormalization", Since: []int{7, 9, 14, 15}, Inputs: Exactly(5), Outputs: Between(1, 5),
			Attributes: []string{"epsilon", "momentum", "spatial", "training_mode"}, Infer: inferBatchNormalization},
		// InstanceNormalization, ONNX 6 and 22.
		Operator{Name: "InstanceNormalization", Since: []int{6, 22}, Inputs: Exactly(3), Outputs: Exactly(1),
			Attributes: []string{"epsilon"}, Infer: inferInstanceNormalization},
		// GroupNormalization, ONNX 18, where scale and bias are of groups,
		// and 21, where they are of channels.
		Operator{Name: "GroupNormalization", Since: []int{18, 21}, Inputs: Exactly(3), Outputs: Exactly(1),
			Attributes: []string{"epsilon", "num_groups", "stash_type"}, Infer: inferGroupNormalization},
		// MeanVarianceNormalization, ONNX 9 and 13.
		Operator{Name: "MeanVarianceNormalization", Since: []int{9, 13}, Inputs: Exactly(1), Outputs: Exactly(1),
			Attributes: []string{"axes"}, Infer: inferMeanVarianceNormalization},
		// LpNormalization, ONNX 1 and 22.
		Operator{Name: "LpNormalization", Since: []int{1, 22}, Inputs: Exactly(1), Outputs: Exactly(1),
			Attributes: []string{"axis", "p"}, Infer: inferLpNormalization},
		// LRN, ONNX 1 and 13: local response normalisation.
		Operator{Name: "LRN", Since: []int{1, 13}, Inputs: Exactly(1), Outputs: Exactly(1),
			Attributes: []string{"alpha", "beta", "bias", "size"}, Infer: inferLRN},
	)
}

// channels returns dimension 1 of input 0, a fresh one where the rank is
// unknown. A tensor of rank 1 has one channel.
func (c *Inference) channels() (Dim, error) {
	switch shape := c.Shape(0); {
	case shape == nil:
		return c.Fresh(), nil
	case len(shape) == 0:
		return 0, fmt.Errorf("input 0 is a scalar, needs a batch")
	case len(shape) == 1:
		return 1, nil
	default:
		return shape[1], nil
	}
}

func inferBatchNormalization(c *Inference) error {
	n := c.Node
	training := n.Int("training_mode", 0) != 0
	switch {
	case n.Since < 14 && training:
		return fmt.Errorf("attribute training_mode does not exist in version %d", n.Since)
	case n.Since >= 9 && n.Attribute("spatial") != nil:
		return fmt.Errorf("attribute spatial does not exist in version %d", n.Since)
	case n.Int("spatial", 1) == 0:
		return fmt.Errorf("spatial = 0 is not supported; use version 9 or newer")
	case !training:
		for i := 1; i < 5; i++ {
			if n.Output(i) != "" {
				return fmt.Errorf("output %d is of training, which needs version 14 and training_mode = 1", i)
			}
		}
	case n.Output(3) != "" || n.Output(4) != "":
		return fmt.Errorf("has more than 3 outputs")
	}
	t, err := c.typeAmong(floatTypes, 0)
	if err != nil {
		return err
	}
	if n.Since < 15 {
		_, err = c.typeAmong(floatTypes, 0, 1, 2)
	} else {
		_, err = c.typeAmong(floatTypes, 1, 2)
	}
	if err != nil {
		return err
	}
	statistics, err := c.typeAmong(floatTypes, 3, 4)
	if err != nil {
		return err
	}
	channels, err := c.channels()
	if err != nil {
		return err
	}
	for i := 1; i < 5; i++ {
		if err := c.wantShape(i, channels); err != nil {
			return err
		}
	}
	c.Set(0, t, c.Shape(0))
	c.Set(1, statistics, []Dim{channels})
	c.Set(2, statistics, []Dim{channels})
	return nil
}

func inferInstanceNormalization(c *Inference) error {
	if _, err := c.typeAmong(floatTypes, 0, 1, 2); err != nil {
		return err
	}
	channels, err := c.channels()
	if err != nil {
		return err
	}
	for i := 1; i < 3; i++ {
		if err := c.wantShape(i, channels); err != nil {
			return err
		}
	}
	return SameAsInput(c)
}

func inferGroupNormalization(c *Inference) error {
	if _, err := c.typeAmong(floatTypes, 0, 1, 2); err != nil {
		return err
	}
	if c.Node.Since < 21 && c.Node.Attribute("stash_type") != nil {
		return fmt.Errorf("attribute stash_type does not exist in version %d", c.Node.Since)
	}
	if shape := c.Shape(0); shape != nil && len(shape) < 2 {
		return fmt.Errorf("input 0 has shape %s, needs channels", FormatDims(shape))
	}
	channels, err := c.channels()
	if err != nil {
		return err
	}
	groups := c.Node.Int("num_groups", 0)
	if groups <= 0 || channels.Known() && int64(channels)%groups != 0 {
		return fmt.Errorf("num_groups is %d, which does not divide the channels of shape %s", groups, FormatDims(c.Shape(0)))
	}
	if c.Node.Since < 21 {
		channels = Dim(groups)
	}
	for i := 1; i < 3; i++ {
		if err := c.wantShape(i, channels); err != nil {
			return err
		}
	}
	return SameAsInput(c)
}

// MeanVarianceAxes returns the axes of a MeanVarianceNormalization node.
func MeanVarianceAxes(n *Node, rank int) ([]int, error) {
	axes := n.Ints("axes")
	if n.Attribute("axes") == nil {
		axes = []int64{0, 2, 3}
	}
	return Axes(axes, rank)
}

func inferMeanVarianceNormalization(c *Inference) error {
	if _, err := c.typeAmong(floatTypes, 0); err != nil {
		return err
	}
	if shape := c.Shape(0); shape != nil {
		if _, err := MeanVarianceAxes(c.Node, len(shape)); err != nil {
			return err
		}
	}
	return SameAsInput(c)
}

func inferLpNormalization(c *Inference) error {
	if _, err := c.typeAmong(floatTypes, 0); err != nil {
		return err
	}
	if p := c.Node.Int("p", 2); p != 1 && p != 2 {
		return fmt.Errorf("p is %d, needs 1 or 2", p)
	}
	if shape := c.Shape(0); shape != nil {
		if _, err := Axis(c.Node.Int("axis", -1), len(shape)); err != nil {
			return err
		}
	}
	return SameAsInput(c)
}

func inferLRN(c *Inference) error {
	if _, err := c.typeAmong(floatTypes, 0); err != nil {
		return err
	}
	if size := c.Node.Int("size", 0); size <= 0 {
		return fmt.Errorf("size is %d, needs a positive number", size)
	}
	if shape := c.Shape(0); shape != nil && len(shape) < 2 {
		return fmt.Errorf("input 0 has shape %s, needs channels", FormatDims(shape))
	}
	return SameAsInput(c)
}
