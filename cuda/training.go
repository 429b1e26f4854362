//go:build fmoecuda

package cuda

import (
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	register(moe.Domain, bindCrossEntropy, "CrossEntropy")
	register(moe.Domain, bindCrossEntropyGradient, "CrossEntropyGradient")
	register(moe.Domain, bindNormalizationGradient, "LayerNormalizationGradient", "RMSNormalizationGradient")
	register(moe.Domain, bindGatherGradient, "GatherGradient")
	register(moe.Domain, bindAdamUpdate, "AdamUpdate")
	register(moe.Domain, bindSumOfSquares, "SumOfSquares")
}

// The parameters of kernels, laid out as in training.cu.
type (
	crossEntropyParameters struct {
		logits, labels, y, gradient, loss, count, correct, losses, counted, right, fault uintptr
		lines                                                                            int64
		classes, labelBytes                                                              int32
		ignore                                                                           int64
		smoothing, z                                                                     float32
	}
	normGradientParameters struct {
		g, x, scale, dx, dscale, dbias, mean, inverse, partialScale, partialBias uintptr
		lines                                                                    int64
		length, center                                                           int32
		epsilon                                                                  float32
	}
	gatherBackParameters struct {
		g, indices, y, fault uintptr
		rows, inner          int64
		n, indexBytes        int32
	}
	adamParameters struct {
		in               [op.AdamApply]uintptr
		apply            uintptr
		newW, newM, newV uintptr
		n                int64
	}
	squaresParameters struct {
		x, partial, y uintptr
		n             int64
	}
)

// indexBytes returns the bytes of an index.
func indexBytes(t onnx.DataType) (int32, error) {
	switch t {
	case onnx.Int64:
		return 8, nil
	case onnx.Int32:
		return 4, nil
	}
	return 0, errForm
}

// crossEntropyLines describes logits and labels to kernels.
func (d *Device) crossEntropyLines(n *op.Node, logits, labels *tensor.Tensor) (crossEntropyParameters, error) {
	terms, err := op.CrossEntropyAttributes(n)
	if err != nil {
		return crossEntropyParameters{}, err
	}
	p := crossEntropyParameters{ignore: terms.Ignore, smoothing: float32(terms.Smoothing), z: float32(terms.ZLoss)}
	if p.labelBytes, err = indexBytes(labels.Type); err != nil {
		return p, err
	}
	classes := logits.Shape[logits.Rank()-1]
	if classes == 0 || classes >= 1<<24 || labels.Len() == 0 || labels.Len() > 1<<31-1 {
		return p, errForm
	}
	p.lines, p.classes = int64(labels.Len()), int32(classes)
	p.fault = address(&tensor.Tensor{Data: d.fault})
	return p, nil
}

func bindCrossEntropy(d *Device, n *op.Node, c *device.Call) (func() error, error) {
	logits, labels := c.In[0], c.In[1]
	end, err := ending(logits.Type)
	if err != nil {
		return nil, err
	}
	p, err := d.crossEntropyLines(n, logits, labels)
	if err != nil {
		return nil, err
	}
	line, err := newLaunch[crossEntropyParameters](d, "line_loss"+end, lineThreads(int(p.classes)), int(p.lines))
	if err != nil {
		return nil, err
	}
	total, err := newLaunch[crossEntropyParameters](d, "total_loss", 256, 1)
	if err != nil {
		return nil, err
	}
	var m layout
	losses, counted, right := m.take(8*int(p.lines)), m.take(4*int(p.lines)), m.take(4*int(p.lines))
	c.Scratch.Reserve(m.size)
	*line.p = p
	return func() error {
		scratch := address(&tensor.Tensor{Data: c.Scratch.Bytes()})
		p := line.p
		p.logits, p.labels, p.loss, p.count, p.correct = address(logits), address(labels), address(at(c.Out, 0)), address(at(c.Out, 1)), address(at(c.Out, 2))
		p.losses, p.counted, p.right = losses.in(scratch), counted.in(scratch), right.in(scratch)
		*total.p = *p
		if err := line.run(); err != nil {
			return err
		}
		return total.run()
	}, nil
}

func bindCrossEntropyGradient(d *Device, n *op.Node, c *device.Call) (func() error, error) {
	gradient, logits, labels := c.In[0], c.In[1], c.In[2]
	end, err := ending(logits.Type)
	if err != nil {
		return nil, err
	}
	if gradient.Type != onnx.Float32 {
		return nil, errForm
	}
	p, err := d.crossEntropyLines(n, logits, labels)
	if err != nil {
		return nil, err
	}
	var steps [3]*launch[crossEntropyParameters]
	for i, s := range []struct {
		name          string
		threads, grid int
	}{{"count_labels", 256, ceilDiv(int(p.lines), 256)}, {"total_loss", 256, 1}, {"loss_gradient" + end, lineThreads(int(p.classes)), int(p.lines)}} {
		if steps[i], err = newLaunch[crossEntropyParameters](d, s.name, s.threads, s.grid); err != nil {
			return nil, err
		}
		*steps[i].p = p
	}
	var m layout
	counted, count := m.take(4*int(p.lines)), m.take(8)
	c.Scratch.Reserve(m.size)
	return func() error {
		scratch := address(&tensor.Tensor{Data: c.Scratch.Bytes()})
		for _, s := range steps {
			p := s.p
			p.logits, p.labels, p.gradient, p.y = address(logits), address(labels), address(gradient), address(c.Out[0])
			p.counted, p.count = counted.in(scratch), count.in(scratch)
			if err := s.run(); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

// normLines is the lines that a block of norm_sums adds up.
const normLines = 64

func bindNormalizationGradient(d *Device, n *op.Node, c *device.Call) (func() error, error) {
	g, x, scale := c.In[0], c.In[1], at(c.In, 2)
	end, err := endingOfAll(g, x, scale)
	if err != nil {
		return nil, err
	}
	axis, err := op.Axis(n.Int("axis", -1), x.Rank())
	if err != nil {
		return nil, err
	}
	lines, length := tensor.Count(x.Shape[:axis]), tensor.Count(x.Shape[axis:])
	if length == 0 || lines == 0 || length > 1<<31-1 || lines > normLines*65535 {
		return nil, errForm
	}
	p := normGradientParameters{lines: int64(lines), length: int32(length), center: truth(n.OpType == "LayerNormalizationGradient"), epsilon: n.Float("epsilon", 1e-5)}
	var steps []*launch[normGradientParameters]
	add := func(name string, threads int, grid ...int) {
		if err != nil {
			return
		}
		var l *launch[normGradientParameters]
		if l, err = newLaunch[normGradientParameters](d, name+end, threads, grid...); err == nil {
			*l.p = p
			steps = append(steps, l)
		}
	}
	var m layout
	mean, inverse := m.take(4*lines), m.take(4*lines)
	var partialScale, partialBias place
	add("norm_statistics", lineThreads(length), lines)
	if at(c.Out, 1) != nil || at(c.Out, 2) != nil {
		pieces := ceilDiv(lines, normLines)
		partialScale, partialBias = m.take(4*pieces*length), m.take(4*pieces*length)
		add("norm_sums", 256, ceilDiv(length, 256), pieces)
		add("norm_totals", 256, ceilDiv(length, 256))
	}
	if at(c.Out, 0) != nil { // last: it may lie where what it is computed from does
		add("norm_back", lineThreads(length), lines)
	}
	if err != nil {
		return nil, err
	}
	c.Scratch.Reserve(m.size)
	return func() error {
		scratch := address(&tensor.Tensor{Data: c.Scratch.Bytes()})
		for _, s := range steps {
			p := s.p
			p.g, p.x, p.scale, p.dx, p.dscale, p.dbias = address(g), address(x), address(scale), address(at(c.Out, 0)), address(at(c.Out, 1)), address(at(c.Out, 2))
			p.mean, p.inverse, p.partialScale, p.partialBias = mean.in(scratch), inverse.in(scratch), partialScale.in(scratch), partialBias.in(scratch)
			if err := s.run(); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

// gatherIndices bounds the indices that are compared with one another; more are
// sorted.
const gatherIndices = 1 << 16

func bindGatherGradient(d *Device, n *op.Node, c *device.Call) (func() error, error) {
	g, indices, y := c.In[0], c.In[1], c.Out[0]
	end, err := ending(g.Type)
	if err != nil {
		return nil, err
	}
	axis, err := op.Axis(n.Int("axis", 0), y.Rank())
	if err != nil {
		return nil, err
	}
	outer := tensor.Count(y.Shape[:axis])
	if indices.Len() > gatherIndices {
		return bindSortedGatherGradient(d, c, axis)
	}
	if indices.Len() == 0 || y.Len() == 0 {
		return nil, errForm
	}
	l, err := newLaunch[gatherBackParameters](d, "gather_back"+end, 256, indices.Len(), outer)
	if err != nil {
		return nil, err
	}
	if l.p.indexBytes, err = indexBytes(indices.Type); err != nil {
		return nil, err
	}
	l.p.n, l.p.rows, l.p.inner = int32(indices.Len()), int64(y.Shape[axis]), int64(tensor.Count(y.Shape[axis+1:]))
	l.p.fault = address(&tensor.Tensor{Data: d.fault})
	return func() error {
		if err := d.Clear(y.Data); err != nil {
			return err
		}
		l.p.g, l.p.indices, l.p.y = address(g), address(indices), address(y)
		return l.run()
	}, nil
}

func bindAdamUpdate(d *Device, _ *op.Node, c *device.Call) (func() error, error) {
	n := c.In[op.AdamWeight].Len()
	for _, t := range c.In[:op.AdamApply] {
		if t.Type != onnx.Float32 {
			return nil, errForm
		}
	}
	l, err := newLaunch[adamParameters](d, "adam", 256, ceilDiv(n, 256))
	if err != nil {
		return nil, err
	}
	l.p.n = int64(n)
	return func() error {
		for i, t := range c.In[:op.AdamApply] {
			l.p.in[i] = address(t)
		}
		l.p.apply = address(at(c.In, op.AdamApply))
		l.p.newW, l.p.newM, l.p.newV = address(at(c.Out, 0)), address(at(c.Out, 1)), address(at(c.Out, 2))
		return l.run()
	}, nil
}

// squaresPiece is the elements that a block of squares adds up.
const squaresPiece = 16384

func bindSumOfSquares(d *Device, _ *op.Node, c *device.Call) (func() error, error) {
	var m layout
	type part struct {
		x              *tensor.Tensor
		partial        place
		squares, total *launch[squaresParameters]
	}
	parts := make([]part, len(c.In))
	for i, x := range c.In {
		if x.Type != onnx.Float32 {
			return nil, errForm
		}
		pieces := ceilDiv(x.Len(), squaresPiece)
		parts[i] = part{x: x, partial: m.take(8 * max(pieces, 1))}
		var err error
		if parts[i].squares, err = newLaunch[squaresParameters](d, "squares", 256, pieces); err != nil {
			return nil, err
		}
		if parts[i].total, err = newLaunch[squaresParameters](d, "total_squares", 256, 1); err != nil {
			return nil, err
		}
	}
	c.Scratch.Reserve(m.size)
	return func() error {
		scratch, y := address(&tensor.Tensor{Data: c.Scratch.Bytes()}), address(c.Out[0])
		for i := range parts {
			p := &parts[i]
			*p.squares.p = squaresParameters{x: address(p.x), partial: p.partial.in(scratch), y: y + uintptr(4*i), n: int64(p.x.Len())}
			*p.total.p = *p.squares.p
			if err := p.squares.run(); err != nil {
				return err
			}
			if err := p.total.run(); err != nil {
				return err
			}
		}
		return nil
	}, nil
}
