package cpu

import (
	"fmt"

	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	loss := floatKernel(bindLoss[float32], bindLoss[float64], 0)
	register("", "SoftmaxCrossEntropyLoss", loss)
	register("", "NegativeLogLikelihoodLoss", loss)
	register(moe.Domain, "NegativeLogLikelihoodLossGradient", floatKernel(bindLossGradient[float32], bindLossGradient[float64], 0, 2, 3))
}

// bindLoss picks, for every sample, the logarithm of its label's probability.
func bindLoss[T simd.Float](d *Device, c *device.Call, n *op.Node) (func() error, error) {
	outer, classes, inner := splitAt(c.In[0].Shape, 1)
	logs, prepare := c.In[0], func() error { return nil }
	if n.OpType == "SoftmaxCrossEntropyLoss" {
		if logs = at(c.Out, 1); logs == nil {
			logs = tensor.New(c.In[0].Type, c.In[0].Shape...)
		}
		scores := &device.Call{In: c.In, Out: []*tensor.Tensor{logs}}
		prepare = softmax[T](d, scores, outer, classes, inner, true)
	}
	labels, reduction, loss := newLossLabels(n, c.In[1], classes), n.String("reduction", "mean"), c.Out[0]
	return func() error {
		if err := prepare(); err != nil || loss == nil {
			return err
		}
		x, y := tensor.Of[T](logs), tensor.Of[T](loss)
		var weights []T
		if t := at(c.In, 2); t != nil {
			weights = tensor.Of[T](t)
		}
		sum, total := 0.0, 0.0
		for i := range outer * inner {
			label, weight, err := weighLabel(&labels, i, weights)
			if err != nil {
				return err
			}
			value := 0.0
			if label >= 0 {
				value = -weight * float64(x[(i/inner*classes+label)*inner+i%inner])
			}
			if reduction == "none" {
				y[i] = T(value)
			}
			sum += value
			total += weight
		}
		switch reduction {
		case "mean":
			y[0] = T(sum / total)
		case "sum":
			y[0] = T(sum)
		}
		return nil
	}, nil
}

// lossLabels are the labels of a loss.
type lossLabels struct {
	labels  *tensor.Tensor
	classes int
	ignored int64
	ignores bool
}

func newLossLabels(n *op.Node, labels *tensor.Tensor, classes int) lossLabels {
	l := lossLabels{labels: labels, classes: classes}
	l.ignored, l.ignores = op.IgnoreIndex(n)
	return l
}

// weighLabel returns the label of sample i and its weight, 1 where weights is
// nil; −1 and 0 for one that is ignored.
func weighLabel[T simd.Float](l *lossLabels, i int, weights []T) (label int, weight float64, err error) {
	switch at := labelAt(l.labels, i); {
	case l.ignores && at == l.ignored:
		return -1, 0, nil
	case at < 0 || at >= int64(l.classes):
		return 0, 0, fmt.Errorf("label %d is outside of %d classes", at, l.classes)
	case weights != nil:
		return int(at), float64(weights[at]), nil
	default:
		return int(at), 1, nil
	}
}

func bindLossGradient[T simd.Float](_ *Device, c *device.Call, n *op.Node) (func() error, error) {
	outer, classes, inner := splitAt(c.In[0].Shape, 1)
	labels, reduction := newLossLabels(n, c.In[1], classes), n.String("reduction", "mean")
	return func() error {
		g, dx := tensor.Of[T](c.In[3]), tensor.Of[T](c.Out[0])
		var weights []T
		if t := c.In[2]; t != nil {
			weights = tensor.Of[T](t)
		}
		clear(dx)
		total := 1.0
		if reduction == "mean" {
			total = 0
		}
		for pass := range 2 { // the sum of weights is known after the first one
			for i := range outer * inner {
				label, weight, err := weighLabel(&labels, i, weights)
				switch {
				case err != nil:
					return err
				case pass == 0 && reduction == "mean":
					total += weight
				case pass == 1 && label >= 0:
					dx[(i/inner*classes+label)*inner+i%inner] = T(-weight * float64(g[min(i, len(g)-1)]) / total)
				}
			}
		}
		return nil
	}, nil
}

func labelAt(t *tensor.Tensor, i int) int64 {
	if t.Type == onnx.Int32 {
		return int64(tensor.Of[int32](t)[i])
	}
	return tensor.Of[int64](t)[i]
}
