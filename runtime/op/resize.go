package op

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	Register(
		// Resize, ONNX 10 to 19. Version 11 added roi, sizes and most
		// attributes, 18 axes, antialias and keep_aspect_ratio_policy, 19
		// half_pixel_symmetric.
		Operator{Name: "Resize", Since: []int{10, 11, 13, 18, 19}, Inputs: Between(1, 4), Outputs: Exactly(1),
			Attributes: []string{"mode", "coordinate_transformation_mode", "nearest_mode", "cubic_coeff_a", "exclude_outside",
				"extrapolation_value", "antialias", "axes", "keep_aspect_ratio_policy"},
			Parameters: []int{1, 2, 3}, Infer: inferResize, Gradient: resizeGradient},
		// Upsample, ONNX 7 and 9, which Resize replaced in version 10.
		Operator{Name: "Upsample", Since: []int{7, 9}, Inputs: Between(1, 2), Outputs: Exactly(1),
			Attributes: []string{"mode", "scales"}, Parameters: []int{1}, Infer: inferResize, Gradient: resizeGradient},
	)
}

// ResizedAxis is what a Resize or Upsample does to one axis.
type ResizedAxis struct {
	Length Dim     // of the output; negative while it is not known
	Scale  float64 // of the output to the input; 1 for an axis left alone
	// RoiStart and RoiEnd bound the part of the input that
	// tf_crop_and_resize takes, 0 and 1 being the axis's ends.
	RoiStart, RoiEnd float64
}

// resizeForm is what a node asks for, each list with an entry for each of
// axes. scales or sizes is nil.
type resizeForm struct {
	axes   []int
	scales []float32
	sizes  []int64
	roi    []float32 // starts, then ends; nil without tf_crop_and_resize
	policy string
}

// newResizeForm reads a node's parameters. known is false where they are not
// known.
func newResizeForm(n *Node, rank int, value func(input int) *tensor.Tensor) (f resizeForm, known bool, err error) {
	roiInput, scalesInput, sizesInput := 1, 2, 3
	if n.OpType == "Upsample" || n.Since == 10 {
		roiInput, scalesInput, sizesInput = -1, 1, -1
	}
	for _, i := range []int{roiInput, scalesInput, sizesInput} {
		if i > 0 && n.Input(i) != "" && value(i) == nil {
			return f, false, nil
		}
	}
	if f.axes, err = CropPadAxes(n, rank); err != nil {
		return f, true, err
	}
	if a := n.Attribute("scales"); a != nil {
		f.scales = a.Floats
	}
	if n.Input(scalesInput) != "" {
		if f.scales, err = reals(value(scalesInput)); err != nil {
			return f, true, fmt.Errorf("scales: %w", err)
		}
	}
	if sizesInput > 0 && n.Input(sizesInput) != "" {
		if f.sizes, err = value(sizesInput).Ints(); err != nil {
			return f, true, fmt.Errorf("sizes: %w", err)
		}
	}
	if (len(f.scales) > 0) == (len(f.sizes) > 0) && rank > 0 {
		return f, true, errors.New("needs either scales or sizes")
	}
	if given := max(len(f.scales), len(f.sizes)); given != len(f.axes) {
		return f, true, fmt.Errorf("has %d scales or sizes for %d axes", given, len(f.axes))
	}
	if n.String("coordinate_transformation_mode", "") == "tf_crop_and_resize" {
		if n.Input(roiInput) == "" {
			return f, true, errors.New("lacks roi, which tf_crop_and_resize needs")
		}
		if f.roi, err = reals(value(roiInput)); err != nil {
			return f, true, fmt.Errorf("roi: %w", err)
		}
		if len(f.roi) != 2*len(f.axes) {
			return f, true, fmt.Errorf("roi has %d elements for %d axes", len(f.roi), len(f.axes))
		}
	}
	f.policy = n.String("keep_aspect_ratio_policy", "stretch")
	return f, true, nil
}

// reals returns the elements of a float tensor.
func reals(t *tensor.Tensor) ([]float32, error) {
	if !t.Type.IsFloat() || t.Type.Bits() < 16 {
		return nil, fmt.Errorf("elements are of type %s, need to be float32", t.Type)
	}
	wide := tensor.New(onnx.Float32, t.Shape...)
	tensor.ConvertFloat(wide, t)
	return tensor.Of[float32](wide), nil
}

// ResizeAxes returns what a Resize or Upsample node does to each axis of an
// input of the given shape, nil where its parameters are not known. value
// gives the content of an input.
func ResizeAxes(n *Node, shape []Dim, value func(input int) *tensor.Tensor) ([]ResizedAxis, error) {
	f, known, err := newResizeForm(n, len(shape), value)
	if err != nil || !known {
		return nil, err
	}
	all := make([]ResizedAxis, len(shape))
	for i, d := range shape {
		all[i] = ResizedAxis{Length: d, Scale: 1, RoiEnd: 1}
	}
	for i, axis := range f.axes {
		r := &all[axis]
		if f.roi != nil {
			r.RoiStart, r.RoiEnd = float64(f.roi[i]), float64(f.roi[i+len(f.axes)])
		}
		if len(f.sizes) > 0 {
			err = r.toSize(f.sizes[i], shape[axis])
		} else {
			err = r.toScale(f.scales[i], shape[axis], f.roi != nil)
		}
		if err != nil {
			return nil, fmt.Errorf("axis %d of %s: %w", axis, FormatDims(shape), err)
		}
	}
	if f.sizes != nil && f.policy != "stretch" {
		keepAspectRatio(all, f, shape)
	}
	return all, nil
}

func (r *ResizedAxis) toSize(size int64, dim Dim) error {
	if size < 0 || size > 1<<53 || dim == 0 && size > 0 {
		return fmt.Errorf("it cannot be resized to %d", size)
	}
	r.Length = Dim(size)
	if dim > 0 {
		r.Scale = float64(size) / float64(dim)
	}
	return nil
}

// toScale computes lengths in float32, as other runtimes do.
func (r *ResizedAxis) toScale(scale float32, dim Dim, crop bool) error {
	if !(scale > 0) || math.IsInf(float64(scale), 1) {
		return fmt.Errorf("it cannot be scaled by %g", scale)
	}
	r.Scale = float64(scale)
	if !dim.Known() {
		if scale != 1 || crop {
			r.Length = unknownLength
		}
		return nil
	}
	length := float32(dim) * scale
	if crop {
		length = float32(dim) * float32(r.RoiEnd-r.RoiStart) * scale
	}
	if !(length >= 0 && length < 1<<53) || dim == 0 && length > 0 {
		return fmt.Errorf("it cannot be scaled by %g", scale)
	}
	r.Length = Dim(length)
	return nil
}

// keepAspectRatio scales all resized axes alike, so that none is larger, or
// none smaller, than its size.
func keepAspectRatio(all []ResizedAxis, f resizeForm, shape []Dim) {
	scale := math.Inf(1)
	if f.policy == "not_smaller" {
		scale = 0
	}
	for _, axis := range f.axes {
		if !shape[axis].Known() {
			for _, axis := range f.axes {
				all[axis].Length = unknownLength
			}
			return
		}
		if f.policy == "not_larger" {
			scale = min(scale, all[axis].Scale)
		} else {
			scale = max(scale, all[axis].Scale)
		}
	}
	for _, axis := range f.axes {
		all[axis].Scale = scale
		all[axis].Length = Dim(math.Floor(min(scale*float64(shape[axis]), 1<<53) + 0.5))
	}
}

// resizeGradient multiplies with the matrix of each axis that is resized: what
// the node makes of the rows of an identity matrix.
func resizeGradient(b *Backward) {
	x, g := b.Input(0), b.Gradient(0)
	shape, rank := b.Fact(x).Shape, b.Rank(x)
	if b.err != nil {
		return
	}
	axes, err := ResizeAxes(b.Node, shape, func(i int) *tensor.Tensor { return b.Fact(b.Input(i)).Value })
	switch {
	case err != nil:
		b.Fail(err)
		return
	case axes == nil && rank > 0:
		b.Fail(errors.New("the gradient needs constant scales, sizes and roi"))
		return
	}
	whole := make([]int, rank)
	for i := range whole {
		whole[i] = i
	}
	for i, a := range axes {
		if a.Scale == 1 && a.RoiStart == 0 && a.RoiEnd == 1 && a.Length == shape[i] {
			continue
		}
		if !shape[i].Known() {
			b.Fail(fmt.Errorf("the gradient needs the length of axis %d, which is not known before a run", i))
			return
		}
		result := slices.Clone(whole)
		result[i] = rank
		equation, err := writeEquation([][]int{whole, {rank, i}}, result)
		if err != nil {
			b.Fail(err)
			return
		}
		g = b.Add(&onnx.Node{OpType: "Einsum", Attributes: []*onnx.Attribute{onnx.StringAttribute("equation", equation)}}, g, b.resized(a, int64(shape[i])))
	}
	b.Set(0, g)
}

// resized adds the matrix [length, length of the output] by which a node
// resizes an axis.
func (b *Backward) resized(a ResizedAxis, length int64) Value {
	n, x := b.Node, b.Input(0)
	resize := &onnx.Node{OpType: "Resize", Attributes: []*onnx.Attribute{onnx.IntsAttribute("axes", 1)}}
	for _, name := range []string{"coordinate_transformation_mode", "nearest_mode", "cubic_coeff_a", "exclude_outside", "antialias"} {
		if v := n.Attribute(name); v != nil {
			resize.Attributes = append(resize.Attributes, v)
		}
	}
	mode := n.String("mode", "nearest")
	if mode == "bilinear" {
		mode = "linear"
	}
	resize.Attributes = append(resize.Attributes, onnx.StringAttribute("mode", mode))
	if n.OpType == "Upsample" || n.Since < 11 {
		rounding := "floor"
		if a.Scale < 1 {
			rounding = "ceil"
		}
		resize.Attributes = append(resize.Attributes, onnx.StringAttribute("coordinate_transformation_mode", "asymmetric"), onnx.StringAttribute("nearest_mode", rounding))
	}
	scales, sizes, roi := NoValue, NoValue, NoValue
	crop := n.String("coordinate_transformation_mode", "") == "tf_crop_and_resize"
	switch {
	case a.Scale == float64(a.Length)/float64(length):
		sizes = b.Ints(int64(a.Length))
	case !crop && a.Length != Dim(float32(length)*float32(a.Scale)): // the policy rounded it
		b.Fail(fmt.Errorf("keep_aspect_ratio_policy scales axes of length %d by %g; there is a gradient only where that is a whole number", length, a.Scale))
		return NoValue
	default:
		scales = b.Graph.Constant(tensor.FromSlice([]float32{float32(a.Scale)}))
	}
	if crop {
		roi = b.Graph.Constant(tensor.FromSlice([]float32{float32(a.RoiStart), float32(a.RoiEnd)}))
	}
	return b.Add(resize, b.Op("EyeLike", b.filled(0, x, b.Ints(length, length))), roi, scales, sizes)
}

func inferResize(c *Inference) error {
	if err := c.wantResizeForm(); err != nil {
		return err
	}
	shape := c.Shape(0)
	if shape == nil {
		c.Set(0, c.Type(0), nil)
		return nil
	}
	axes, err := ResizeAxes(c.Node, shape, c.Value)
	if err != nil {
		return err
	}
	out := c.Unknown(len(shape))
	for i, a := range axes {
		if a.Length == shape[i] || a.Length.Known() {
			out[i] = a.Length
		}
	}
	c.Set(0, c.Type(0), out)
	return nil
}

// wantResizeForm checks the attributes and inputs of a node against its
// version.
func (c *Inference) wantResizeForm() error {
	n := c.Node
	modes := []string{"nearest", "linear"}
	if n.OpType == "Upsample" {
		if err := c.wantForm(9, 1, "scales"); err != nil {
			return err
		}
		if n.Since < 9 && n.Attribute("scales") == nil || n.Since >= 9 && !c.Has(1) {
			return errors.New("lacks scales")
		}
		if n.String("mode", "") == "bilinear" { // what older exporters write for linear
			return nil
		}
		return n.wantMode("mode", modes...)
	}
	since18, since11 := []string{"antialias", "axes", "keep_aspect_ratio_policy"},
		[]string{"coordinate_transformation_mode", "nearest_mode", "cubic_coeff_a", "exclude_outside", "extrapolation_value"}
	if n.Since < 18 {
		if err := c.unwanted(since18...); err != nil {
			return err
		}
	}
	if n.Since < 11 {
		if len(c.Inputs) != 2 || !c.Has(1) {
			return fmt.Errorf("has %d inputs; version 10 of the operator takes 2", len(c.Inputs))
		}
		if err := c.unwanted(since11...); err != nil {
			return err
		}
		return n.wantMode("mode", modes...)
	}
	if err := c.wantParameters(3); err != nil {
		return err
	}
	transformations := []string{"half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_crop_and_resize"}
	switch {
	case n.Since < 13:
		transformations = append(transformations, "tf_half_pixel_for_nn")
	case n.Since >= 19:
		transformations = append(transformations, "half_pixel_symmetric")
	}
	for attribute, allowed := range map[string][]string{
		"mode":                           append(modes, "cubic"),
		"coordinate_transformation_mode": transformations,
		"nearest_mode":                   {"round_prefer_floor", "round_prefer_ceil", "floor", "ceil"},
		"keep_aspect_ratio_policy":       {"stretch", "not_larger", "not_smaller"},
	} {
		if err := n.wantMode(attribute, allowed...); err != nil {
			return err
		}
	}
	if !c.Has(2) && !c.Has(3) {
		return errors.New("needs either scales or sizes")
	}
	return nil
}
