package cpu

import (
	"fmt"
	"math"

	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	plain := floatKernel(bindLayerNormalization[float32], bindLayerNormalization[float64], 0, 1, 2)
	for _, name := range []string{"LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"} {
		register("", name, plain)
	}
	register("com.microsoft", "SimplifiedLayerNormalization", plain)
	skip := floatKernel(bindSkipLayerNormalization[float32], bindSkipLayerNormalization[float64], 0)
	register("com.microsoft", "SkipLayerNormalization", skip)
	register("com.microsoft", "SkipSimplifiedLayerNormalization", skip)
	gradient := floatKernel(bindNormalizationGradient[float32], bindNormalizationGradient[float64], 0, 1, 2)
	register(moe.Domain, "LayerNormalizationGradient", gradient)
	register(moe.Domain, "RMSNormalizationGradient", gradient)
	register("com.microsoft", "EmbedLayerNormalization", floatKernel(bindEmbedLayerNormalization[float32], bindEmbedLayerNormalization[float64], 2))
}

// normalization is what the members of the family have in common: lines of
// elements are normalised, then scaled and shifted.
type normalization[T simd.Float] struct {
	lines, length int
	epsilon       float64
	center        bool // subtract the mean; without it only the scale is normalised

	scale, bias *lineOperand // nil where there is none

	// mean and deviation receive the statistics of each line; nil where
	// nobody wants them.
	mean, deviation *tensor.Tensor
}

// run normalises x into y, which may be the same memory.
func (z *normalization[T]) run(line int, x, y []T) {
	mean, variance := 0.0, 0.0
	if z.center {
		mean, variance = moments(x)
	} else {
		variance = meanSquare(x)
	}
	inverse := 1 / math.Sqrt(variance+z.epsilon)
	setFloat(z.mean, line, mean)
	setFloat(z.deviation, line, inverse)
	scale, bias := denseLine[T](z.scale, line), denseLine[T](z.bias, line)
	whole := z.scale != nil && scale != nil && (z.bias == nil || bias != nil)
	if !whole {
		scale, bias = nil, nil
	}
	normalizeLine(y, x, scale, bias, T(mean), T(inverse))
	if !whole {
		combineLine(y, z.scale, line, multiplyTo[T])
		combineLine(y, z.bias, line, addTo[T])
	}
}

// normalizeLine writes (x − mean)·factor·scale + bias to y, which may be x; bias
// may be nil, and scale where bias is.
func normalizeLine[T simd.Float](y, x, scale, bias []T, mean, factor T) {
	if x, ok := any(x).([]float32); ok {
		simd.Normalize(any(y).([]float32), x, any(scale).([]float32), any(bias).([]float32), float32(mean), float32(factor))
		return
	}
	for i, v := range x {
		v = (v - mean) * factor
		if scale != nil {
			v *= scale[i]
		}
		if bias != nil {
			v += bias[i]
		}
		y[i] = v
	}
}

func multiplyTo[T simd.Float](y, x []T) {
	if y, ok := any(y).([]float32); ok {
		simd.Mul(y, y, any(x).([]float32))
		return
	}
	x = x[:len(y)]
	for i := range y {
		y[i] *= x[i]
	}
}

func addTo[T simd.Float](y, x []T) {
	if y, ok := any(y).([]float32); ok {
		simd.Add(y, y, any(x).([]float32))
		return
	}
	x = x[:len(y)]
	for i := range y {
		y[i] += x[i]
	}
}

// moments returns mean and variance of x.
func moments[T simd.Float](x []T) (mean, variance float64) {
	if x, ok := any(x).([]float32); ok {
		return simd.Moments(x)
	}
	n := float64(len(x))
	mean = sumLine(0.0, x) / n
	for _, v := range x {
		d := float64(v) - mean
		variance += d * d
	}
	return mean, variance / n
}

// meanSquare returns the mean of the squares of x.
func meanSquare[T simd.Float](x []T) float64 {
	if x, ok := any(x).([]float32); ok {
		return simd.MeanSquare(x)
	}
	return squareLine(0.0, x) / float64(len(x))
}

// lineOperand is a tensor that broadcasts to one which is walked line by
// line.
type lineOperand struct {
	tensor *tensor.Tensor
	outer  spans // the dimensions that count lines
	index  []int // where the elements of a line lie; nil where side by side
}

// newLineOperand prepares t for a tensor of the given shape whose lines begin
// with dimension axis.
func newLineOperand(t *tensor.Tensor, shape []int, axis int) *lineOperand {
	nest := make(spans, len(shape))
	stride := 1
	for i := range nest {
		at := len(shape) - 1 - i
		nest[at] = span{length: shape[at]}
		if from := t.Rank() - 1 - i; from >= 0 {
			if t.Shape[from] > 1 {
				nest[at].stride = stride
			}
			stride *= t.Shape[from]
		}
	}
	o := &lineOperand{tensor: t, outer: nest[:axis]}
	length := nest[axis:].count()
	dense := true
	index := make([]int, length)
	for i := range index {
		index[i] = nest[axis:].offset(i)
		dense = dense && index[i] == i
	}
	if !dense {
		o.index = index
	}
	if o.outer.count() > 0 && o.outer.offset(o.outer.count()-1) == 0 {
		o.outer = nil // one line serves all
	}
	return o
}

// denseLine returns the elements of an operand for a line, nil where they do
// not lie side by side or where there is no operand.
func denseLine[T simd.Float](o *lineOperand, line int) []T {
	if o == nil || o.index != nil {
		return nil
	}
	return tensor.Of[T](o.tensor)[o.outer.offset(line):]
}

// combineLine calls f with pieces of y and of the operand's elements for that
// line, if there is an operand.
func combineLine[T simd.Float](y []T, o *lineOperand, line int, f func(y, x []T)) {
	if o == nil {
		return
	}
	x := tensor.Of[T](o.tensor)[o.outer.offset(line):]
	if o.index == nil {
		f(y, x)
		return
	}
	var piece [64]T
	for from := 0; from < len(y); from += len(piece) {
		part := piece[:min(len(piece), len(y)-from)]
		for i := range part {
			part[i] = x[o.index[from+i]]
		}
		f(y[from:from+len(part)], part)
	}
}

func bindLayerNormalization[T simd.Float](d *Device, c *device.Call, n *op.Node) (func() error, error) {
	shape := c.In[0].Shape
	axis, err := op.Axis(n.Int("axis", -1), len(shape))
	if err != nil {
		return nil, err
	}
	z := &normalization[T]{
		lines: tensor.Count(shape[:axis]), length: tensor.Count(shape[axis:]),
		epsilon: float64(n.Float("epsilon", 1e-5)),
		center:  n.OpType == "LayerNormalization",
		scale:   newLineOperand(c.In[1], shape, axis),
	}
	if bias := at(c.In, 2); bias != nil {
		z.bias = newLineOperand(bias, shape, axis)
	}
	if z.center {
		z.mean, z.deviation = at(c.Out, 1), at(c.Out, 2)
	} else {
		z.deviation = at(c.Out, 1)
	}
	return z.over(d, func(line int, y []T) []T {
		return tensor.Of[T](c.In[0])[line*z.length:][:z.length]
	}, wanted(c, 0, c.In[0].Type, shape...)), nil
}

// over normalises all lines, in parallel. line returns what to normalise; it
// may use y, where the outcome goes, as memory.
func (z *normalization[T]) over(d *Device, line func(i int, y []T) []T, out *tensor.Tensor) func() error {
	body := func(lo, hi int) {
		y := tensor.Of[T](out)
		for i := lo; i < hi; i++ {
			y := y[i*z.length:][:z.length]
			z.run(i, line(i, y), y)
		}
	}
	lines := z.lines
	if z.length == 0 {
		lines = 0
	}
	return func() error {
		d.pool.run(lines, max(1, 4096/max(z.length, 1)), body)
		return nil
	}
}

func bindSkipLayerNormalization[T simd.Float](d *Device, c *device.Call, n *op.Node) (func() error, error) {
	shape := c.In[0].Shape
	axis := len(shape) - 1
	z := &normalization[T]{
		lines: tensor.Count(shape[:axis]), length: shape[axis],
		epsilon: float64(n.Float("epsilon", 1e-12)),
		center:  n.OpType == "SkipLayerNormalization",
		scale:   newLineOperand(c.In[2], shape, axis),
		mean:    at(c.Out, 1), deviation: at(c.Out, 2),
	}
	skip := newLineOperand(c.In[1], shape, axis)
	beta, bias := at(c.In, 3), at(c.In, 4)
	if !z.center { // has no beta
		beta, bias = nil, beta
	}
	if beta != nil {
		z.bias = newLineOperand(beta, shape, axis)
	}
	var inputBias *lineOperand
	if bias != nil {
		inputBias = newLineOperand(bias, shape, axis)
	}
	return z.over(d, func(line int, y []T) []T {
		if sum := at(c.Out, 3); sum != nil {
			y = tensor.Of[T](sum)[line*z.length:][:z.length]
		}
		copy(y, tensor.Of[T](c.In[0])[line*z.length:])
		combineLine(y, skip, line, addTo[T])
		combineLine(y, inputBias, line, addTo[T])
		return y
	}, wanted(c, 0, c.In[0].Type, shape...)), nil
}

func bindEmbedLayerNormalization[T simd.Float](d *Device, c *device.Call, n *op.Node) (func() error, error) {
	words, sequence := c.In[0].Len(), c.In[0].Shape[1]
	shape := []int{words, c.In[2].Shape[1]}
	z := &normalization[T]{
		lines: words, length: shape[1], epsilon: float64(n.Float("epsilon", 1e-12)), center: true,
		scale: newLineOperand(c.In[5], shape, 1), bias: newLineOperand(c.In[6], shape, 1),
	}
	// Each table is looked up at the IDs beside it; without IDs, at the
	// place in the sequence.
	type lookup struct{ ids, table *tensor.Tensor }
	lookups := []lookup{{c.In[0], c.In[2]}, {at(c.In, 8), c.In[3]}}
	if c.In[1] != nil {
		lookups = append(lookups, lookup{c.In[1], c.In[4]})
	}
	row := func(l lookup, word int) int {
		if l.ids == nil {
			return word % sequence
		}
		ids := tensor.Of[int32](l.ids)
		return int(ids[word%len(ids)])
	}
	normalize := z.over(d, func(word int, y []T) []T {
		if sum := at(c.Out, 2); sum != nil {
			y = tensor.Of[T](sum)[word*z.length:][:z.length]
		}
		clear(y)
		for _, l := range lookups {
			addTo(y, tensor.Of[T](l.table)[row(l, word)*z.length:])
		}
		return y
	}, wanted(c, 0, c.In[2].Type, shape...))
	return func() error {
		for _, l := range lookups {
			for word := range words {
				if r := row(l, word); r < 0 || r >= l.table.Shape[0] {
					return fmt.Errorf("index %d is outside an embedding of %d rows", r, l.table.Shape[0])
				}
			}
		}
		if lengths := at(c.Out, 1); lengths != nil {
			countOnes(tensor.Of[int32](lengths), at(c.In, 7), sequence)
		}
		return normalize()
	}, nil
}

// countOnes counts the ones in each line of mask; without a mask the counts
// are 0.
func countOnes(counts []int32, mask *tensor.Tensor, length int) {
	clear(counts)
	if mask == nil {
		return
	}
	for i, v := range tensor.Of[int32](mask) {
		if v == 1 {
			counts[i/length]++
		}
	}
}

// normalizationGradient computes the gradients of lines that were normalised,
// and those of their scale and bias, which are sums over the lines. These are
// added up in blocks of lines, whose number depends on that of the lines alone.
type normalizationGradient[T simd.Float] struct {
	lines, length int
	blocks, each  int // lines of a block
	epsilon       float64
	center        bool

	g, x, scale       *tensor.Tensor // scale may be nil
	dx, dscale, dbias *tensor.Tensor // those that nobody wants are nil
	sums              []T            // of each block, for the scale and for the bias
	space             *workspace[T]
}

const (
	// gradientBlocks bounds the blocks over which sums over lines are divided,
	// gradientLines their lines from below.
	gradientBlocks = 64
	gradientLines  = 16
)

func bindNormalizationGradient[T simd.Float](d *Device, c *device.Call, n *op.Node) (func() error, error) {
	shape := c.In[1].Shape
	axis, err := op.Axis(n.Int("axis", -1), len(shape))
	if err != nil {
		return nil, err
	}
	z := &normalizationGradient[T]{lines: tensor.Count(shape[:axis]), length: tensor.Count(shape[axis:]),
		epsilon: float64(n.Float("epsilon", 1e-5)), center: n.OpType == "LayerNormalizationGradient",
		g: c.In[0], x: c.In[1], scale: at(c.In, 2), dx: c.Out[0], dscale: at(c.Out, 1), dbias: at(c.Out, 2)}
	z.each = max(gradientLines, ceilDiv(z.lines, gradientBlocks))
	z.blocks = ceilDiv(z.lines, z.each)
	z.space = newWorkspace[T](d, c.Scratch, 2*z.blocks*z.length, 2*z.length)
	body, total := z.block, z.total
	return func() error {
		z.sums = z.space.open()
		if z.length > 0 {
			d.pool.run(z.blocks, max(1, 4096/(z.each*z.length)), body)
			d.pool.run(z.length, max(1, 4096/max(z.blocks, 1)), total)
		}
		return nil
	}, nil
}

// block computes blocks of lines.
func (z *normalizationGradient[T]) block(lo, hi int) {
	number, work := z.space.take()
	defer z.space.give(number)
	g, x := tensor.Of[T](z.g), tensor.Of[T](z.x)
	normal, product := work[:z.length], work[z.length:][:z.length]
	for b := lo; b < hi; b++ {
		dscale := z.sums[2*b*z.length:][:z.length]
		dbias := z.sums[(2*b+1)*z.length:][:z.length]
		clear(dscale)
		clear(dbias)
		for i := b * z.each; i < min((b+1)*z.each, z.lines); i++ {
			line := g[i*z.length:][:z.length]
			inverse := z.normalize(normal, x[i*z.length:][:z.length])
			if z.dbias != nil {
				addTo(dbias, line)
			}
			if z.dscale != nil {
				copy(product, line)
				multiplyTo(product, normal)
				addTo(dscale, product)
			}
			if z.dx != nil {
				copy(product, line)
				if z.scale != nil {
					multiplyTo(product, tensor.Of[T](z.scale))
				}
				z.line(tensor.Of[T](z.dx)[i*z.length:][:z.length], product, normal, inverse)
			}
		}
	}
}

// normalize writes the normalised line to normal and returns the factor.
func (z *normalizationGradient[T]) normalize(normal, x []T) (inverse float64) {
	mean, variance := 0.0, 0.0
	if z.center {
		mean, variance = moments(x)
	} else {
		variance = meanSquare(x)
	}
	inverse = 1 / math.Sqrt(variance+z.epsilon)
	normalizeLine(normal, x, nil, nil, T(mean), T(inverse))
	return inverse
}

// line writes the gradient of a line from that of the normalised one, which it
// overwrites: what changes the mean or the deviation changes nothing.
func (z *normalizationGradient[T]) line(dx, g, normal []T, inverse float64) {
	n := T(len(g))
	along, mean := simd.Dot(g, normal)/n, T(0)
	if z.center {
		mean = simd.Sum(g) / n
	}
	simd.Axpy(-along, normal, g)
	normalizeLine(dx, g, nil, nil, mean, T(inverse))
}

// total adds up the sums of blocks, in their order.
func (z *normalizationGradient[T]) total(lo, hi int) {
	for i, out := range []*tensor.Tensor{z.dscale, z.dbias} {
		if out == nil {
			continue
		}
		y := tensor.Of[T](out)
		for j := lo; j < hi; j++ {
			sum := 0.0
			for b := range z.blocks {
				sum += float64(z.sums[(2*b+i)*z.length+j])
			}
			y[j] = T(sum)
		}
	}
}
