package cpu

import (
	"math"

	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	register("", "BatchNormalization", floatKernel(bindBatchNormalization[float32], bindBatchNormalization[float64], 0, 1, 2, 3, 4))
	register("", "InstanceNormalization", floatKernel(bindGroupNormalization[float32], bindGroupNormalization[float64], 0))
	register("", "GroupNormalization", floatKernel(bindGroupNormalization[float32], bindGroupNormalization[float64], 0))
	register("", "MeanVarianceNormalization", floatKernel(bindMeanVariance[float32], bindMeanVariance[float64], 0))
	register("", "LpNormalization", floatKernel(bindLpNormalization[float32], bindLpNormalization[float64], 0))
	register("", "LRN", floatKernel(bindLRN[float32], bindLRN[float64], 0))
}

// channelSplit returns the batch, the channels and the elements of one channel
// of a tensor [N, C, …]; a vector has one channel.
func channelSplit(shape []int) (batch, channels, plane int) {
	if len(shape) == 1 {
		return shape[0], 1, 1
	}
	return splitAt(shape, 1)
}

// scaleInto computes y = factor·x + shift. y may be x.
func scaleInto[T simd.Float](y, x []T, factor, shift float64) {
	f, s := T(factor), T(shift)
	y = y[:len(x)]
	for i, v := range x {
		y[i] = v*f + s
	}
}

func bindBatchNormalization[T simd.Float](d *Device, c *device.Call, n *op.Node) (func() error, error) {
	batch, channels, plane := channelSplit(c.In[0].Shape)
	epsilon, momentum := float64(n.Float("epsilon", 1e-5)), float64(n.Float("momentum", 0.9))
	training := n.Int("training_mode", 0) != 0
	out := wanted(c, 0, c.In[0].Type, c.In[0].Shape...)
	// normalize scales one plane with the channel's statistics.
	normalize := func(i, channel int, mean, variance float64) {
		factor := float64(tensor.Of[T](c.In[1])[channel]) / math.Sqrt(variance+epsilon)
		shift := float64(tensor.Of[T](c.In[2])[channel]) - mean*factor
		x, y := tensor.Of[T](c.In[0]), tensor.Of[T](out)
		scaleInto(y[i*plane:], x[i*plane:][:plane], factor, shift)
	}
	grain := max(1, 8192/max(plane, 1))
	if !training {
		body := func(lo, hi int) {
			means, variances := tensor.Of[T](c.In[3]), tensor.Of[T](c.In[4])
			for i := lo; i < hi; i++ {
				channel := i % channels
				normalize(i, channel, float64(means[channel]), float64(variances[channel]))
			}
		}
		return func() error {
			d.pool.run(batch*channels, grain, body)
			return nil
		}, nil
	}
	running := func(out, in *tensor.Tensor, channel int, current float64) {
		if out != nil {
			setFloat(out, channel, float64(tensor.Of[T](in)[channel])*momentum+current*(1-momentum))
		}
	}
	body := func(lo, hi int) {
		x := tensor.Of[T](c.In[0])
		for channel := lo; channel < hi; channel++ {
			sum, squares, count := 0.0, 0.0, float64(batch*plane)
			for b := range batch {
				sum = sumLine(sum, x[(b*channels+channel)*plane:][:plane])
			}
			mean := sum / count
			for b := range batch {
				for _, v := range x[(b*channels+channel)*plane:][:plane] {
					squares += (float64(v) - mean) * (float64(v) - mean)
				}
			}
			variance := squares / count
			for b := range batch {
				normalize(b*channels+channel, channel, mean, variance)
			}
			running(at(c.Out, 1), c.In[3], channel, mean)
			running(at(c.Out, 2), c.In[4], channel, variance)
		}
	}
	return func() error {
		d.pool.run(channels, max(1, grain/max(batch, 1)), body)
		return nil
	}, nil
}

// bindGroupNormalization serves GroupNormalization and InstanceNormalization,
// where every channel is a group.
func bindGroupNormalization[T simd.Float](d *Device, c *device.Call, n *op.Node) (func() error, error) {
	batch, channels, plane := channelSplit(c.In[0].Shape)
	groups := int(n.Int("num_groups", int64(channels)))
	perGroup := channels / max(groups, 1)
	// Before version 21 of GroupNormalization a group has one scale.
	scaleOf := func(channel int) int { return channel }
	if n.OpType == "GroupNormalization" && n.Since < 21 {
		scaleOf = func(channel int) int { return channel / perGroup }
	}
	epsilon := float64(n.Float("epsilon", 1e-5))
	size := perGroup * plane
	body := func(lo, hi int) {
		x, y := tensor.Of[T](c.In[0]), tensor.Of[T](c.Out[0])
		scale, bias := tensor.Of[T](c.In[1]), tensor.Of[T](c.In[2])
		for i := lo; i < hi; i++ {
			mean, variance := moments(x[i*size:][:size])
			inverse := 1 / math.Sqrt(variance+epsilon)
			for j := range perGroup {
				s := scaleOf(i%groups*perGroup + j)
				factor := float64(scale[s]) * inverse
				from := i*size + j*plane
				scaleInto(y[from:], x[from:][:plane], factor, float64(bias[s])-mean*factor)
			}
		}
	}
	work := batch * groups
	if size == 0 {
		work = 0
	}
	return func() error {
		d.pool.run(work, max(1, 8192/max(size, 1)), body)
		return nil
	}, nil
}

// reduceGroup is the elements of a tensor that differ in certain axes only.
type reduceGroup struct {
	layout *reduceLayout
	base   int
}

// places visits where the elements lie.
func (g reduceGroup) places(visit func(i int) bool) {
	for s := range g.layout.removed.count() {
		from := g.base + g.layout.removed.offset(s)
		for j := range g.layout.line {
			if !visit(from + j) {
				return
			}
		}
	}
}

// overGroups calls body for every group of a tensor, in parallel.
func overGroups(d *Device, shape, axes []int, body func(g reduceGroup, count int)) func() error {
	l := newReduceLayout(shape, axes)
	count := l.removed.count() * l.line
	pieces := func(lo, hi int) {
		for i := lo; i < hi; i++ {
			body(reduceGroup{&l, l.kept.offset(i/l.columns) + i%l.columns}, count)
		}
	}
	groups := l.kept.count() * l.columns
	if count == 0 {
		groups = 0
	}
	return func() error {
		d.pool.run(groups, max(1, 4096/max(count, 1)), pieces)
		return nil
	}
}

func bindMeanVariance[T simd.Float](d *Device, c *device.Call, n *op.Node) (func() error, error) {
	axes, err := op.MeanVarianceAxes(n, c.In[0].Rank())
	if err != nil {
		return nil, err
	}
	return overGroups(d, c.In[0].Shape, axes, func(g reduceGroup, count int) {
		x, y := tensor.Of[T](c.In[0]), tensor.Of[T](c.Out[0])
		sum, squares := 0.0, 0.0
		for i := range g.places {
			sum += float64(x[i])
		}
		mean := sum / float64(count)
		for i := range g.places {
			squares += (float64(x[i]) - mean) * (float64(x[i]) - mean)
		}
		deviation := math.Sqrt(squares/float64(count)) + 1e-9
		for i := range g.places {
			y[i] = T((float64(x[i]) - mean) / deviation)
		}
	}), nil
}

// bindLpNormalization divides by the norm; where that is 0 the outcome is 0.
func bindLpNormalization[T simd.Float](d *Device, c *device.Call, n *op.Node) (func() error, error) {
	axis, err := op.Axis(n.Int("axis", -1), c.In[0].Rank())
	if err != nil {
		return nil, err
	}
	power, root := norm(n)
	return overGroups(d, c.In[0].Shape, []int{axis}, func(g reduceGroup, _ int) {
		x, y := tensor.Of[T](c.In[0]), tensor.Of[T](c.Out[0])
		sum := 0.0
		for i := range g.places {
			sum += power(float64(x[i]))
		}
		inverse := 0.0
		if length := root(sum); length != 0 {
			inverse = 1 / length
		}
		for i := range g.places {
			y[i] = T(float64(x[i]) * inverse)
		}
	}), nil
}

func bindLRN[T simd.Float](d *Device, c *device.Call, n *op.Node) (func() error, error) {
	batch, channels, plane := channelSplit(c.In[0].Shape)
	size := int(min(n.Int("size", 1), int64(2*channels+1)))
	before, after := (size-1)/2, size/2
	alpha := float64(n.Float("alpha", 1e-4)) / float64(n.Int("size", 1))
	beta, bias := float64(n.Float("beta", 0.75)), float64(n.Float("bias", 1))
	body := func(lo, hi int) {
		x, y := tensor.Of[T](c.In[0]), tensor.Of[T](c.Out[0])
		for i := lo; i < hi; i++ {
			channel := i % channels
			first, last := max(channel-before, 0), min(channel+after, channels-1)
			for j := range plane {
				sum := 0.0
				for k := first; k <= last; k++ {
					v := float64(x[(i-channel+k)*plane+j])
					sum += v * v
				}
				y[i*plane+j] = T(float64(x[i*plane+j]) / math.Pow(bias+alpha*sum, beta))
			}
		}
	}
	return func() error {
		d.pool.run(batch*channels, max(1, 1024/max(plane, 1)), body)
		return nil
	}, nil
}
