package cpu

import (
	"fmt"
	"math"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	register("", "GridSample", newElementwise)
	register(moe.Domain, "GridSampleGradient", floatKernel(bindGridSampleGradient[float32], bindGridSampleGradient[float64], 0, 1, 2))
	define[float32]("GridSample", bindGridSample[float32])
	define[float64]("GridSample", bindGridSample[float64])
	define[uint8]("GridSample", bindGridSample[uint8])
	define[int8]("GridSample", bindGridSample[int8])
	define[int32]("GridSample", bindGridSample[int32])
}

// maxSampleAxes bounds the spatial dimensions of a GridSample.
const maxSampleAxes = 8

// sampler finds what makes up a point along one axis of an image.
type sampler struct {
	length       int
	alignCorners bool
	mode         string
	padding      string
}

// sample is at most four neighbours of a point along one axis. One outside the
// image has the position −1.
type sample struct {
	count     int
	positions [4]int
	weights   [4]float64
	slopes    [4]float64 // how the weights change with the point
}

// at returns the neighbours of a point, −1 and 1 being the ends of the axis.
func (s *sampler) at(point float64) (t sample) {
	x, slope := ((point+1)*float64(s.length)-1)/2, float64(s.length)/2
	if s.alignCorners {
		x, slope = (point+1)/2*float64(s.length-1), float64(s.length-1)/2
	}
	if s.mode == "nearest" {
		x = math.RoundToEven(x)
	}
	cubic := s.mode == "cubic" || s.mode == "bicubic"
	switch {
	case s.padding == "border" && !cubic: // a curve through the border's values does not end there
		inside := min(max(x, 0), float64(s.length-1))
		if inside != x {
			x, slope = inside, 0
		}
	case s.padding == "reflection":
		var direction float64
		x, direction = s.reflected(x)
		slope *= direction
	}
	first := math.Floor(x)
	switch {
	case s.mode == "nearest":
		t.count, t.weights[0] = 1, 1
	case !cubic:
		t.count, t.weights[0], t.weights[1] = 2, 1-(x-first), x-first
		t.slopes[0], t.slopes[1] = -slope, slope
	default:
		first--
		t.count = 4
		for i := range t.weights {
			t.weights[i] = cubicWeight(x-first-float64(i), -0.75)
			t.slopes[i] = slope * cubicSlope(x-first-float64(i), -0.75)
		}
	}
	for i := range t.count {
		t.positions[i] = s.position(first + float64(i))
	}
	return t
}

// position returns where the neighbour at x is.
func (s *sampler) position(x float64) int {
	last := float64(s.length - 1)
	if s.padding == "reflection" {
		x, _ = s.reflected(x)
	}
	if s.padding == "zeros" && !(x >= 0 && x <= last) || x != x {
		return -1
	}
	return int(min(max(x, 0), last))
}

// reflected mirrors a coordinate at the borders of the image until it is
// inside. It also returns 1 where the result grows with x, −1 where it falls,
// and 0 where there is one coordinate alone.
func (s *sampler) reflected(x float64) (inside, direction float64) {
	low, high := -0.5, float64(s.length)-0.5
	if s.alignCorners {
		low, high = 0, float64(s.length-1)
	}
	if x >= low && x <= high {
		return x, 1
	}
	size := high - low
	if size == 0 {
		return low, 0
	}
	direction = 1
	if x < low {
		direction = -1
	}
	x = math.Mod(math.Abs(x-low), 2*size)
	if x > size {
		x, direction = 2*size-x, -direction
	}
	return low + x, direction
}

func bindGridSample[T number](d *Device, n *op.Node, c *device.Call) (func() error, error) {
	if c.In[1].Type == onnx.Float64 {
		return gridSample[T, float64](d, n, c)
	}
	if c.In[1].Type == onnx.Float32 {
		return gridSample[T, float32](d, n, c)
	}
	return nil, fmt.Errorf("grid: %w", device.UnsupportedType(c.In[1].Type))
}

func gridSample[T number, G float](d *Device, n *op.Node, c *device.Call) (func() error, error) {
	in := c.In[0].Shape
	samplers, err := newSamplers(n, in)
	if err != nil {
		return nil, err
	}
	rank, strides := len(samplers), stridesOf(in[2:])
	batches, channels, image, points := in[0], in[1], tensor.Count(in[2:]), tensor.Count(c.Out[0].Shape[2:])
	body := func(lo, hi int) {
		x, grid, y := tensor.Of[T](c.In[0]), tensor.Of[G](c.In[1]), tensor.Of[T](c.Out[0])
		var samples [maxSampleAxes]sample
		for i := lo; i < hi; i++ {
			for axis := range rank { // the grid lists coordinates from the last axis on
				samples[axis] = samplers[axis].at(float64(grid[i*rank+rank-1-axis]))
			}
			batch, point := i/points, i%points
			for channel := range channels {
				plane := x[(batch*channels+channel)*image:][:image]
				y[(batch*channels+channel)*points+point] = fromFloat[T](weighted(plane, samples[:rank], strides))
			}
		}
	}
	lines := batches * points
	return d.overLines(lines, channels<<(2*min(rank, 3)), body), nil
}

// newSamplers returns the samplers of the spatial axes of an image.
func newSamplers(n *op.Node, image []int) ([]sampler, error) {
	rank := len(image) - 2
	if rank > maxSampleAxes {
		return nil, fmt.Errorf("%d spatial dimensions are %w", rank, device.ErrUnsupported)
	}
	if tensor.Count(image[2:]) == 0 {
		return nil, fmt.Errorf("image of shape %s has no elements to sample", tensor.FormatShape(image))
	}
	samplers := make([]sampler, rank)
	for i := range samplers {
		samplers[i] = sampler{image[i+2], n.Int("align_corners", 0) != 0, n.String("mode", "linear"), n.String("padding_mode", "zeros")}
	}
	return samplers, nil
}

// bindGridSampleGradient adds gradients to a channel's image point by point, on
// one thread, and computes those of each point from all channels.
func bindGridSampleGradient[T float](d *Device, c *device.Call, n *op.Node) (func() error, error) {
	in := c.In[1].Shape
	samplers, err := newSamplers(n, in)
	if err != nil {
		return nil, err
	}
	rank, strides := len(samplers), stridesOf(in[2:])
	channels, image, points := in[1], tensor.Count(in[2:]), tensor.Count(c.In[0].Shape[2:])
	find := func(samples []sample, grid []T, i int) {
		for axis := range samples {
			samples[axis] = samplers[axis].at(float64(grid[i*rank+rank-1-axis]))
		}
	}
	images := func(lo, hi int) {
		g, grid := tensor.Of[T](c.In[0]), tensor.Of[T](c.In[2])
		var samples [maxSampleAxes]sample
		for plane := lo; plane < hi; plane++ {
			out := tensor.Of[T](c.Out[0])[plane*image:][:image]
			clear(out)
			for point := range points {
				find(samples[:rank], grid, plane/channels*points+point)
				spread(out, float64(g[plane*points+point]), samples[:rank], strides)
			}
		}
	}
	grids := func(lo, hi int) {
		g, x, grid, out := tensor.Of[T](c.In[0]), tensor.Of[T](c.In[1]), tensor.Of[T](c.In[2]), tensor.Of[T](c.Out[1])
		var samples [maxSampleAxes]sample
		for i := lo; i < hi; i++ {
			find(samples[:rank], grid, i)
			batch, point := i/points, i%points
			for axis := range rank {
				s := &samples[axis]
				s.weights, s.slopes = s.slopes, s.weights
				sum := 0.0
				for plane := batch * channels; plane < (batch+1)*channels; plane++ {
					sum += float64(g[plane*points+point]) * weighted(x[plane*image:][:image], samples[:rank], strides)
				}
				s.weights, s.slopes = s.slopes, s.weights
				out[i*rank+rank-1-axis] = T(sum)
			}
		}
	}
	return func() error {
		if c.Out[0] != nil {
			d.pool.run(in[0]*channels, max(1, 1024/max(points, 1)), images)
		}
		if at(c.Out, 1) != nil {
			d.pool.run(in[0]*points, max(1, 1024/max(channels, 1)), grids)
		}
		return nil
	}, nil
}

// spread is the reverse of weighted: it adds an element to all that it is made
// of.
func spread[T float](out []T, g float64, samples []sample, strides []int) {
	if len(samples) == 0 {
		out[0] += T(g)
		return
	}
	s := &samples[0]
	for i, position := range s.positions[:s.count] {
		if position >= 0 && s.weights[i] != 0 {
			spread(out[position*strides[0]:], g*s.weights[i], samples[1:], strides[1:])
		}
	}
}

// weighted adds up the elements at all combinations of the neighbours along
// each axis.
func weighted[T number](x []T, samples []sample, strides []int) float64 {
	if len(samples) == 0 {
		return float64(x[0])
	}
	sum := 0.0
	s := &samples[0]
	for i, position := range s.positions[:s.count] {
		if position >= 0 && s.weights[i] != 0 {
			sum += s.weights[i] * weighted(x[position*strides[0]:], samples[1:], strides[1:])
		}
	}
	return sum
}
