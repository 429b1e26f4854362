package cpu

import (
	"errors"

	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() { registerAnyType("", "Trilu", newTrilu) }

func newTrilu(d *Device, n *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
	upper := n.Int("upper", 1) != 0
	return device.KernelFunc(func(c *device.Call) (func() error, error) {
		k, known, err := op.TriluDiagonal(n, content(c))
		if err != nil {
			return nil, err
		}
		if !known {
			return nil, errors.New("the diagonal k is not known")
		}
		m, err := moverFor(c.Out[0].Type)
		if err != nil {
			return nil, err
		}
		whole, err := d.bindTransfer(c, []loop{{c.In[0].Len(), 1, 1}}, 0, 0)
		if err != nil {
			return nil, err
		}
		rank := c.In[0].Rank()
		rows, columns := c.In[0].Shape[rank-2], c.In[0].Shape[rank-1]
		diagonal := int(min(max(k, -int64(rows)), int64(columns)))
		body := func(lo, hi int) {
			for i := lo; i < hi; i++ {
				cut := i%rows + diagonal
				if upper {
					m.clear(c.Out[0], i*columns, i*columns+min(max(cut, 0), columns))
				} else {
					m.clear(c.Out[0], i*columns+min(max(cut+1, 0), columns), (i+1)*columns)
				}
			}
		}
		lines := c.In[0].Len() / max(columns, 1)
		return func() error {
			if err := whole(); err != nil {
				return err
			}
			d.pool.run(lines, grain(columns), body)
			return nil
		}, nil
	}), nil
}
