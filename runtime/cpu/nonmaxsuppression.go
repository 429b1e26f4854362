package cpu

import (
	"math"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() { registerAnyType("", "NonMaxSuppression", newNonMaxSuppression) }

// box is a rectangle by its borders.
type box struct{ top, left, bottom, right float32 }

func newBox(v []float32, fromCentre bool) box {
	if fromCentre {
		x, y, width, height := v[0], v[1], v[2]/2, v[3]/2
		return box{y - height, x - width, y + height, x + width}
	}
	return box{min(v[0], v[2]), min(v[1], v[3]), max(v[0], v[2]), max(v[1], v[3])}
}

func (b box) area() float32 { return (b.bottom - b.top) * (b.right - b.left) }

// overlap returns the area of the intersection divided by that of the union.
func (b box) overlap(c box) float32 {
	height := min(b.bottom, c.bottom) - max(b.top, c.top)
	width := min(b.right, c.right) - max(b.left, c.left)
	if height <= 0 || width <= 0 {
		return 0
	}
	return height * width / (b.area() + c.area() - height*width)
}

func newNonMaxSuppression(_ *Device, n *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
	fromCentre := n.Int("center_point_box", 0) != 0
	return device.KernelFunc(func(c *device.Call) (func() error, error) {
		for _, t := range c.In[:2] {
			if t.Type != onnx.Float32 {
				return nil, device.UnsupportedType(t.Type)
			}
		}
		open := openOutputs(c)
		return func() error {
			limit, maxOverlap, minScore := int64(0), float32(0), float32(math.Inf(-1))
			if t := at(c.In, 2); t != nil {
				limit = tensor.Of[int64](t)[0]
			}
			if t := at(c.In, 3); t != nil {
				maxOverlap = tensor.Of[float32](t)[0]
			}
			if t := at(c.In, 4); t != nil {
				minScore = tensor.Of[float32](t)[0]
			}
			batches, classes, count := c.In[1].Shape[0], c.In[1].Shape[1], c.In[1].Shape[2]
			coordinates, scores := tensor.Of[float32](c.In[0]), tensor.Of[float32](c.In[1])
			boxes := make([]box, count)
			var selected []int64
			for batch := range batches {
				for i := range boxes {
					boxes[i] = newBox(coordinates[(batch*count+i)*4:], fromCentre)
				}
				for class := range classes {
					for _, i := range suppress(boxes, scores[(batch*classes+class)*count:][:count], limit, maxOverlap, minScore) {
						selected = append(selected, int64(batch), int64(class), int64(i))
					}
				}
			}
			open.shape(0, len(selected)/3, 3)
			copy(tensor.Of[int64](c.Out[0]), selected)
			return nil
		}, nil
	}), nil
}

// suppress returns the boxes, by descending score, that overlap none before
// them by more than maxOverlap: at most limit, and none that scores less than
// minScore.
func suppress(boxes []box, scores []float32, limit int64, maxOverlap, minScore float32) []int {
	var candidates, kept []int
	for i, s := range scores {
		if s >= minScore {
			candidates = append(candidates, i)
		}
	}
	slices.SortStableFunc(candidates, func(a, b int) int { return compareNaNLast(scores[b], scores[a]) })
	for _, i := range candidates {
		if int64(len(kept)) >= limit {
			break
		}
		if !slices.ContainsFunc(kept, func(j int) bool { return boxes[i].overlap(boxes[j]) > maxOverlap }) {
			kept = append(kept, i)
		}
	}
	return kept
}
