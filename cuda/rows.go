//go:build fmoecuda

package cuda

import (
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	register("", bindReduce, "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum")
	register("", bindSoftmax, "Softmax", "LogSoftmax")
	register("", bindNormalization, "LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
	register("com.microsoft", bindNormalization, "SimplifiedLayerNormalization")
}

// The parameters of kernels, laid out as in rows.cu.
type linesParameters struct {
	x, y          uintptr
	lines         int64
	length, inner int32
}

// bindLines binds a kernel that looks at lines of elements inner apart.
func bindLines(d *Device, name string, c *device.Call, lines, length, inner int) (func() error, error) {
	end, err := ending(c.In[0].Type)
	if err != nil {
		return nil, err
	}
	if length == 0 || length > 1<<31-1 || inner > 1<<31-1 || lines > 1<<31-1 {
		return nil, errForm
	}
	l, err := newLaunch[linesParameters](d, name+end, lineThreads(length), lines)
	if err != nil {
		return nil, err
	}
	l.p.lines, l.p.length, l.p.inner = int64(lines), int32(length), int32(inner)
	return func() error {
		l.p.x, l.p.y = address(c.In[0]), address(c.Out[0])
		return l.run()
	}, nil
}

// lineThreads returns the threads for a line: whole warps.
func lineThreads(length int) int { return min(512, max(32, (length+127)/128*32)) }

// bindReduce leaves to the CPU axes that are not side by side.
func bindReduce(d *Device, n *op.Node, c *device.Call) (func() error, error) {
	given := n.Ints("axes")
	if at(c.In, 1) != nil {
		var err error
		if given, err = c.In[1].Ints(); err != nil {
			return nil, err
		}
	}
	shape := c.In[0].Shape
	axes, err := op.ReduceAxes(n, given, len(shape))
	if err != nil {
		return nil, err
	}
	if len(axes) == 0 || axes[len(axes)-1]-axes[0] != len(axes)-1 {
		return nil, errForm
	}
	inner := tensor.Count(shape[axes[len(axes)-1]+1:])
	return bindLines(d, n.OpType, c, tensor.Count(shape[:axes[0]])*inner, tensor.Count(shape[axes[0]:axes[len(axes)-1]+1]), max(inner, 1))
}

func bindSoftmax(d *Device, n *op.Node, c *device.Call) (func() error, error) {
	shape := c.In[0].Shape
	axis, err := op.SoftmaxAxis(n, len(shape))
	if err != nil {
		return nil, err
	}
	if axis == len(shape) {
		return nil, errForm
	}
	length, inner := shape[axis], tensor.Count(shape[axis+1:])
	if n.Since < 13 {
		length, inner = length*inner, 1
	}
	return bindLines(d, n.OpType, c, tensor.Count(shape[:axis])*inner, length, max(inner, 1))
}

type normalizationParameters struct {
	x, scale, bias, y, mean, deviation uintptr
	length, center                     int32
	epsilon                            float32
}

func bindNormalization(d *Device, n *op.Node, c *device.Call) (func() error, error) {
	x, scale, bias := c.In[0], c.In[1], at(c.In, 2)
	end, err := endingOfAll(x, scale, bias)
	if err != nil {
		return nil, err
	}
	axis, err := op.Axis(n.Int("axis", -1), x.Rank())
	if err != nil {
		return nil, err
	}
	lines, length := tensor.Count(x.Shape[:axis]), tensor.Count(x.Shape[axis:])
	if length == 0 || length > 1<<31-1 || scale.Len() != length || bias != nil && bias.Len() != length {
		return nil, errForm
	}
	if end != "_f32" && !wantsOnly(c, 1) {
		return nil, errForm
	}
	l, err := newLaunch[normalizationParameters](d, "normalize"+end, lineThreads(length), lines)
	if err != nil {
		return nil, err
	}
	l.p.length, l.p.epsilon = int32(length), n.Float("epsilon", 1e-5)
	mean, deviation := at(c.Out, 1), at(c.Out, 2)
	if n.OpType == "LayerNormalization" {
		l.p.center = 1
	} else {
		mean, deviation = nil, mean
	}
	return func() error {
		l.p.x, l.p.scale, l.p.bias, l.p.y = address(x), address(scale), address(bias), address(c.Out[0])
		l.p.mean, l.p.deviation = address(mean), address(deviation)
		return l.run()
	}, nil
}
