package cpu

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	registerAnyType("", "Resize", newResize)
	registerAnyType("", "Upsample", newResize)
	for _, name := range []string{"Resize", "Upsample"} {
		define[float32](name, bindResample[float32])
		define[float64](name, bindResample[float64])
		define[uint8](name, bindResample[uint8])
		define[int8](name, bindResample[int8])
		define[int32](name, bindResample[int32])
	}
}

// newResize copies elements, whatever they are, to the nearest positions, or
// interpolates between numbers along one axis after another.
func newResize(d *Device, n *op.Node, constants []*tensor.Tensor) (device.Kernel, error) {
	if n.String("mode", "nearest") != "nearest" {
		return newWidened(d, n, constants, kernelEntry{make: newElementwise})
	}
	return device.KernelFunc(func(c *device.Call) (func() error, error) {
		r, err := newResizing(n, c)
		if err != nil {
			return nil, err
		}
		positions := make([][]int, len(r.axes))
		for i := range positions {
			positions[i] = r.nearest(i)
		}
		copy, err := d.bindLookup(c, newTableCopy(positions, c.In[0].Shape))
		if err != nil || !r.crops {
			return copy, err
		}
		background := tensor.New(c.Out[0].Type, 1)
		if r.extrapolation != 0 {
			if !background.Type.IsFloat() || background.Type.Bits() < 16 {
				return nil, fmt.Errorf("extrapolation_value with %w", device.UnsupportedType(background.Type))
			}
			tensor.ConvertFloat(background, tensor.FromSlice([]float32{float32(r.extrapolation)}))
		}
		fill, err := d.bindFill(c.Out[0], background)
		if err != nil {
			return nil, err
		}
		return func() error {
			if err := fill(); err != nil {
				return err
			}
			return copy()
		}, nil
	}), nil
}

// resizing maps positions of a Resize's output to coordinates of its input.
type resizing struct {
	node          *op.Node
	axes          []op.ResizedAxis
	in            []int // the input's shape
	transform     string
	crops         bool
	extrapolation float64
}

func newResizing(n *op.Node, c *device.Call) (*resizing, error) {
	axes, err := op.ResizeAxes(n, knownShape(c.In[0]), func(i int) *tensor.Tensor { return at(c.In, i) })
	if err != nil {
		return nil, err
	}
	if axes == nil && c.In[0].Rank() > 0 {
		return nil, errors.New("scales, sizes or roi are not known")
	}
	r := &resizing{node: n, axes: axes, in: c.In[0].Shape, transform: "asymmetric"}
	if n.OpType == "Resize" && n.Since >= 11 {
		r.transform = n.String("coordinate_transformation_mode", "half_pixel")
	}
	r.crops = r.transform == "tf_crop_and_resize"
	r.extrapolation = float64(n.Float("extrapolation_value", 0))
	return r, nil
}

// coordinate returns where along axis i of the input position x of the output
// lies.
func (r *resizing) coordinate(i, x int) float64 {
	a := r.axes[i]
	at, in := float64(x), float64(r.in[i])
	length := in * a.Scale // a fraction where the length comes from a scale
	switch r.transform {
	case "asymmetric":
		return at / a.Scale
	case "align_corners":
		if length == 1 {
			return 0
		}
		return at * (in - 1) / (length - 1)
	case "pytorch_half_pixel":
		if a.Length <= 1 {
			return 0
		}
	case "half_pixel_symmetric":
		return in/2*(1-float64(a.Length)/length) + (at+0.5)/a.Scale - 0.5
	case "tf_half_pixel_for_nn":
		return (at + 0.5) / a.Scale
	case "tf_crop_and_resize":
		if a.Length <= 1 {
			return (a.RoiStart + a.RoiEnd) / 2 * (in - 1)
		}
		return a.RoiStart*(in-1) + at*(a.RoiEnd-a.RoiStart)*(in-1)/(float64(a.Length)-1)
	}
	return (at+0.5)/a.Scale - 0.5
}

// isOutside reports whether a coordinate along axis i gets the extrapolation
// value.
func (r *resizing) isOutside(i int, x float64) bool {
	return r.crops && !(x >= 0 && x <= float64(r.in[i]-1))
}

// nearest returns the input positions next to the output's along axis i.
func (r *resizing) nearest(i int) []int {
	round := func(x float64) float64 { return math.Ceil(x - 0.5) }
	switch r.node.String("nearest_mode", "") {
	case "round_prefer_ceil":
		round = func(x float64) float64 { return math.Floor(x + 0.5) }
	case "floor":
		round = math.Floor
	case "ceil":
		round = math.Ceil
	}
	if r.node.OpType == "Upsample" || r.node.Since < 11 {
		// Those versions leave the rounding open; this is ONNX Runtime's.
		if round = math.Floor; r.axes[i].Scale < 1 {
			round = math.Ceil
		}
	}
	positions := make([]int, int(r.axes[i].Length))
	for j := range positions {
		x := r.coordinate(i, j)
		if r.isOutside(i, x) {
			positions[j] = outside
		} else {
			positions[j] = int(min(max(round(x), 0), float64(r.in[i]-1)))
		}
	}
	return positions
}

// taps are the input positions along an axis that make up one position of the
// output, and their weights. There are none where it is outside.
type taps struct {
	positions []int
	weights   []float64
}

// filter returns the taps for every position of axis i of the output.
func (r *resizing) filter(i int) ([]taps, error) {
	weight, support := func(x float64) float64 { return max(0, 1-math.Abs(x)) }, 1.0
	if r.node.String("mode", "") == "cubic" {
		a := float64(r.node.Float("cubic_coeff_a", -0.75))
		weight, support = func(x float64) float64 { return cubicWeight(x, a) }, 2
	}
	stretch := 1.0
	if r.node.Int("antialias", 0) != 0 {
		if stretch = max(1, 1/r.axes[i].Scale); stretch > 1<<24 {
			return nil, fmt.Errorf("scale %g of axis %d is too small for antialias", r.axes[i].Scale, i)
		}
	}
	exclude := r.node.Int("exclude_outside", 0) != 0
	last := r.in[i] - 1
	list := make([]taps, int(r.axes[i].Length))
	for j := range list {
		x := r.coordinate(i, j)
		if r.isOutside(i, x) {
			continue
		}
		t := &list[j]
		total := 0.0
		for p := math.Ceil(x - support*stretch); p <= x+support*stretch; p++ {
			w := weight((p - x) / stretch)
			within := min(max(p, 0), float64(last))
			if w == 0 || exclude && within != p {
				continue
			}
			total += w
			if n := len(t.positions) - 1; n >= 0 && t.positions[n] == int(within) {
				t.weights[n] += w
			} else {
				t.positions, t.weights = append(t.positions, int(within)), append(t.weights, w)
			}
		}
		for k := range t.weights {
			t.weights[k] /= total
		}
	}
	return list, nil
}

// cubicWeight is the cubic convolution kernel with parameter a (Keys, "Cubic
// Convolution Interpolation for Digital Image Processing", 1981, equation 4).
func cubicWeight(x, a float64) float64 {
	x = math.Abs(x)
	switch {
	case x <= 1:
		return ((a+2)*x-(a+3))*x*x + 1
	case x < 2:
		return ((a*x-5*a)*x+8*a)*x - 4*a
	}
	return 0
}

// cubicSlope is the derivative of cubicWeight.
func cubicSlope(x, a float64) float64 {
	slope, d := 0.0, math.Abs(x)
	switch {
	case d <= 1:
		slope = (3*(a+2)*d - 2*(a+3)) * d
	case d < 2:
		slope = (3*a*d-10*a)*d + 8*a
	}
	if x < 0 {
		return -slope
	}
	return slope
}

// bindResample interpolates along one axis after another. The steps between
// are kept in float64, in two buffers that take turns.
func bindResample[T number](d *Device, n *op.Node, c *device.Call) (func() error, error) {
	r, err := newResizing(n, c)
	if err != nil {
		return nil, err
	}
	var passes []*resamplePass
	shape, size := slices.Clone(c.In[0].Shape), 0
	for i := range shape {
		filter, err := r.filter(i)
		if err != nil {
			return nil, err
		}
		if isIdentity(filter, shape[i]) {
			continue
		}
		p := &resamplePass{filter: filter, extrapolation: r.extrapolation}
		p.outer, p.length, p.inner = splitAt(shape, i)
		shape[i] = len(filter)
		passes = append(passes, p)
		size = max(size, tensor.Count(shape))
	}
	in := func() []T { return tensor.Of[T](c.In[0]) }
	out := func() []T { return tensor.Of[T](c.Out[0]) }
	last := len(passes) - 1
	switch last {
	case -1:
		return d.bindTransfer(c, []loop{{c.In[0].Len(), 1, 1}}, 0, 0)
	case 0:
		return steps(bindPass(d, passes[0], in, out)), nil
	}
	buffer := func(i int) func() []float64 {
		return func() []float64 { return lookUp[float64](c.Scratch)[i%2*size:][:size] }
	}
	reserve[float64](c.Scratch, 2*size)
	list := []func(){bindPass(d, passes[0], in, buffer(0))}
	for i, p := range passes[1:last] {
		list = append(list, bindPass(d, p, buffer(i), buffer(i+1)))
	}
	return steps(append(list, bindPass(d, passes[last], buffer(last-1), out))...), nil
}

// resamplePass interpolates along one axis of a tensor.
type resamplePass struct {
	outer, length, inner int
	filter               []taps
	extrapolation        float64
}

// bindPass returns a function that reads from and writes to what two others
// return.
func bindPass[S, D number](d *Device, p *resamplePass, from func() []S, to func() []D) func() {
	lines, worth := p.outer*len(p.filter), max(1, elementwiseGrain/max(1, p.inner*4))
	body := func(lo, hi int) {
		x, y := from(), to()
		for line := lo; line < hi; line++ {
			t := &p.filter[line%len(p.filter)]
			first := line / len(p.filter) * p.length * p.inner
			out := y[line*p.inner:][:p.inner]
			for j := range out {
				sum := p.extrapolation
				if t.weights != nil {
					sum = 0
				}
				for k, w := range t.weights {
					sum += w * float64(x[first+t.positions[k]*p.inner+j])
				}
				out[j] = fromFloat[D](sum)
			}
		}
	}
	return func() { d.pool.run(lines, worth, body) }
}

// fromFloat rounds towards zero; what is too large becomes the nearest number
// that there is.
func fromFloat[T number](v float64) T {
	switch any(T(0)).(type) {
	case uint8:
		v = min(max(v, 0), math.MaxUint8)
	case int8:
		v = min(max(v, math.MinInt8), math.MaxInt8)
	case int32:
		v = min(max(v, math.MinInt32), math.MaxInt32)
	}
	return T(v)
}

// isIdentity reports whether taps leave an axis of the given length as it is.
func isIdentity(filter []taps, length int) bool {
	for i, t := range filter {
		if len(t.positions) != 1 || t.positions[0] != i || t.weights[0] != 1 {
			return false
		}
	}
	return len(filter) == length
}
