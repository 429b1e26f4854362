package cpu

import (
	"fmt"

	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	loss := floatKernel(bindLoss[float32], bindLoss[float64], 0)
	register("", "SoftmaxCrossEntropyLoss", loss)
	register("", "NegativeLogLikelihoodLoss", loss)
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
	ignored, ignores := op.IgnoreIndex(n)
	reduction := n.String("reduction", "mean")
	loss := c.Out[0]
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
			label := labelAt(c.In[1], i)
			value, weight := 0.0, 0.0
			if !ignores || label != ignored {
				if label < 0 || label >= int64(classes) {
					return fmt.Errorf("label %d is outside of %d classes", label, classes)
				}
				weight = 1
				if weights != nil {
					weight = float64(weights[label])
				}
				value = -weight * float64(x[(i/inner*classes+int(label))*inner+i%inner])
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

func labelAt(t *tensor.Tensor, i int) int64 {
	if t.Type == onnx.Int32 {
		return int64(tensor.Of[int32](t)[i])
	}
	return tensor.Of[int64](t)[i]
}
