package cpu

import (
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() { register("", "OneHot", newElementwise) }

// bindOneHot is for indices of type T. The values have any type.
func bindOneHot[T number](d *Device, n *op.Node, c *device.Call) (func() error, error) {
	indices, values, out := c.In[0], c.In[2], c.Out[0]
	axis, err := op.OneHotAxis(n, indices.Rank())
	if err != nil {
		return nil, err
	}
	m, err := moverFor(out.Type)
	if err != nil {
		return nil, err
	}
	outer, depth, inner := splitAt(out.Shape, axis)
	body := func(lo, hi int) {
		x := tensor.Of[T](indices)
		for i := lo; i < hi; i++ {
			m.fill(out, i*depth*inner, (i+1)*depth*inner, values, 0)
			for j := range inner {
				on := float64(x[i*inner+j])
				if on < 0 && n.Since >= 11 {
					on += float64(depth)
				}
				if on >= 0 && on < float64(depth) {
					at := (i*depth+int(on))*inner + j
					m.fill(out, at, at+1, values, 1)
				}
			}
		}
	}
	if out.Len() == 0 {
		outer = 0
	}
	return d.overLines(outer, depth*inner, body), nil
}
