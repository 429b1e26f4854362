package cpu

import (
	"fmt"
	"math"
	"sync/atomic"

	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	register(moe.Domain, "CrossEntropy", floatKernel(bindCrossEntropy[float32], bindCrossEntropy[float64], 0))
	register(moe.Domain, "CrossEntropyGradient", floatKernel(bindCrossEntropyGradient[float32], bindCrossEntropyGradient[float64], 1))
}

// crossEntropy is what CrossEntropy and its gradient have in common: rows of
// logits and a label for each.
type crossEntropy[T simd.Float] struct {
	op.CrossEntropyTerms
	logits, labels *tensor.Tensor
	rows, classes  int
}

func newCrossEntropy[T simd.Float](n *op.Node, logits, labels *tensor.Tensor) (*crossEntropy[T], error) {
	terms, err := op.CrossEntropyAttributes(n)
	if err != nil {
		return nil, err
	}
	last := logits.Rank() - 1
	return &crossEntropy[T]{CrossEntropyTerms: terms, logits: logits, labels: labels,
		rows: tensor.Count(logits.Shape[:last]), classes: logits.Shape[last]}, nil
}

// count returns how many labels count, and fails where one is no class.
func (e *crossEntropy[T]) count() (n int, err error) {
	for i := range e.rows {
		label := labelAt(e.labels, i)
		if label == e.Ignore {
			continue
		}
		if label < 0 || label >= int64(e.classes) {
			return 0, fmt.Errorf("label %d is outside of %d classes", label, e.classes)
		}
		n++
	}
	return n, nil
}

// over runs body for the rows, in parallel.
func (e *crossEntropy[T]) over(d *Device, body func(lo, hi int)) {
	d.pool.run(e.rows, max(1, 4096/max(e.classes, 1)), body)
}

// loss returns the loss of a row.
func (e *crossEntropy[T]) loss(x []T, label int64, buffer *[elementwiseChunk]T) float64 {
	logZ := logPartition(x, buffer)
	loss := logZ - (1-e.Smoothing)*float64(x[label]) + e.ZLoss*logZ*logZ
	if e.Smoothing != 0 {
		loss -= e.Smoothing / float64(len(x)) * sumLine(0.0, x)
	}
	return loss
}

// gradient writes factor times the gradient of a row to y, which may be x.
func (e *crossEntropy[T]) gradient(y, x []T, label int64, factor float64) {
	top := largest(x)
	z := expSumLine(x, y, top)
	logZ := float64(top) + math.Log(z)
	scaleLine(y, T(factor*(1+2*e.ZLoss*logZ)/z))
	if e.Smoothing != 0 {
		each := T(factor * e.Smoothing / float64(len(y)))
		for i := range y {
			y[i] -= each
		}
	}
	y[label] -= T(factor * (1 - e.Smoothing))
}

// logPartition returns log Σe^x.
func logPartition[T simd.Float](x []T, buffer *[elementwiseChunk]T) float64 {
	top, sum := largest(x), 0.0
	for from := 0; from < len(x); from += len(buffer) {
		piece := x[from:min(from+len(buffer), len(x))]
		sum += expSumLine(piece, buffer[:len(piece)], top)
	}
	return float64(top) + math.Log(sum)
}

// isLargest reports whether element i is the first of the largest.
func isLargest[T simd.Float](x []T, i int64) bool {
	if x[i] != largest(x) {
		return false
	}
	for _, v := range x[:i] {
		if v == x[i] {
			return false
		}
	}
	return true
}

func bindCrossEntropy[T simd.Float](d *Device, c *device.Call, n *op.Node) (func() error, error) {
	e, err := newCrossEntropy[T](n, c.In[0], c.In[1])
	if err != nil {
		return nil, err
	}
	reserve[float64](c.Scratch, e.rows)
	buffers := newBuffers[T](d)
	var losses []float64
	var correct atomic.Int64
	body := func(lo, hi int) {
		buffer := buffers.take()
		defer buffers.give(buffer)
		x := tensor.Of[T](e.logits)
		for i := lo; i < hi; i++ {
			losses[i] = 0
			if label := labelAt(e.labels, i); label != e.Ignore {
				row := x[i*e.classes:][:e.classes]
				losses[i] = e.loss(row, label, buffer)
				if isLargest(row, label) {
					correct.Add(1)
				}
			}
		}
	}
	return func() error {
		count, err := e.count()
		if err != nil {
			return err
		}
		losses = lookUp[float64](c.Scratch)[:e.rows]
		correct.Store(0)
		e.over(d, body)
		sum := 0.0
		for _, loss := range losses {
			sum += loss
		}
		setFloat(c.Out[0], 0, sum/float64(max(count, 1)))
		for i, number := range []int64{int64(count), correct.Load()} {
			if out := at(c.Out, i+1); out != nil {
				tensor.Of[int64](out)[0] = number
			}
		}
		return nil
	}, nil
}

func bindCrossEntropyGradient[T simd.Float](d *Device, c *device.Call, n *op.Node) (func() error, error) {
	e, err := newCrossEntropy[T](n, c.In[1], c.In[2])
	if err != nil {
		return nil, err
	}
	var factor float64
	body := func(lo, hi int) {
		x, y := tensor.Of[T](e.logits), tensor.Of[T](c.Out[0])
		for i := lo; i < hi; i++ {
			from, to := i*e.classes, (i+1)*e.classes
			if label := labelAt(e.labels, i); label != e.Ignore {
				e.gradient(y[from:to], x[from:to], label, factor)
			} else {
				clear(y[from:to])
			}
		}
	}
	return func() error {
		count, err := e.count()
		if err != nil {
			return err
		}
		factor = floatAt(c.In[0]) / float64(max(count, 1))
		e.over(d, body)
		return nil
	}, nil
}
