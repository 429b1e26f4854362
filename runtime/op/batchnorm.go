package op

import (
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	Register(
		// BatchNormalization, ONNX 7, 9, 14 and 15. Training is implemented
		// as version 14 states it.
		Operator{Name: "BatchNormalization", Since: []int{7, 9, 14, 15}, Inputs: Exactly(5), Outputs: Between(1, 5),
			Attributes: []string{"epsilon", "momentum", "spatial", "training_mode"}, Infer: inferBatchNormalization, Gradient: batchNormalizationGradient},
		// InstanceNormalization, ONNX 6 and 22.
		Operator{Name: "InstanceNormalization", Since: []int{6, 22}, Inputs: Exactly(3), Outputs: Exactly(1),
			Attributes: []string{"epsilon"}, Infer: inferInstanceNormalization, Gradient: groupNormalizationGradient},
		// GroupNormalization, ONNX 18, where scale and bias are of groups,
		// and 21, where they are of channels.
		Operator{Name: "GroupNormalization", Since: []int{18, 21}, Inputs: Exactly(3), Outputs: Exactly(1),
			Attributes: []string{"epsilon", "num_groups", "stash_type"}, Infer: inferGroupNormalization, Gradient: groupNormalizationGradient},
		// MeanVarianceNormalization, ONNX 9 and 13.
		Operator{Name: "MeanVarianceNormalization", Since: []int{9, 13}, Inputs: Exactly(1), Outputs: Exactly(1),
			Attributes: []string{"axes"}, Infer: inferMeanVarianceNormalization, Gradient: meanVarianceNormalizationGradient},
		// LpNormalization, ONNX 1 and 22.
		Operator{Name: "LpNormalization", Since: []int{1, 22}, Inputs: Exactly(1), Outputs: Exactly(1),
			Attributes: []string{"axis", "p"}, Infer: inferLpNormalization, Gradient: lpNormalizationGradient},
		// LRN, ONNX 1 and 13: local response normalisation.
		Operator{Name: "LRN", Since: []int{1, 13}, Inputs: Exactly(1), Outputs: Exactly(1),
			Attributes: []string{"alpha", "beta", "bias", "size"}, Infer: inferLRN, Gradient: lrnGradient},
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

// standardized returns x, without its mean over axes and divided by its
// deviation, and the factor by which that is.
func (b *Backward) standardized(x Value, axes Value, epsilon float64) (normal, inverse Value) {
	x = b.Op("Sub", x, b.Op("ReduceMean", x, axes))
	inverse = b.Op("Reciprocal", b.Op("Sqrt", b.plus(b.Op("ReduceMean", b.square(x), axes), epsilon)))
	return b.Op("Mul", x, inverse), inverse
}

// standardizedGradient returns the gradient of x from that of what standardized
// returns: what changes mean or deviation changes nothing.
func (b *Backward) standardizedGradient(g, normal, inverse, axes Value) Value {
	mean := b.Op("ReduceMean", g, axes)
	along := b.Op("Mul", normal, b.Op("ReduceMean", b.Op("Mul", g, normal), axes))
	return b.Op("Mul", inverse, b.Op("Sub", b.Op("Sub", g, mean), along))
}

// perChannel reshapes a vector to one that broadcasts with [N, C, …] of the
// given rank.
func (b *Backward) perChannel(v Value, rank int) Value {
	shape := []int64{-1}
	if rank > 1 {
		shape = append([]int64{1}, shape...)
	}
	for range rank - 2 {
		shape = append(shape, 1)
	}
	return b.Op("Reshape", v, b.Ints(shape...))
}

// otherAxes returns the axes of a tensor [N, C, …] but the channels'.
func (b *Backward) otherAxes(rank int) Value {
	axes := []int64{0}
	for i := 2; i < rank; i++ {
		axes = append(axes, int64(i))
	}
	return b.Ints(axes...)
}

func batchNormalizationGradient(b *Backward) {
	g, x, rank := b.Gradient(0), b.Input(0), b.Rank(b.Input(0))
	if g == NoValue { // only of running statistics, which are not learned
		return
	}
	axes, epsilon := b.otherAxes(rank), float64(b.Node.Float("epsilon", 1e-5))
	channel := func(v Value) Value { return b.Reshape(v, b.Input(1)) }
	scaled := b.Op("Mul", g, b.Cast(b.perChannel(b.Input(1), rank), g))
	training := b.Node.Int("training_mode", 0) != 0
	var normal, inverse Value
	if training {
		normal, inverse = b.standardized(x, axes, epsilon)
		b.Set(0, b.standardizedGradient(scaled, normal, inverse, axes))
	} else {
		mean, variance := b.Cast(b.perChannel(b.Input(3), rank), x), b.Cast(b.perChannel(b.Input(4), rank), x)
		inverse = b.Op("Reciprocal", b.Op("Sqrt", b.plus(variance, epsilon)))
		normal = b.Op("Mul", b.Op("Sub", x, mean), inverse)
		b.Set(0, b.Op("Mul", scaled, inverse))
	}
	shift := channel(b.Op("ReduceSum", g, axes))
	slope := channel(b.Op("ReduceSum", b.Op("Mul", g, normal), axes))
	b.Set(1, b.Cast(slope, b.Input(1)))
	b.Set(2, b.Cast(shift, b.Input(2)))
	if !training && (b.Wants(3) || b.Wants(4)) {
		factor := b.Op("Mul", b.Cast(b.Input(1), g), channel(inverse))
		b.Set(3, b.Cast(b.Op("Neg", b.Op("Mul", shift, factor)), b.Input(3)))
		b.Set(4, b.Cast(b.scaled(b.Op("Mul", b.Op("Mul", slope, factor), channel(inverse)), -0.5), b.Input(4)))
	}
}

// groupNormalizationGradient serves InstanceNormalization too, where every
// channel is a group.
func groupNormalizationGradient(b *Backward) {
	g, x, rank := b.Gradient(0), b.Input(0), b.Rank(b.Input(0))
	groups := b.Node.Int("num_groups", 0) // 0 keeps the dimension
	byGroup := func(v Value) Value { return b.Op("Reshape", v, b.Ints(0, groups, -1)) }
	axis := b.Ints(2)
	normal, inverse := b.standardized(byGroup(x), axis, float64(b.Node.Float("epsilon", 1e-5)))
	if b.Node.OpType == "GroupNormalization" && b.Node.Since < 21 { // scales are of groups
		g, rank = byGroup(g), 3
	} else {
		normal = b.Reshape(normal, x)
	}
	axes := b.otherAxes(rank)
	scaled := b.Op("Mul", g, b.perChannel(b.Input(1), rank))
	d := b.standardizedGradient(byGroup(scaled), byGroup(normal), inverse, axis)
	b.Set(0, b.Reshape(d, x))
	b.Set(1, b.Reshape(b.Op("ReduceSum", b.Op("Mul", g, normal), axes), b.Input(1)))
	b.Set(2, b.Reshape(b.Op("ReduceSum", g, axes), b.Input(2)))
}

func meanVarianceNormalizationGradient(b *Backward) {
	axes, err := MeanVarianceAxes(b.Node, b.Rank(b.Input(0)))
	if err != nil {
		b.Fail(err)
		return
	}
	list := make([]int64, len(axes))
	for i, a := range axes {
		list[i] = int64(a)
	}
	over := b.Ints(list...)
	const epsilon = 1e-18 // of the variance: the operator adds 1e-9 to the deviation
	normal, inverse := b.standardized(b.Input(0), over, epsilon)
	b.Set(0, b.standardizedGradient(b.Gradient(0), normal, inverse, over))
}

// lpNormalizationGradient: y = x/‖x‖ does not change with ‖x‖.
func lpNormalizationGradient(b *Backward) {
	g, x, y := b.Gradient(0), b.Input(0), b.Output(0)
	axis := b.Ints(b.Node.Int("axis", -1))
	norm, slope := b.Op("ReduceL2", x, axis), y
	if b.Node.Int("p", 2) == 1 {
		norm, slope = b.Op("ReduceL1", x, axis), b.Op("Sign", x)
	}
	inverse := b.Op("Where", b.compare("Equal", norm, 0), norm, b.Op("Reciprocal", norm)) // 0 where the operator gives 0
	along := b.Op("ReduceSum", b.Op("Mul", g, y), axis)
	b.Set(0, b.Op("Mul", b.Op("Sub", g, b.Op("Mul", slope, along)), inverse))
}

// lrnGradient: with D = bias + a·Σx² over a window of channels, y = x·D^−beta.
func lrnGradient(b *Backward) {
	g, x, n := b.Gradient(0), b.Input(0), b.Node
	size := n.Int("size", 1)
	alpha, beta := float64(n.Float("alpha", 1e-4))/float64(size), float64(n.Float("beta", 0.75))
	// sum adds up a window of channels.
	sum := func(v Value, before, after int64) Value {
		ones := make([]float64, size)
		for i := range ones {
			ones[i] = 1
		}
		window := tensor.New(b.Fact(x).Type, 1, 1, int(size), 1)
		tensor.ConvertFloat(window, tensor.FromSlice(ones, 1, 1, int(size), 1))
		flat := b.Op("Reshape", b.Op("Unsqueeze", v, b.Ints(1)), b.Ints(0, 0, 0, -1))
		conv := &onnx.Node{OpType: "Conv", Attributes: []*onnx.Attribute{onnx.IntsAttribute("pads", before, 0, after, 0)}}
		return b.Reshape(b.Add(conv, flat, b.Graph.Constant(window)), x)
	}
	const largest = 1 << 12 // bounds the constant below
	if size > largest {
		b.Fail(fmt.Errorf("a window of %d channels has no gradient, only one of up to %d", size, largest))
		return
	}
	before, after := (size-1)/2, size/2
	d := b.plus(b.scaled(sum(b.square(x), before, after), alpha), float64(n.Float("bias", 1)))
	weight := b.Op("Mul", g, b.Op("Pow", d, b.Scalar(-beta, d)))
	windows := sum(b.Op("Div", b.Op("Mul", weight, x), d), after, before)
	b.Set(0, b.Op("Sub", weight, b.scaled(b.Op("Mul", x, windows), 2*alpha*beta)))
}
