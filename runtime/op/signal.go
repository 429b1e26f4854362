package op

import (
	"errors"
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
)

func init() {
	window := []string{"output_datatype", "periodic"}
	Register(
		// HannWindow, HammingWindow and BlackmanWindow, ONNX 17.
		Operator{Name: "HannWindow", Since: []int{17}, Inputs: Exactly(1), Outputs: Exactly(1), Attributes: window,
			Parameters: []int{0}, Infer: inferWindow},
		Operator{Name: "HammingWindow", Since: []int{17}, Inputs: Exactly(1), Outputs: Exactly(1), Attributes: window,
			Parameters: []int{0}, Infer: inferWindow},
		Operator{Name: "BlackmanWindow", Since: []int{17}, Inputs: Exactly(1), Outputs: Exactly(1), Attributes: window,
			Parameters: []int{0}, Infer: inferWindow},
		// DFT, ONNX 17 and 20, where the axis becomes an input: signal [… 1 or
		// 2], dft_length?, axis?.
		Operator{Name: "DFT", Since: []int{17, 20}, Inputs: Between(1, 3), Outputs: Exactly(1),
			Attributes: []string{"axis", "inverse", "onesided"}, Parameters: []int{1, 2}, Infer: inferDFT, Gradient: dftGradient},
		// STFT, ONNX 17: signal [batch, length, 1 or 2], frame_step, window?,
		// frame_length?.
		Operator{Name: "STFT", Since: []int{17}, Inputs: Between(2, 4), Outputs: Exactly(1),
			Attributes: []string{"onesided"}, Parameters: []int{1, 3}, Infer: inferSTFT, Gradient: stftGradient},
		// MelWeightMatrix, ONNX 17: num_mel_bins, dft_length, sample_rate,
		// lower_edge_hertz, upper_edge_hertz.
		Operator{Name: "MelWeightMatrix", Since: []int{17}, Inputs: Exactly(5), Outputs: Exactly(1),
			Attributes: []string{"output_datatype"}, Parameters: []int{0, 1, 2}, Infer: inferMelWeightMatrix},
	)
}

// outputFloat returns the floating-point type that output_datatype names.
func (n *Node) outputFloat() (onnx.DataType, error) {
	t := onnx.DataType(n.Int("output_datatype", int64(onnx.Float32)))
	for _, f := range floatTypes {
		if t == f {
			return t, nil
		}
	}
	return t, fmt.Errorf("output_datatype %s is not supported; it can be one of %v", t, floatTypes)
}

// sizeFrom returns the only element of an input as a dimension, a fresh one
// where it is not known.
func (c *Inference) sizeFrom(input int, least int64) (Dim, error) {
	if err := c.wantIndices(input); err != nil {
		return 0, err
	}
	v, known, err := integer(c.Ints, input)
	switch {
	case err != nil:
		return 0, err
	case !known:
		return c.Fresh(), nil
	case v < least || v > 1<<40:
		return 0, fmt.Errorf("input %d is %d, needs at least %d", input, v, least)
	}
	return Dim(v), nil
}

func inferWindow(c *Inference) error {
	t, err := c.Node.outputFloat()
	if err != nil {
		return err
	}
	size, err := c.sizeFrom(0, 0)
	if err != nil {
		return err
	}
	c.Set(0, t, []Dim{size})
	return nil
}

// DFTShape says how a DFT node transforms.
type DFTShape struct {
	Axis   int
	Length Dim // of the transform
	Bins   Dim // of the output
	// Real signals have one number for an element: the input of a transform,
	// or the output of an inverse one.
	RealInput, RealOutput bool
}

// DFTDims returns how a DFT node transforms a signal whose rank is known.
func DFTDims(c *Inference) (*DFTShape, error) {
	n, shape := c.Node, c.Shape(0)
	rank := len(shape)
	if rank < 2 {
		return nil, fmt.Errorf("input 0 has shape %s, needs a signal and its parts", FormatDims(shape))
	}
	parts := shape[rank-1]
	if parts.Known() && parts != 1 && parts != 2 {
		return nil, fmt.Errorf("input 0 has shape %s, needs 1 or 2 as its last dimension", FormatDims(shape))
	}
	axis := n.Int("axis", 1)
	if n.Since >= 20 {
		axis = -2
		v, known, err := integer(c.Ints, 2)
		switch {
		case err != nil:
			return nil, err
		case known:
			axis = v
		case c.Has(2):
			return nil, nil // not known yet
		}
	}
	s := &DFTShape{RealInput: parts == 1}
	var err error
	if s.Axis, err = Axis(axis, rank); err != nil {
		return nil, err
	}
	if s.Axis == rank-1 {
		return nil, fmt.Errorf("axis %d has the parts of complex numbers", axis)
	}
	inverse, half := n.Int("inverse", 0) != 0, n.Int("onesided", 0) != 0
	s.RealOutput = inverse && half
	signal := shape[s.Axis]
	switch {
	case c.Has(1):
		if s.Length, err = c.sizeFrom(1, 0); err != nil {
			return nil, err
		}
	case s.RealOutput && signal.Known():
		s.Length = max(0, 2*(signal-1))
	case s.RealOutput:
		s.Length = c.Fresh()
	default:
		s.Length = signal
	}
	switch s.Bins = s.Length; {
	case half && !inverse && s.Length.Known():
		s.Bins = s.Length/2 + 1
	case half && !inverse:
		s.Bins = c.Fresh()
	}
	return s, nil
}

// dftGradient: the transform is a matrix of exponentials, whose conjugate
// transpose is the transform in the other direction, but for a factor.
func dftGradient(b *Backward) {
	n, x, g := b.Node, b.Input(0), b.Gradient(0)
	rank, inverse, half := int64(b.Rank(x)), n.Int("inverse", 0), n.Int("onesided", 0) != 0
	axis := n.Int("axis", 1)
	if n.Since >= 20 {
		axis = -2
		if given, known := b.constantInts(2); known && len(given) == 1 {
			axis = given[0]
		} else if b.Input(2) != NoValue {
			b.Fail(errors.New("the gradient needs a constant axis"))
		}
	}
	if axis < 0 {
		axis += rank
	}
	length := b.Length(x, axis)
	if given := b.Input(1); given != NoValue {
		length = b.Op("Reshape", given, b.Ints(1))
	} else if half && inverse != 0 {
		length = b.Op("Mul", b.Op("Sub", length, b.Ints(1)), b.Ints(2))
	}
	// fit cuts an axis or adds zeros to it.
	fit := func(v, length Value) Value {
		grow := b.Op("Sub", length, b.Length(v, axis))
		return b.Op("Pad", v, b.joined(b.Ints(0), grow), NoValue, b.Ints(axis))
	}
	back := &onnx.Node{OpType: "DFT", Attributes: []*onnx.Attribute{onnx.IntAttribute("inverse", 1-inverse)}}
	factor := b.Cast(length, x)
	switch {
	case half && inverse != 0:
		back.Attributes = append(back.Attributes, onnx.IntAttribute("onesided", 1))
		factor = b.Op("Div", b.bothSides(length, rank-1-axis, x), factor)
	case inverse != 0:
		factor = b.Op("Reciprocal", factor)
	case half:
		g = fit(g, length)
	}
	g = fit(b.Op("Mul", b.Add(back, g, NoValue, b.integer(axis)), factor), b.Length(x, axis))
	if shape := b.Fact(x).Shape; rank > 0 && shape[rank-1] == 1 { // the real part
		g = b.Op("Slice", g, b.Ints(0), b.Ints(1), b.Ints(-1))
	}
	b.Set(0, g)
}

// stftGradient transforms the gradient of each frame back, and adds frames up
// where they overlap.
func stftGradient(b *Backward) {
	signal, window, g := b.Input(0), b.Input(2), b.Gradient(0)
	frame := b.Length(signal, 1)
	switch given := b.Input(3); {
	case given != NoValue:
		frame = b.Op("Reshape", given, b.Ints(1))
	case window != NoValue:
		frame = b.Length(window, 0)
	}
	if b.Node.Int("onesided", 1) != 0 {
		grow := b.Op("Sub", frame, b.Length(g, 2))
		g = b.Op("Pad", g, b.joined(b.Ints(0), grow), NoValue, b.Ints(2))
	}
	back := &onnx.Node{OpType: "DFT", Attributes: []*onnx.Attribute{onnx.IntAttribute("inverse", 1)}}
	g = b.Op("Mul", b.Add(back, g, NoValue, b.integer(2)), b.Cast(frame, signal))
	shape := b.Fact(signal).Shape
	switch rank := b.Rank(signal); {
	case rank == 2:
		signal = b.Op("Unsqueeze", signal, b.Ints(2))
		fallthrough
	case rank == 3 && shape[2] == 1: // the real part
		g = b.Op("Slice", g, b.Ints(0), b.Ints(1), b.Ints(-1))
	}
	// Element n of frame f is element f·step + n of the signal.
	count := func(length Value) Value { return b.Op("Range", b.integer(0), b.Op("Squeeze", length), b.integer(1)) }
	starts := b.Op("Mul", count(b.Length(g, 1)), b.Op("Reshape", b.Input(1), b.Ints(1)))
	positions := b.Op("Add", b.Op("Unsqueeze", starts, b.Ints(1)), count(frame))
	if window != NoValue {
		if b.Wants(2) {
			frames := b.Add(&onnx.Node{OpType: "Gather", Attributes: []*onnx.Attribute{onnx.IntAttribute("axis", 1)}}, signal, positions)
			b.Set(2, b.ReduceSum(b.Op("Mul", g, frames), false, 0, 1, 3))
		}
		g = b.Op("Mul", g, b.Op("Unsqueeze", window, b.Ints(1)))
	}
	b.Set(0, b.Reshape(b.ungathered(g, positions, b.Shape(signal), 1), b.Input(0)))
}

// bothSides adds how often each bin of a onesided transform of the given length
// occurs in the whole one, 1 or 2, along an axis before a number of others.
func (b *Backward) bothSides(length Value, behind int64, like Value) Value {
	n := b.Op("Squeeze", length)
	bins := b.Op("Add", b.Op("Div", n, b.integer(2)), b.integer(1))
	twice := b.Op("Mul", b.Op("Range", b.integer(0), bins, b.integer(1)), b.integer(2))
	times := b.Op("Where", b.Op("Equal", b.Op("Mod", twice, n), b.integer(0)), b.Scalar(1, like), b.Scalar(2, like))
	shape := []int64{-1}
	for range behind {
		shape = append(shape, 1)
	}
	return b.Op("Reshape", times, b.Ints(shape...))
}

func inferDFT(c *Inference) error {
	t, err := c.typeAmong(floatTypes, 0)
	if err != nil {
		return err
	}
	if err := c.wantIndices(1, 2); err != nil {
		return err
	}
	if err := c.wantForm(20, 2, "axis"); err != nil {
		return err
	}
	shape := c.Shape(0)
	if shape == nil {
		c.Set(0, t, nil)
		return nil
	}
	s, err := DFTDims(c)
	if err != nil {
		return err
	}
	if s == nil {
		c.Set(0, t, c.Unknown(len(shape)))
		return nil
	}
	out := replaced(shape, s.Axis, s.Bins)
	out[len(out)-1] = 2
	if s.RealOutput {
		out[len(out)-1] = 1
	}
	c.Set(0, t, out)
	return nil
}

// STFTShape has the dimensions of an STFT.
type STFTShape struct {
	Batch, Length, Parts Dim // of the signal
	Step, Frame          Dim
	Frames, Bins         Dim
}

// STFTDims returns the dimensions of an STFT node, as far as they are known.
func STFTDims(c *Inference) (*STFTShape, error) {
	s := &STFTShape{Batch: c.Fresh(), Length: c.Fresh(), Parts: c.Fresh(), Frame: c.Fresh(), Frames: c.Fresh(), Bins: c.Fresh()}
	signal := c.Shape(0)
	if len(signal) == 2 { // as some exporters write real signals
		signal = []Dim{signal[0], signal[1], 1}
	}
	if err := unifyAll("signal", signal, &s.Batch, &s.Length, &s.Parts); err != nil {
		return nil, err
	}
	if s.Parts.Known() && s.Parts != 1 && s.Parts != 2 {
		return nil, fmt.Errorf("signal has shape %s, needs 1 or 2 as its last dimension", FormatDims(signal))
	}
	var err error
	if s.Step, err = c.sizeFrom(1, 1); err != nil {
		return nil, err
	}
	switch {
	case c.Has(3):
		if s.Frame, err = c.sizeFrom(3, 1); err != nil {
			return nil, err
		}
	case !c.Has(2):
		s.Frame = s.Length
	}
	if err := unifyAll("window", c.Shape(2), &s.Frame); err != nil {
		return nil, err
	}
	half := c.Node.Int("onesided", 1) != 0
	switch {
	case s.Frame == 0:
		return nil, fmt.Errorf("frames have no elements")
	case half && s.Parts == 2:
		return nil, fmt.Errorf("onesided needs a real signal; it is of complex numbers")
	case half && s.Frame.Known():
		s.Bins = s.Frame/2 + 1
	case !half:
		s.Bins = s.Frame
	}
	if s.Length.Known() && s.Frame.Known() && s.Step.Known() {
		if s.Frame > s.Length {
			return nil, fmt.Errorf("frames of %d elements do not fit a signal of %d", s.Frame, s.Length)
		}
		s.Frames = (s.Length-s.Frame)/s.Step + 1
	}
	return s, nil
}

func inferSTFT(c *Inference) error {
	t, err := c.typeAmong(floatTypes, 0, 2)
	if err != nil {
		return err
	}
	s, err := STFTDims(c)
	if err != nil {
		return err
	}
	c.Set(0, t, []Dim{s.Batch, s.Frames, s.Bins, 2})
	return nil
}

func inferMelWeightMatrix(c *Inference) error {
	t, err := c.Node.outputFloat()
	if err != nil {
		return err
	}
	if _, err := c.typeAmong(floatTypes, 3, 4); err != nil {
		return err
	}
	var sizes [3]Dim
	for i := range sizes {
		if sizes[i], err = c.sizeFrom(i, 1); err != nil {
			return err
		}
	}
	if err := c.wantScales(1, 3, 4); err != nil {
		return err
	}
	bins := c.Fresh()
	if sizes[1].Known() {
		bins = sizes[1]/2 + 1
	}
	c.Set(0, t, []Dim{bins, sizes[0]})
	return nil
}
