package op

import (
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	attributes := append([]string{"ceil_mode"}, windowAttributes...)
	Register(
		// MaxPool, ONNX 1 to 22: 8 adds indices, 10 dilations and ceil_mode.
		Operator{Name: "MaxPool", Since: []int{1, 8, 10, 11, 12, 22}, Inputs: Exactly(1), Outputs: Between(1, 2),
			Attributes: append([]string{"storage_order"}, attributes...), Infer: inferPool, Gradient: maxPoolGradient},
		// AveragePool, ONNX 1 to 22: 7 adds count_include_pad, 10 ceil_mode,
		// 19 dilations.
		Operator{Name: "AveragePool", Since: []int{1, 7, 10, 11, 19, 22}, Inputs: Exactly(1), Outputs: Exactly(1),
			Attributes: append([]string{"count_include_pad"}, attributes...), Infer: inferPool, Gradient: averagePoolGradient},
		// LpPool, ONNX 2 to 22: 18 adds dilations and ceil_mode.
		Operator{Name: "LpPool", Since: []int{2, 11, 18, 22}, Inputs: Exactly(1), Outputs: Exactly(1),
			Attributes: append([]string{"p"}, attributes...), Infer: inferPool, Gradient: lpPoolGradient},
		// The global ones pool over all spatial dimensions.
		Operator{Name: "GlobalMaxPool", Since: []int{1, 22}, Inputs: Exactly(1), Outputs: Exactly(1), Infer: inferGlobalPool,
			Gradient: globalMaxPoolGradient},
		Operator{Name: "GlobalAveragePool", Since: []int{1, 22}, Inputs: Exactly(1), Outputs: Exactly(1), Infer: inferGlobalPool,
			Gradient: globalAveragePoolGradient},
		Operator{Name: "GlobalLpPool", Since: []int{2, 22}, Inputs: Exactly(1), Outputs: Exactly(1),
			Attributes: []string{"p"}, Infer: inferGlobalPool, Gradient: lpPoolGradient},
		// MaxUnpool, ONNX 9, 11 and 22, puts back what MaxPool chose.
		Operator{Name: "MaxUnpool", Since: []int{9, 11, 22}, Inputs: Between(2, 3), Outputs: Exactly(1),
			Attributes: []string{"kernel_shape", "pads", "strides"}, Parameters: []int{2}, Infer: inferMaxUnpool,
			Gradient: maxUnpoolGradient},
	)
}

func inferPool(c *Inference) error {
	n := c.Node
	types := floatTypes
	if n.OpType == "MaxPool" && n.Since >= 12 {
		types = append([]onnx.DataType{onnx.Int8, onnx.Uint8}, floatTypes...)
	}
	t, err := c.typeAmong(types, 0)
	if err != nil {
		return err
	}
	if order := n.Int("storage_order", 0); order != 0 && order != 1 {
		return fmt.Errorf("storage_order is %d, needs 0 or 1", order)
	}
	if err := n.checkNorm(); err != nil {
		return err
	}
	shape := c.Shape(0)
	if shape == nil {
		c.Set(0, t, nil)
		c.Set(1, onnx.Int64, nil)
		return nil
	}
	w, err := WindowsOf(n, len(shape)-2, nil)
	if err != nil {
		return err
	}
	out := c.Unknown(len(shape))
	out[0], out[1] = shape[0], shape[1]
	if err := c.slide(w, shape[2:], out[2:]); err != nil {
		return err
	}
	c.Set(0, t, out)
	c.Set(1, onnx.Int64, out)
	return nil
}

// checkNorm fails where the attribute p, the order of a norm, makes none.
func (n *Node) checkNorm() error {
	if p := n.Int("p", 2); p < 1 {
		return fmt.Errorf("p is %d, needs a positive number", p)
	}
	return nil
}

func inferGlobalPool(c *Inference) error {
	t, err := c.typeAmong(floatTypes, 0)
	if err != nil {
		return err
	}
	if err := c.Node.checkNorm(); err != nil {
		return err
	}
	shape := c.Shape(0)
	if shape == nil {
		c.Set(0, t, nil)
		return nil
	}
	if len(shape) < 2 {
		return fmt.Errorf("input 0 has shape %s, needs channels", FormatDims(shape))
	}
	out := Dims(make([]int, len(shape))...)
	for i := range out {
		out[i] = 1
	}
	copy(out, shape[:2])
	c.Set(0, t, out)
	return nil
}

// MaxUnpoolShape returns the spatial shape that a MaxUnpool node's attributes
// give for pooled values of the given spatial shape. The indices count
// elements of a tensor of that shape.
func MaxUnpoolShape(n *Node, positions []int) ([]int, error) {
	w, err := WindowsOf(n, len(positions), nil)
	if err != nil {
		return nil, err
	}
	image := make([]int, len(positions))
	for i, count := range positions {
		if image[i], err = w.unslide(i, count, 0, -1); err != nil {
			return nil, err
		}
	}
	return image, nil
}

func inferMaxUnpool(c *Inference) error {
	t, err := c.typeAmong(floatTypes, 0)
	if err != nil {
		return err
	}
	if _, err := c.typeAmong([]onnx.DataType{onnx.Int64}, 1, 2); err != nil {
		return err
	}
	shape := c.Shape(0)
	if shape == nil {
		c.Set(0, t, nil)
		return nil
	}
	if err := c.wantShape(1, shape...); err != nil {
		return err
	}
	out := c.Unknown(len(shape))
	if len(shape) > 2 {
		copy(out, shape[:2])
		if allKnown(shape[2:]) {
			image, err := MaxUnpoolShape(c.Node, ints(shape[2:]))
			if err != nil {
				return err
			}
			copy(out[2:], Dims(image...))
		}
	}
	if len(shape) < 3 {
		return fmt.Errorf("input 0 has shape %s, needs spatial dimensions", FormatDims(shape))
	}
	if c.Has(2) {
		given, known := c.Ints(2)
		if !known {
			c.Set(0, t, c.Unknown(len(shape)))
			return nil
		}
		if len(given) != len(shape) {
			return fmt.Errorf("output_shape is %v, needs %d dimensions", given, len(shape))
		}
		for i, d := range given {
			if d < 0 || i < 2 && shape[i].Known() && int64(shape[i]) != d || i >= 2 && out[i].Known() && int64(out[i]) > d {
				return fmt.Errorf("output_shape is %v, too small for %s", given, FormatDims(out))
			}
		}
		out = Dims(given...)
	}
	c.Set(0, t, out)
	return nil
}

// flat makes a vector of a value.
func (b *Backward) flat(v Value) Value { return b.Op("Reshape", v, b.Ints(-1)) }

// maxPoolGradient gives each gradient to the element that was chosen.
func maxPoolGradient(b *Backward) {
	if b.Node.Int("storage_order", 0) != 0 {
		b.Fail(fmt.Errorf("storage_order = 1 has %w; use 0", ErrNoGradient))
		return
	}
	x := b.Input(0)
	size := b.Op("Reshape", b.Op("Size", x), b.Ints(1))
	b.Set(0, b.Reshape(b.ungathered(b.flat(b.Gradient(0)), b.flat(b.Output(1)), size, 0), x))
}

// maxUnpoolGradient takes each gradient from where its element was put.
func maxUnpoolGradient(b *Backward) {
	g := b.Gradient(0)
	if b.Input(2) != NoValue { // the elements lie in a part of the output
		image, err := MaxUnpoolShape(b.Node, b.known(b.Input(0), 2))
		if err != nil {
			b.Fail(err)
			return
		}
		ends, starts, axes := make([]int64, len(image)), make([]int64, len(image)), make([]int64, len(image))
		for i, n := range image {
			ends[i], axes[i] = int64(n), int64(i+2)
		}
		g = b.Op("Slice", g, b.Ints(starts...), b.Ints(ends...), b.Ints(axes...))
	}
	b.Set(0, b.Op("Gather", b.flat(g), b.Input(1)))
}

// unpooled returns, for images like x, the sum of what the windows give that
// an element is in, which each have one value.
func (b *Backward) unpooled(v, x Value, w *Windows, positions []int) Value {
	image := b.known(x, 2)
	count := 1
	for _, k := range w.Kernel {
		count *= k
	}
	if b.err != nil {
		return NoValue
	}
	ones := make([]float64, count)
	for i := range ones {
		ones[i] = 1
	}
	kernel := tensor.New(b.Fact(x).Type, append([]int{1, 1}, w.Kernel...)...)
	tensor.ConvertFloat(kernel, tensor.FromSlice(ones, kernel.Shape...))
	// Each channel is an image of its own.
	target := []int64{-1, 1}
	for _, n := range positions {
		target = append(target, int64(n))
	}
	n := &onnx.Node{OpType: "ConvTranspose", Attributes: w.transposed(image, positions)}
	return b.Reshape(b.Add(n, b.Op("Reshape", v, b.Ints(target...)), b.Graph.Constant(kernel)), x)
}

// pooled returns the windows of a pooling and how many its images have.
func (b *Backward) pooled() (w *Windows, positions []int) {
	image := b.known(b.Input(0), 2)
	if b.err != nil {
		return nil, nil
	}
	w, err := WindowsOf(b.Node, len(image), nil)
	if err == nil {
		positions, err = w.Positions(image)
	}
	if err != nil {
		b.Fail(err)
	}
	return w, positions
}

func averagePoolGradient(b *Backward) {
	x := b.Input(0)
	w, positions := b.pooled()
	if b.err != nil {
		return
	}
	counts := w.counts(b.known(x, 2), positions, b.Node.Int("count_include_pad", 0) != 0)
	shape := append([]int{1, 1}, positions...)
	divisors := tensor.New(b.Fact(x).Type, shape...)
	tensor.ConvertFloat(divisors, tensor.FromSlice(counts, shape...))
	b.Set(0, b.unpooled(b.Op("Div", b.Gradient(0), b.Graph.Constant(divisors)), x, w, positions))
}

// counts returns how many elements each window averages, at least 1: those in
// the image, or in the padded image.
func (w *Windows) counts(image, positions []int, padded bool) []float64 {
	all := []float64{1}
	for axis, count := range positions {
		before, length := w.Before[axis], image[axis]
		if padded {
			length += before + w.After[axis]
			before = 0
		}
		along := make([]float64, count)
		for p := range along {
			for tap := range w.Kernel[axis] {
				if at := p*w.Stride[axis] + tap*w.Dilation[axis] - before; at >= 0 && at < length {
					along[p]++
				}
			}
		}
		next := make([]float64, 0, len(all)*count)
		for _, outer := range all {
			for _, inner := range along {
				next = append(next, outer*inner)
			}
		}
		all = next
	}
	for i, n := range all {
		all[i] = max(n, 1)
	}
	return all
}

// lpPoolGradient: of y = (Σ|x|^p)^(1/p), dx = sign(x)·|x|^(p−1)·y^(1−p)·dy.
func lpPoolGradient(b *Backward) {
	x, y, p := b.Input(0), b.Output(0), float64(b.Node.Int("p", 2))
	scaled := b.Gradient(0)
	if p != 1 {
		scaled = b.Op("Mul", scaled, b.where(b.compare("Greater", y, 0), b.Op("Pow", y, b.Scalar(1-p, y)), 0))
	}
	if b.Node.OpType == "LpPool" {
		w, positions := b.pooled()
		if b.err != nil {
			return
		}
		scaled = b.unpooled(scaled, x, w, positions)
	}
	slope := b.Op("Sign", x)
	if p != 1 {
		slope = b.Op("Mul", slope, b.Op("Pow", b.Op("Abs", x), b.Scalar(p-1, x)))
	}
	b.Set(0, b.Op("Mul", slope, scaled))
}

func globalAveragePoolGradient(b *Backward) {
	b.Set(0, reduceMeanGradient(b, b.Input(0), b.Output(0), b.Gradient(0)))
}

func globalMaxPoolGradient(b *Backward) {
	x, y, g := b.Input(0), b.Output(0), b.Gradient(0)
	var axes []int64
	for i := 2; i < b.Rank(x); i++ {
		axes = append(axes, int64(i))
	}
	if axes != nil { // equal elements share it
		chosen := b.Cast(b.Op("Equal", x, y), x)
		g = b.Op("Mul", chosen, b.Op("Div", g, b.ReduceSum(chosen, true, axes...)))
	}
	b.Set(0, g)
}
