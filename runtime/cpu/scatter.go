package cpu

import (
	"fmt"

	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// Scattering copies input 0 to the output and then writes updates over it, at
// places found as for gathering. Updates of one place take effect in their
// order.
func init() {
	registerAnyType("", "Scatter", newScatter)
	registerAnyType("", "ScatterElements", newScatter)
	registerAnyType("", "ScatterND", newScatter)
	registerAnyType("", "TensorScatter", newTensorScatter)
}

func (m moverOf[T]) scatter(to, from *tensor.Tensor, places []int64, length, lo, hi int) {
	y, x := m.view(to), m.view(from)
	for i, at := range places {
		if length == 1 {
			y[at] = x[i]
		} else {
			copy(y[int(at)+lo:int(at)+hi], x[i*length+lo:])
		}
	}
}

// scattering writes runs of length elements, the updates, to count places.
type scattering struct {
	count, length int
	resolve       func(list []int64) error
}

// bindScatter returns a function that copies input 0 to output 0 and applies
// the updates, with write or, where that is nil, by overwriting.
func (d *Device) bindScatter(c *device.Call, s scattering, updates *tensor.Tensor,
	write func(list []int64, lo, hi int)) (func() error, error) {
	m, err := moverFor(c.In[0].Type)
	if err != nil {
		return nil, err
	}
	whole, err := d.bindTransfer(c, []loop{{c.In[0].Len(), 1, 1}}, 0, 0)
	if err != nil {
		return nil, err
	}
	if write == nil {
		write = func(list []int64, lo, hi int) { m.scatter(c.Out[0], updates, list, s.length, lo, hi) }
	}
	reservePlaces(c, s.count)
	var list []int64
	// Each thread writes a part of every run, so that two of them never meet.
	body := func(lo, hi int) { write(list, lo, hi) }
	return func() error {
		list = places(c, s.count)
		if err := s.resolve(list); err != nil {
			return err
		}
		if err := whole(); err != nil {
			return err
		}
		if s.count > 0 {
			d.pool.run(s.length, grain(s.count), body)
		}
		return nil
	}, nil
}

// newScatter makes the kernel of a scattering with or without reduction. Only
// the former does arithmetic on the elements.
func newScatter(d *Device, n *op.Node, constants []*tensor.Tensor) (device.Kernel, error) {
	if n.String("reduction", "none") != "none" {
		return newWidened(d, n, constants, kernelEntry{make: newElementwise})
	}
	return device.KernelFunc(func(c *device.Call) (func() error, error) {
		s, err := d.planScatter(n, c)
		if err != nil {
			return nil, err
		}
		return d.bindScatter(c, s, c.In[2], nil)
	}), nil
}

func (d *Device) planScatter(n *op.Node, c *device.Call) (s scattering, err error) {
	if n.OpType == "ScatterND" {
		s.count, s.length, s.resolve = tuplePlaces(c.In[0].Shape, c.In[1], 0)
		return s, nil
	}
	s.count, s.length = c.In[1].Len(), 1
	s.resolve, err = d.elementPlaces(n, c.In[0].Shape, c.In[1])
	return s, err
}

func bindReducingScatter[T number](d *Device, n *op.Node, c *device.Call) (func() error, error) {
	s, err := d.planScatter(n, c)
	if err != nil {
		return nil, err
	}
	var combine func(x, y T) T
	switch reduction := n.String("reduction", "none"); reduction {
	case "add":
		combine = func(x, y T) T { return x + y }
	case "mul":
		combine = func(x, y T) T { return x * y }
	case "max":
		combine = func(x, y T) T { return max(x, y) }
	case "min":
		combine = func(x, y T) T { return min(x, y) }
	default:
		return nil, fmt.Errorf("reduction %q is %w", reduction, device.ErrUnsupported)
	}
	return d.bindScatter(c, s, c.In[2], func(list []int64, lo, hi int) {
		y, x := tensor.Of[T](c.Out[0]), tensor.Of[T](c.In[2])
		for i, at := range list {
			target, update := y[int(at)+lo:int(at)+hi], x[i*s.length+lo:]
			for j := range target {
				target[j] = combine(target[j], update[j])
			}
		}
	})
}

func newTensorScatter(d *Device, n *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
	circular := n.String("mode", "linear") == "circular"
	return device.KernelFunc(func(c *device.Call) (func() error, error) {
		axis, err := op.Axis(n.Int("axis", -2), c.In[0].Rank())
		if err != nil {
			return nil, err
		}
		outer, capacity, inner := splitAt(c.In[0].Shape, axis)
		length, batch := c.In[1].Shape[axis], c.In[0].Shape[0]
		resolve := func(list []int64) error {
			for i := range list {
				entry, at := i/(len(list)/batch), i%length
				if len(c.In) > 2 && c.In[2] != nil {
					starts := indicesOf(c.In[2])
					start := starts.get(entry)
					if circular && start >= 0 {
						start %= int64(capacity)
					}
					if start < 0 || start > int64(capacity-length) && !circular {
						return fmt.Errorf("write_indices: %d entries from position %d on do not fit a cache of length %d", length, start, capacity)
					}
					at = (at + int(start)) % capacity
				}
				list[i] = int64((i/length*capacity + at) * inner)
			}
			return nil
		}
		return d.bindScatter(c, scattering{outer * length, inner, resolve}, c.In[1], nil)
	}), nil
}
