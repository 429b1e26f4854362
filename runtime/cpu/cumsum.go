package cpu

import (
	"errors"

	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	register("", "CumSum", newElementwise)
	register("", "CumProd", newElementwise)
	register("", "Range", newElementwise)
	register(moe.Domain, "CumProdGradient", floatKernel(bindCumProdGradient[float32], bindCumProdGradient[float64], 0, 2))
}

func bindCumulative[T number](d *Device, n *op.Node, c *device.Call) (func() error, error) {
	axis, known, err := op.CumulativeAxis(c.In[0].Rank(), content(c))
	if err != nil {
		return nil, err
	}
	if !known {
		return nil, errors.New("the axis is not known")
	}
	outer, length, inner := splitAt(c.In[0].Shape, axis)
	exclusive, reverse := n.Int("exclusive", 0) != 0, n.Int("reverse", 0) != 0
	product := n.OpType == "CumProd"
	body := func(lo, hi int) {
		x, y := tensor.Of[T](c.In[0]), tensor.Of[T](c.Out[0])
		for i := lo; i < hi; i++ {
			at, step := i/inner*length*inner+i%inner, inner
			if reverse {
				at, step = at+(length-1)*inner, -inner
			}
			total := T(0)
			if product {
				total = 1
			}
			for range length {
				if exclusive {
					y[at] = total
				}
				if product {
					total *= x[at]
				} else {
					total += x[at]
				}
				if !exclusive {
					y[at] = total
				}
				at += step
			}
		}
	}
	return d.overLines(outer*inner, length, body), nil
}

// bindCumProdGradient divides by no element: with the products p of the elements
// before j, the gradient of element j is
//
//	p[j]·s[j]    s[j] = g[j] + x[j+1]·s[j+1]
//
// and s[j] = g[j+1] + x[j+1]·s[j+1] where a product excludes its own element.
func bindCumProdGradient[T simd.Float](d *Device, c *device.Call, n *op.Node) (func() error, error) {
	axis, known, err := op.CumulativeAxis(c.In[0].Rank(), content(c))
	if err != nil {
		return nil, err
	}
	if !known {
		return nil, errors.New("the axis is not known")
	}
	outer, length, inner := splitAt(c.In[0].Shape, axis)
	exclusive, reverse := n.Int("exclusive", 0) != 0, n.Int("reverse", 0) != 0
	body := func(lo, hi int) {
		x, g, dx := tensor.Of[T](c.In[0]), tensor.Of[T](c.In[2]), tensor.Of[T](c.Out[0])
		for i := lo; i < hi; i++ {
			at, step := i/inner*length*inner+i%inner, inner
			if reverse {
				at, step = at+(length-1)*inner, -inner
			}
			before := T(1)
			for range length {
				dx[at] = before
				before *= x[at]
				at += step
			}
			after := T(0) // s of the next element, times that element
			for range length {
				at -= step
				sum := after
				if !exclusive {
					sum += g[at]
				}
				dx[at] *= sum
				if exclusive {
					after = T(x[at]*sum) + g[at]
				} else {
					after = x[at] * sum
				}
			}
		}
	}
	return d.overLines(outer*inner, length, body), nil
}

func bindRange[T number](d *Device, _ *op.Node, c *device.Call) (func() error, error) {
	body := func(lo, hi int) {
		start, delta := tensor.Of[T](c.In[0])[0], tensor.Of[T](c.In[2])[0]
		y := tensor.Of[T](c.Out[0])[lo:hi]
		for i := range y {
			step := T(lo+i) * delta // rounded, so that no processor fuses it with the sum
			y[i] = start + T(step)
		}
	}
	return d.overElements(c.Out[0], body), nil
}
