package cpu

import (
	"fmt"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// expertWeights are the slots of the experts' weights, which may be stored in
// fewer bits than X.
var expertWeights = []int{moe.InputFC1Weight, moe.InputFC2Weight, moe.InputFC3Weight}

// packExperts packs the experts' weights that are constant in the bits in
// which they are stored.
func (k *fmoe) packExperts(constants []*tensor.Tensor) error {
	for _, slot := range expertWeights {
		weight := at(constants, slot)
		switch {
		case weight == nil || weight.Len() == 0:
		case k.config.Quantization.Bits == 0:
			k.packed[slot] = packConstant(k.device, weight, fmoeOrder(slot))
		default:
			m, in, err := k.quantized(constants, slot)
			if err != nil || m == nil {
				return err
			}
			if list := m.compress(k.device, 0, 1, m.rows, in); list != nil {
				k.packed[slot] = list
			}
		}
	}
	return nil
}

// quantized describes a quantised weight and its input's width; it is nil
// where some of what it depends on is absent.
func (k *fmoe) quantized(inputs []*tensor.Tensor, slot int) (m *packedMatrix, in int, err error) {
	other := moe.InputFC2Weight // whose outputs are as many as the inputs of this one
	if slot == moe.InputFC2Weight {
		other = moe.InputFC1Weight
	}
	weight, scales, wide := at(inputs, slot), at(inputs, moe.Scales(slot)), at(inputs, other)
	if weight == nil || scales == nil || wide == nil {
		return nil, 0, nil
	}
	if len(weight.Shape) != 4 || len(wide.Shape) != 4 {
		return nil, 0, fmt.Errorf("quantised weights have shapes %v and %v, need four dimensions", weight.Shape, wide.Shape)
	}
	q := k.config.Quantization
	in = wide.Shape[1]
	want := []int{weight.Shape[0], weight.Shape[1], q.Blocks(in), q.BlockBytes()}
	if !slices.Equal(weight.Shape, want) || !slices.Equal(scales.Shape, want[:3]) {
		return nil, 0, fmt.Errorf("%s and its scales have shapes %v and %v, need %v and %v", moe.InputNames[slot], weight.Shape, scales.Shape, want, want[:3])
	}
	m = &packedMatrix{data: weight, scales: scales, bits: q.Bits, rows: want[1], rowBytes: want[2] * want[3], block: q.Block, blocks: want[2]}
	return m, in, m.check()
}

// widenExperts returns the call with weights in float32 in the place of those
// that are quantised and were not packed, and what fills them for a run: nil
// where there are none.
func (k *fmoe) widenExperts(c *device.Call) (*device.Call, func(), error) {
	var fill []func()
	wide := *c
	for _, slot := range expertWeights {
		weight := at(c.In, slot)
		if weight == nil || k.packed[slot] != nil || k.config.Quantization.Bits == 0 {
			continue
		}
		if fill == nil {
			wide.In = slices.Clone(c.In)
		}
		load, t, err := k.widen(c, slot)
		if err != nil {
			return nil, nil, err
		}
		wide.In[slot] = t
		fill = append(fill, load)
	}
	if fill == nil {
		return c, nil, nil
	}
	return &wide, func() {
		for _, f := range fill {
			f()
		}
	}, nil
}

// widen allocates a weight in float32; load fills it.
func (k *fmoe) widen(c *device.Call, slot int) (load func(), t *tensor.Tensor, err error) {
	weight := c.In[slot]
	m, in, err := k.quantized(c.In, slot)
	if err != nil {
		return nil, nil, err
	}
	if _, err := tensor.CheckedCount(onnx.Float32, []int{weight.Shape[0], m.rows, in}); err != nil {
		return nil, nil, err
	}
	t = tensor.New(onnx.Float32, weight.Shape[0], m.rows, in)
	return m.reader(k.device, tensor.Of[float32](t), in), t, nil
}
