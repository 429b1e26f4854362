package cpu

import (
	"fmt"
	"math"

	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	register("", "MaxPool", newMaxPool)
	register("", "AveragePool", floatKernel(bindAveragePool[float32], bindAveragePool[float64], 0))
	register("", "LpPool", floatKernel(bindLpPool[float32], bindLpPool[float64], 0))
	register("", "GlobalMaxPool", floatKernel(bindGlobalPool[float32], bindGlobalPool[float64], 0))
	register("", "GlobalAveragePool", floatKernel(bindGlobalPool[float32], bindGlobalPool[float64], 0))
	register("", "GlobalLpPool", floatKernel(bindGlobalPool[float32], bindGlobalPool[float64], 0))
	register("", "MaxUnpool", floatKernel(bindMaxUnpool[float32], bindMaxUnpool[float64], 0))
}

// poolChannels calls body for every channel of every image, in parallel.
func poolChannels(d *Device, c *device.Call, n *op.Node, body func(s *sliding, channel int)) (func() error, error) {
	shape := c.In[0].Shape
	w, err := op.WindowsOf(n, len(shape)-2, nil)
	if err != nil {
		return nil, err
	}
	grid, err := w.Positions(shape[2:])
	if err != nil {
		return nil, err
	}
	s := newSliding(w, shape[2:], grid)
	pieces := func(lo, hi int) {
		for channel := lo; channel < hi; channel++ {
			body(s, channel)
		}
	}
	grain := max(1, 4096/max(s.positions*s.taps, 1))
	return func() error {
		d.pool.run(shape[0]*shape[1], grain, pieces)
		return nil
	}, nil
}

func newMaxPool(d *Device, n *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
	return device.KernelFunc(func(c *device.Call) (func() error, error) {
		switch c.In[0].Type {
		case onnx.Float32:
			return bindMaxPool[float32](d, c, n)
		case onnx.Float64:
			return bindMaxPool[float64](d, c, n)
		case onnx.Int8:
			return bindMaxPool[int8](d, c, n)
		case onnx.Uint8:
			return bindMaxPool[uint8](d, c, n)
		}
		return nil, device.UnsupportedType(c.In[0].Type)
	}), nil
}

// bindMaxPool compares tap by tap; the first of equal elements is the chosen
// one.
func bindMaxPool[T realNumber](d *Device, c *device.Call, n *op.Node) (func() error, error) {
	values, indices := c.Out[0], at(c.Out, 1)
	if values == nil {
		values = tensor.New(c.In[0].Type, indices.Shape...)
	}
	columnMajor := n.Int("storage_order", 0) == 1
	return poolChannels(d, c, n, func(s *sliding, channel int) {
		x := tensor.Of[T](c.In[0])[channel*s.size:][:s.size]
		y := tensor.Of[T](values)[channel*s.positions:][:s.positions]
		for i := range y {
			y[i] = lowest[T]()
		}
		var chosen []int64
		if indices != nil {
			chosen = tensor.Of[int64](indices)[channel*s.positions:][:s.positions]
			for i := range chosen {
				chosen[i] = -1
			}
		}
		step := s.step()
		for tap := range s.taps {
			s.runs(tap, 0, s.positions, func(position, element, count int) {
				y := y[position:][:count]
				if chosen == nil {
					for j := range y {
						y[j] = max(y[j], x[element+j*step])
					}
					return
				}
				for j := range y {
					if v := x[element+j*step]; v > y[j] || chosen[position+j] < 0 {
						y[j], chosen[position+j] = v, int64(element+j*step)
					}
				}
			})
		}
		for i, element := range chosen {
			switch {
			case element < 0: // the window lies in the padding
				element = 0
			case columnMajor:
				element = s.columnMajor(element)
			}
			chosen[i] = int64(channel*s.size) + element
		}
	})
}

// columnMajor numbers an element with the first dimension fastest.
func (s *sliding) columnMajor(element int64) int64 {
	number, stride := int64(0), int64(s.size)
	for i := len(s.image) - 1; i >= 0; i-- {
		length := int64(s.image[i])
		stride /= length
		number += element % length * stride
		element /= length
	}
	return number
}

func bindAveragePool[T simd.Float](d *Device, c *device.Call, n *op.Node) (func() error, error) {
	counts, err := averageCounts(n, c.In[0].Shape[2:])
	if err != nil {
		return nil, err
	}
	return poolChannels(d, c, n, func(s *sliding, channel int) {
		x, y := tensor.Of[T](c.In[0])[channel*s.size:], tensor.Of[T](c.Out[0])[channel*s.positions:][:s.positions]
		clear(y)
		step := s.step()
		for tap := range s.taps {
			s.runs(tap, 0, s.positions, func(position, element, count int) {
				y := y[position:][:count]
				for j := range y {
					y[j] += x[element+j*step]
				}
			})
		}
		for i, count := range counts {
			if count > 0 {
				y[i] /= T(count)
			}
		}
	})
}

// averageCounts returns how many elements each window averages: those in the
// image or, with count_include_pad, in the padded image.
func averageCounts(n *op.Node, image []int) ([]int32, error) {
	w, err := op.WindowsOf(n, len(image), nil)
	if err != nil {
		return nil, err
	}
	grid, err := w.Positions(image)
	if err != nil {
		return nil, err
	}
	if n.Int("count_include_pad", 0) != 0 {
		padded := make([]int, len(image))
		for i, length := range image {
			padded[i] = length + w.Before[i] + w.After[i]
			w.Before[i] = 0
		}
		image = padded
	}
	s := newSliding(w, image, grid)
	counts := make([]int32, s.positions)
	for tap := range s.taps {
		s.runs(tap, 0, s.positions, func(position, _, count int) {
			for j := range count {
				counts[position+j]++
			}
		})
	}
	return counts, nil
}

func bindLpPool[T simd.Float](d *Device, c *device.Call, n *op.Node) (func() error, error) {
	power, root := norm(n)
	return poolChannels(d, c, n, func(s *sliding, channel int) {
		x, y := tensor.Of[T](c.In[0])[channel*s.size:], tensor.Of[T](c.Out[0])[channel*s.positions:][:s.positions]
		clear(y)
		step := s.step()
		for tap := range s.taps {
			s.runs(tap, 0, s.positions, func(position, element, count int) {
				for j := range count {
					y[position+j] += T(power(float64(x[element+j*step])))
				}
			})
		}
		for i, v := range y {
			y[i] = T(root(float64(v)))
		}
	})
}

// norm returns what the p-norm of a node with that attribute sums, and the
// root of the sum.
func norm(n *op.Node) (power, root func(float64) float64) {
	switch p := float64(n.Int("p", 2)); p {
	case 1:
		return math.Abs, func(x float64) float64 { return x }
	case 2:
		return func(x float64) float64 { return x * x }, math.Sqrt
	default:
		return func(x float64) float64 { return math.Pow(math.Abs(x), p) },
			func(x float64) float64 { return math.Pow(x, 1/p) }
	}
}

// bindGlobalPool is a reduction of the spatial dimensions.
func bindGlobalPool[T simd.Float](d *Device, c *device.Call, n *op.Node) (func() error, error) {
	axes := make([]int, c.In[0].Rank()-2)
	for i := range axes {
		axes[i] = i + 2
	}
	layout := newReduceLayout(c.In[0].Shape, axes)
	if n.OpType == "GlobalLpPool" {
		power, root := norm(n)
		return runReduce(d, c, layout, reducer[T, float64]{
			line: func(acc float64, x []T) float64 {
				for _, v := range x {
					acc += power(float64(v))
				}
				return acc
			},
			finish: func(acc float64, _ int) T { return T(root(acc)) },
		}), nil
	}
	kind := map[string]string{"GlobalMaxPool": "ReduceMax", "GlobalAveragePool": "ReduceMean"}[n.OpType]
	r, err := newReducer[T, float64](kind)
	if err != nil {
		return nil, err
	}
	return runReduce(d, c, layout, r), nil
}

// bindMaxUnpool scatters. The indices count elements of the shape that the
// attributes give, which output_shape may enlarge.
func bindMaxUnpool[T simd.Float](_ *Device, c *device.Call, n *op.Node) (func() error, error) {
	image, err := op.MaxUnpoolShape(n, c.In[0].Shape[2:])
	if err != nil {
		return nil, err
	}
	whole := append(append([]int{}, c.In[0].Shape[:2]...), image...)
	total := int64(tensor.Count(whole))
	nest := make(spans, len(whole)) // walks the part of the output with that shape
	stride := 1
	for i := len(whole) - 1; i >= 0; i-- {
		nest[i] = span{whole[i], stride}
		stride *= c.Out[0].Shape[i]
	}
	return func() error {
		x, y := tensor.Of[T](c.In[0]), tensor.Of[T](c.Out[0])
		clear(y)
		for i, index := range tensor.Of[int64](c.In[1]) {
			if index < 0 || index >= total {
				return fmt.Errorf("index %d is outside a tensor of %d elements", index, total)
			}
			y[nest.offset(int(index))] = x[i]
		}
		return nil
	}, nil
}
