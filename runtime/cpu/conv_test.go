package cpu

import (
	"fmt"
	"math"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// windowCase is a convolution or pooling of an image [batch, channels, …].
type windowCase struct {
	image, kernel    []int // kernel without channels
	out, groups      int
	stride, dilation int
	before, after    int
}

var windowCases = []windowCase{
	{image: []int{2, 3, 11}, kernel: []int{3}, out: 4, groups: 1, stride: 1, dilation: 1, before: 1, after: 1},
	{image: []int{1, 4, 9, 10}, kernel: []int{3, 2}, out: 6, groups: 2, stride: 2, dilation: 1, before: 1},
	{image: []int{1, 2, 40, 40}, kernel: []int{3, 3}, out: 140, groups: 1, stride: 1, dilation: 2, before: 2, after: 2}, // several blocks
	{image: []int{2, 6, 8, 7}, kernel: []int{3, 3}, out: 6, groups: 6, stride: 1, dilation: 1, after: 2},
	{image: []int{2, 8, 30}, kernel: []int{1}, out: 5, groups: 1, stride: 1, dilation: 1}, // no windows to gather
	{image: []int{1, 2, 5, 6, 7}, kernel: []int{2, 3, 1}, out: 3, groups: 1, stride: 3, dilation: 2, before: 2, after: 3},
	{image: []int{0, 3, 5}, kernel: []int{2}, out: 2, groups: 1, stride: 1, dilation: 1},
}

func (c windowCase) String() string { return fmt.Sprint(c.image, c.kernel, c.out, c.groups) }

func (c windowCase) attributes() []*onnx.Attribute {
	repeat := func(name string, values ...int) *onnx.Attribute {
		var list []int64
		for _, v := range values {
			for range c.kernel {
				list = append(list, int64(v))
			}
		}
		return onnx.IntsAttribute(name, list...)
	}
	return []*onnx.Attribute{repeat("strides", c.stride), repeat("dilations", c.dilation), repeat("pads", c.before, c.after)}
}

// windows calls f for every position and tap that is in the image, given all
// three as indices of spatial dimensions.
func (c windowCase) windows(f func(position, tap, element []int)) (grid []int) {
	for i, k := range c.kernel {
		grid = append(grid, (c.image[i+2]+c.before+c.after-(k-1)*c.dilation-1)/c.stride+1)
	}
	indices(grid, func(position []int) {
		indices(c.kernel, func(tap []int) {
			element := make([]int, len(tap))
			for i := range tap {
				element[i] = position[i]*c.stride + tap[i]*c.dilation - c.before
				if element[i] < 0 || element[i] >= c.image[i+2] {
					return
				}
			}
			f(position, tap, element)
		})
	})
	return grid
}

func elementNumber(shape, index []int) int {
	n := 0
	for i, at := range index {
		n = n*shape[i] + at
	}
	return n
}

func TestConv(t *testing.T) {
	for _, c := range windowCases {
		t.Run(c.String(), func(t *testing.T) {
			in := c.image[1] / c.groups
			x := random[float32](1, c.image...)
			w := random[float32](2, append([]int{c.out, in}, c.kernel...)...)
			bias := random[float32](3, c.out)
			node := func() *onnx.Node {
				return &onnx.Node{OpType: "Conv", Outputs: []string{"y"}, Attributes: append(c.attributes(), onnx.IntAttribute("group", int64(c.groups)))}
			}
			y := onEveryPool(t, node, 22, x, w, bias)[0]

			want := make([]float64, y.Len())
			images, weights, biases := floats(x), floats(w), floats(bias)
			size, taps, positions := tensor.Count(c.image[2:]), tensor.Count(c.kernel), tensor.Count(y.Shape[2:])
			for i := range want {
				want[i] = biases[i/positions%c.out]
			}
			c.windows(func(position, tap, element []int) {
				p, k, e := elementNumber(y.Shape[2:], position), elementNumber(c.kernel, tap), elementNumber(c.image[2:], element)
				for b := range c.image[0] {
					for m := range c.out {
						for l := range in {
							channel := b*c.image[1] + m/(c.out/c.groups)*in + l
							want[(b*c.out+m)*positions+p] += images[channel*size+e] * weights[(m*in+l)*taps+k]
						}
					}
				}
			})
			wantNear(t, "Conv", y, want, 1e-5)
		})
	}
}

// TestConvTranspose: it is the transpose of Conv as a matrix, so that
// ⟨Conv(x), y⟩ = ⟨x, ConvTranspose(y)⟩.
func TestConvTranspose(t *testing.T) {
	for _, c := range windowCases {
		t.Run(c.String(), func(t *testing.T) {
			x := random[float64](1, c.image...)
			w := random[float64](2, append([]int{c.out, c.image[1] / c.groups}, c.kernel...)...)
			group := onnx.IntAttribute("group", int64(c.groups))
			convolved := compute(t, 2, false, &onnx.Node{OpType: "Conv", Outputs: []string{"y"}, Attributes: append(c.attributes(), group)}, 22, x, w)[0]
			y := random[float64](3, convolved.Shape...)
			var missing []int64 // what the windows leave over at the end
			for i, k := range c.kernel {
				missing = append(missing, int64((c.image[i+2]+c.before+c.after-(k-1)*c.dilation-1)%c.stride))
			}
			node := func() *onnx.Node {
				return &onnx.Node{OpType: "ConvTranspose", Outputs: []string{"y"},
					Attributes: append(c.attributes(), group, onnx.IntsAttribute("output_padding", missing...))}
			}
			back := onEveryPool(t, node, 22, y, w)[0]
			if fmt.Sprint(back.Shape) != fmt.Sprint(x.Shape) {
				t.Fatalf("shape %v, want %v", back.Shape, x.Shape)
			}
			dot := func(a, b *tensor.Tensor) (s float64) {
				y := floats(b)
				for i, v := range floats(a) {
					s += v * y[i]
				}
				return s
			}
			if l, r := dot(convolved, y), dot(x, back); math.Abs(l-r) > 1e-9*max(1, math.Abs(l)) {
				t.Errorf("inner products %v and %v differ", l, r)
			}
		})
	}
}

func TestPool(t *testing.T) {
	for _, c := range windowCases {
		x := random[float32](1, c.image...)
		values := floats(x)
		size := tensor.Count(c.image[2:])
		var kernel []int64
		for _, k := range c.kernel {
			kernel = append(kernel, int64(k))
		}
		run := func(name string, outputs ...string) []*tensor.Tensor {
			node := func() *onnx.Node {
				return &onnx.Node{OpType: name, Outputs: outputs, Attributes: append(c.attributes(), onnx.IntsAttribute("kernel_shape", kernel...))}
			}
			return onEveryPool(t, node, 22, x)
		}
		t.Run(c.String(), func(t *testing.T) {
			largest, average := run("MaxPool", "y", "i"), run("AveragePool", "y")[0]
			shape := average.Shape
			positions := tensor.Count(shape[2:])
			top, total, count := make([]float64, average.Len()), make([]float64, average.Len()), make([]float64, average.Len())
			for i := range top {
				top[i] = math.Inf(-1)
			}
			c.windows(func(position, _, element []int) {
				for channel := range c.image[0] * c.image[1] {
					i := channel*positions + elementNumber(shape[2:], position)
					v := values[channel*size+elementNumber(c.image[2:], element)]
					top[i] = max(top[i], v)
					total[i] += v
					count[i]++
				}
			})
			for i := range total {
				if count[i] > 0 {
					total[i] /= count[i]
				}
			}
			wantNear(t, "AveragePool", average, total, 1e-6)
			for i, v := range floats(largest[0]) {
				if v != top[i] {
					t.Fatalf("MaxPool: element %d is %v, want %v", i, v, top[i])
				}
				if at := tensor.Of[int64](largest[1])[i]; count[i] > 0 && values[at] != v {
					t.Fatalf("MaxPool: index %d is %d, which is not the place of %v", i, at, v)
				}
			}
		})
	}
}
