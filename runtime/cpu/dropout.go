package cpu

import (
	"fmt"
	"math"

	philox "github.com/fmoe-go/fmoe/internal/random"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	register("", "Dropout", newDropout)
	register(moe.Domain, "Dropout", floatKernel(bindStepDropout[float32], bindStepDropout[float64], 0))
}

func newDropout(d *Device, n *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
	source := newRandomSource(n)
	return device.KernelFunc(func(c *device.Call) (func() error, error) {
		if len(c.In) > 1 && c.In[1] != nil && c.In[1].Type != onnx.Float32 && c.In[1].Type != onnx.Float64 {
			return nil, device.UnsupportedType(c.In[1].Type)
		}
		switch t := c.In[0].Type; t {
		case onnx.Float32:
			return bindDropout[float32](d, c, source), nil
		case onnx.Float64:
			return bindDropout[float64](d, c, source), nil
		default:
			return nil, device.UnsupportedType(t)
		}
	}), nil
}

// bindDropout passes elements through unless input 2 asks for training.
func bindDropout[T float](d *Device, c *device.Call, source *randomSource) func() error {
	var (
		ratio  float64
		stream randomStream
	)
	hasMask := len(c.Out) > 1 && c.Out[1] != nil
	body := func(lo, hi int) {
		x, y := tensor.Of[T](c.In[0])[lo:hi], tensor.Of[T](c.Out[0])[lo:hi]
		var mask []bool
		if hasMask && c.Out[1].Type == onnx.Bool {
			mask = tensor.Of[bool](c.Out[1])[lo:hi]
		} else if hasMask { // before version 10, which knows no training
			fill(tensor.Of[T](c.Out[1])[lo:hi], 1)
		}
		if ratio == 0 {
			copy(y, x)
			fill(mask, true)
			return
		}
		scale := T(1 / (1 - ratio))
		for i, v := range x {
			kept := stream.uniform(lo+i) >= ratio
			y[i] = 0
			if kept {
				y[i] = v * scale
			}
			if mask != nil {
				mask[i] = kept
			}
		}
	}
	run := d.overElements(c.Out[0], body)
	return func() error {
		ratio = dropoutRatio(c)
		if !(0 <= ratio && ratio < 1) {
			return fmt.Errorf("ratio is %g, must be at least 0 and below 1", ratio)
		}
		stream = source.stream()
		return run()
	}
}

// dropoutRatio returns the probability of dropping an element, 0 outside
// training.
func dropoutRatio(c *device.Call) float64 {
	switch {
	case len(c.In) < 3 || c.In[2] == nil || !tensor.Of[bool](c.In[2])[0]:
		return 0
	case c.In[1] == nil:
		return 0.5
	}
	return scalarOf(c.In[1])
}

// bindStepDropout draws with Philox4x32-10: elements 4·i … 4·i+3 have the four
// words of the counter (i mod 2³², i div 2³², layer, step) and the key seed,
// whose upper half is inverted so that no gate draws the same. An element is
// dropped where (word + 1/2)/2³² is below the ratio.
func bindStepDropout[T float](d *Device, c *device.Call, n *op.Node) (func() error, error) {
	for _, t := range c.In[1:] {
		if t.Len() != 1 {
			return nil, fmt.Errorf("ratio or step has shape %s, needs a scalar", tensor.FormatShape(t.Shape))
		}
	}
	seed, layer := uint64(n.Int("seed", 0)), uint32(n.Int("layer", 0))
	key := [2]uint32{uint32(seed), ^uint32(seed >> 32)}
	var (
		scale T
		least uint64 // of the words of elements that are kept
		step  uint32
	)
	body := func(lo, hi int) {
		x, y := tensor.Of[T](c.In[0]), tensor.Of[T](c.Out[0])
		for i := lo; i < hi; {
			group := i / 4
			words := philox.Philox([4]uint32{uint32(group), uint32(group >> 32), layer, step}, key)
			for end := min(group*4+4, hi); i < end; i++ {
				if uint64(words[i%4]) >= least {
					y[i] = x[i] * scale
				} else {
					y[i] = 0
				}
			}
		}
	}
	whole := func(lo, hi int) { copy(tensor.Of[T](c.Out[0])[lo:hi], tensor.Of[T](c.In[0])[lo:hi]) }
	return func() error {
		ratio := scalarOf(c.In[1])
		if !(0 <= ratio && ratio < 1) {
			return fmt.Errorf("ratio is %g, must be at least 0 and below 1", ratio)
		}
		if ratio == 0 {
			d.pool.run(c.Out[0].Len(), moveGrain, whole)
			return nil
		}
		scale, least = T(1/(1-ratio)), uint64(math.Ceil(ratio*(1<<32)-0.5))
		step = uint32(tensor.Of[int64](c.In[2])[0])
		d.pool.run(c.Out[0].Len(), elementwiseChunk, body)
		return nil
	}, nil
}

// scalarOf returns the only element of a float32 or float64 tensor.
func scalarOf(t *tensor.Tensor) float64 {
	if t.Type == onnx.Float64 {
		return tensor.Of[float64](t)[0]
	}
	return float64(tensor.Of[float32](t)[0])
}
