//go:build fmoecuda

package cuda

import (
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/op"
)

func init() { register(moe.Domain, bindStepDropout, "Dropout") }

// The parameters of kernels, laid out as in dropout.cu.
type dropoutParameters struct {
	x, ratio, step, y uintptr
	n                 int64
	key               [2]uint32
	layer             uint32
}

// bindStepDropout draws what the CPU's kernel does. A ratio outside of 0 to
// below 1, which the CPU refuses, gives what the formula does.
func bindStepDropout(d *Device, n *op.Node, c *device.Call) (func() error, error) {
	end, err := endingOfAll(c.In[0], c.In[1])
	if err != nil {
		return nil, err
	}
	if c.In[1].Len() != 1 || c.In[2].Len() != 1 || c.In[2].Type != onnx.Int64 {
		return nil, errForm
	}
	length := c.In[0].Len()
	l, err := newLaunch[dropoutParameters](d, "dropout"+end, blockThreads, blocks(ceilDiv(length, 4)))
	if err != nil {
		return nil, err
	}
	seed := uint64(n.Int("seed", 0))
	l.p.n, l.p.key, l.p.layer = int64(length), [2]uint32{uint32(seed), ^uint32(seed >> 32)}, uint32(n.Int("layer", 0))
	return func() error {
		l.p.x, l.p.ratio, l.p.step, l.p.y = address(c.In[0]), address(c.In[1]), address(c.In[2]), address(c.Out[0])
		return l.run()
	}, nil
}
