package op

import (
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

func init() {
	attributes := []string{"axis", "epsilon", "stash_type"}
	Register(
		// LayerNormalization, ONNX 17; ONNX Runtime has it as version 1 for
		// older models.
		Operator{Name: "LayerNormalization", Since: []int{1, 17}, Inputs: Between(2, 3), Outputs: Between(1, 3),
			Attributes: attributes, Infer: inferLayerNormalization, Gradient: layerNormalizationGradient},
		// RMSNormalization, ONNX 23.
		Operator{Name: "RMSNormalization", Since: []int{23}, Inputs: Exactly(2), Outputs: Exactly(1),
			Attributes: attributes, Infer: inferLayerNormalization, Gradient: layerNormalizationGradient},
		// SimplifiedLayerNormalization is ONNX Runtime's name for
		// RMSNormalization; output 1 is the inverse root mean square.
		Operator{Name: "SimplifiedLayerNormalization", Since: []int{1}, Inputs: Exactly(2), Outputs: Between(1, 2),
			Attributes: attributes, Infer: inferLayerNormalization, Gradient: layerNormalizationGradient},
		Operator{Domain: "com.microsoft", Name: "SimplifiedLayerNormalization", Since: []int{1}, Inputs: Exactly(2), Outputs: Between(1, 2),
			Attributes: attributes, Infer: inferLayerNormalization, Gradient: layerNormalizationGradient},
		// SkipLayerNormalization and SkipSimplifiedLayerNormalization of ONNX
		// Runtime normalise the sum of input, skip and an optional bias.
		Operator{Domain: "com.microsoft", Name: "SkipLayerNormalization", Since: []int{1}, Inputs: Between(3, 5), Outputs: Between(1, 4),
			Attributes: []string{"epsilon"}, Infer: inferSkipLayerNormalization, Gradient: skipLayerNormalizationGradient},
		Operator{Domain: "com.microsoft", Name: "SkipSimplifiedLayerNormalization", Since: []int{1}, Inputs: Between(3, 4), Outputs: Between(1, 4),
			Attributes: []string{"epsilon"}, Infer: inferSkipLayerNormalization, Gradient: skipLayerNormalizationGradient},
		// EmbedLayerNormalization of ONNX Runtime: the sum of BERT's
		// embeddings, normalised.
		Operator{Domain: "com.microsoft", Name: "EmbedLayerNormalization", Since: []int{1}, Inputs: Between(1, 9), Outputs: Between(1, 3),
			Attributes: []string{"epsilon", "mask_index_type"}, Infer: inferEmbedLayerNormalization, Gradient: embedLayerNormalizationGradient},

		// What gradients are made of: from the gradient of the outcome, what is
		// normalised and its scale, of the shape of a line and 1 where it is
		// absent, the gradients of what is normalised, of the scale and of a
		// bias. The first one may overwrite what it is computed from.
		Operator{Domain: moe.Domain, Name: "LayerNormalizationGradient", Since: []int{1}, Inputs: Between(2, 3), Outputs: Between(1, 3),
			Attributes: []string{"axis", "epsilon"}, Elementwise: true, Infer: inferNormalizationGradient},
		Operator{Domain: moe.Domain, Name: "RMSNormalizationGradient", Since: []int{1}, Inputs: Between(2, 3), Outputs: Between(1, 2),
			Attributes: []string{"axis", "epsilon"}, Elementwise: true, Infer: inferNormalizationGradient},
	)
}

func inferLayerNormalization(c *Inference) error {
	if _, err := c.typeAmong(floatTypes, 0); err != nil {
		return err
	}
	same := []int{1, 2}
	if c.Node.Is("LayerNormalization") && c.Node.Since >= 17 {
		same = []int{0, 1, 2}
	}
	t, err := c.typeAmong(floatTypes, same...)
	if err != nil {
		return err
	}
	stash := onnx.DataType(c.Node.Int("stash_type", int64(onnx.Float32)))
	if stash != onnx.Float32 && stash != onnx.Float16 && stash != onnx.BFloat16 && stash != onnx.Float64 {
		return fmt.Errorf("stash_type %d is not a floating-point type that is supported", stash)
	}
	shape := c.Shape(0)
	c.Set(0, t, shape)
	if shape == nil {
		c.Set(1, stash, nil)
		c.Set(2, stash, nil)
		return nil
	}
	axis, err := Axis(c.Node.Int("axis", -1), len(shape))
	if err != nil {
		return err
	}
	for i := 1; i <= 2; i++ {
		if err := c.wantBroadcast(i, shape); err != nil {
			return err
		}
	}
	statistics := make([]Dim, len(shape))
	for i := range statistics {
		statistics[i] = 1
		if i < axis {
			statistics[i] = shape[i]
		}
	}
	c.Set(1, stash, statistics)
	c.Set(2, stash, statistics)
	return nil
}

func inferSkipLayerNormalization(c *Inference) error {
	t, err := c.typeAmong(floatTypes, 0, 1, 2, 3, 4)
	if err != nil {
		return err
	}
	shape := c.Shape(0)
	statistics := []Dim(nil)
	if shape != nil {
		if len(shape) != 2 && len(shape) != 3 {
			return fmt.Errorf("input 0 has shape %s, needs rank 2 or 3", FormatDims(shape))
		}
		if err := c.wantBroadcast(1, shape); err != nil {
			return err
		}
		hidden := shape[len(shape)-1]
		for i := 2; i <= 4; i++ {
			if err := c.wantShape(i, hidden); err != nil {
				return err
			}
		}
		statistics = append(append(statistics, shape[:len(shape)-1]...), 1)
	}
	c.Set(0, t, shape)
	c.Set(1, onnx.Float32, statistics)
	c.Set(2, onnx.Float32, statistics)
	c.Set(3, t, shape)
	return nil
}

func inferEmbedLayerNormalization(c *Inference) error {
	if err := c.wantInputs(0, 2, 3, 5, 6); err != nil {
		return err
	}
	ids := []onnx.DataType{onnx.Int32}
	if _, err := c.typeAmong(ids, 0, 1, 7, 8); err != nil {
		return err
	}
	t, err := c.typeAmong(floatTypes, 2, 3, 4, 5, 6)
	if err != nil {
		return err
	}
	if c.Has(1) != c.Has(4) {
		return fmt.Errorf("needs segment_ids and segment_embedding together")
	}
	batch, sequence, hidden := c.Fresh(), c.Fresh(), c.Fresh()
	if s := c.Shape(0); s != nil {
		if err := c.wantRank(0, 2); err != nil {
			return err
		}
		batch, sequence = s[0], s[1]
	}
	for _, i := range []int{2, 3, 4} {
		if err := c.wantRank(i, 2); err != nil {
			return err
		}
		if s := c.Shape(i); s != nil {
			if hidden, err = Unify(hidden, s[1]); err != nil {
				return fmt.Errorf("input %d: %w", i, err)
			}
		}
	}
	for _, i := range []int{5, 6} {
		if err := c.wantShape(i, hidden); err != nil {
			return err
		}
	}
	for _, i := range []int{1, 7} {
		if err := c.wantShape(i, batch, sequence); err != nil {
			return err
		}
	}
	if err := c.wantRank(8, 2); err != nil {
		return err
	}
	if err := c.wantBroadcast(8, []Dim{batch, sequence}); err != nil {
		return err
	}
	c.Set(0, t, []Dim{batch, sequence, hidden})
	c.Set(1, onnx.Int32, []Dim{batch})
	c.Set(2, t, []Dim{batch, sequence, hidden})
	return nil
}

func inferNormalizationGradient(c *Inference) error {
	t, err := c.typeAmong(floatTypes, 0, 1)
	if err != nil {
		return err
	}
	scale, err := c.typeAmong(floatTypes, 2)
	if err != nil {
		return err
	}
	if scale == onnx.Undefined && !c.Has(2) {
		scale = t
	}
	shape := c.Shape(1)
	if shape == nil {
		c.Set(0, t, c.Shape(0))
		c.Set(1, scale, c.Shape(2))
		c.Set(2, scale, c.Shape(2))
		return nil
	}
	axis, err := Axis(c.Node.Int("axis", -1), len(shape))
	if err != nil {
		return err
	}
	if err := c.wantShape(0, shape...); err != nil {
		return err
	}
	if err := c.wantShape(2, shape[axis:]...); err != nil {
		return err
	}
	c.Set(0, t, shape)
	c.Set(1, scale, JoinDims(shape[axis:]))
	c.Set(2, scale, JoinDims(shape[axis:]))
	return nil
}

// layerNormalizationGradient is the gradient of LayerNormalization and, without
// a bias, of RMSNormalization and its other names.
func layerNormalizationGradient(b *Backward) {
	for i := 1; i < 3; i++ {
		if b.Gradient(i) != NoValue {
			b.Fail(fmt.Errorf("mean and deviation have %w; let the loss depend on output 0 alone", ErrNoGradient))
		}
	}
	if g := b.Gradient(0); g != NoValue {
		l := normalizationLines{axis: b.Node.Int("axis", -1), epsilon: b.Node.Float("epsilon", 1e-5), center: b.Node.Is("LayerNormalization")}
		d := b.normalizationGradient(l, g, b.Input(0), b.Input(1), b.Input(2))
		for i := range d {
			b.Set(i, d[i])
		}
	}
}

// normalizationLines says what is normalised.
type normalizationLines struct {
	axis    int64 // where lines begin
	epsilon float32
	center  bool // the mean is subtracted
}

// normalizationGradient returns the gradients of x, scale and bias, which may
// be absent, from that of the outcome.
func (b *Backward) normalizationGradient(l normalizationLines, g, x, scale, bias Value) (d [3]Value) {
	n := &onnx.Node{Domain: moe.Domain, OpType: "RMSNormalizationGradient",
		Attributes: []*onnx.Attribute{onnx.IntAttribute("axis", l.axis), onnx.FloatAttribute("epsilon", l.epsilon)}}
	outputs := 2
	if l.center {
		n.OpType, outputs = "LayerNormalizationGradient", 3
	}
	rank := b.Rank(x)
	axis, err := Axis(l.axis, rank)
	if err != nil {
		b.Fail(err)
		return [3]Value{NoValue, NoValue, NoValue}
	}
	line := b.Fact(x).Shape[axis:]
	if equalShapes(b.Fact(scale).Shape, line) && (bias == NoValue || equalShapes(b.Fact(bias).Shape, line)) && b.Fact(x).Type == b.Fact(scale).Type {
		d[2] = NoValue
		copy(d[:], b.AddMany(n, outputs, g, x, scale))
		return d
	}
	// The gradient of the normalised lines is that of a scale of 1 for each of
	// their elements.
	axes := make([]int64, 0, rank)
	for i := axis; i < rank; i++ {
		axes = append(axes, int64(i))
	}
	scaled := b.Cast(b.Op("Mul", g, b.Cast(scale, g)), x)
	normal := b.Cast(b.normalized(l, x, axes), g)
	d = [3]Value{b.Add(n, scaled, x), b.Cast(b.SumTo(b.Op("Mul", g, normal), scale), scale), NoValue}
	if bias != NoValue {
		d[2] = b.Cast(b.SumTo(g, bias), bias)
	}
	return d
}

// normalized normalises lines along the given axes, without a scale.
func (b *Backward) normalized(l normalizationLines, x Value, axes []int64) Value {
	if l.center {
		x = b.Op("Sub", x, b.Op("ReduceMean", x, b.Ints(axes...)))
	}
	variance := b.Op("ReduceMean", b.square(x), b.Ints(axes...))
	return b.Op("Div", x, b.Op("Sqrt", b.plus(variance, float64(l.epsilon))))
}

// skipLayerNormalizationGradient: the sum of the inputs, output 3, is
// normalised.
func skipLayerNormalizationGradient(b *Backward) {
	for i := 1; i < 3; i++ {
		if b.Gradient(i) != NoValue {
			b.Fail(fmt.Errorf("mean and deviation have %w; let the loss depend on outputs 0 and 3 alone", ErrNoGradient))
		}
	}
	l := normalizationLines{axis: -1, epsilon: b.Node.Float("epsilon", 1e-12), center: b.Node.OpType == "SkipLayerNormalization"}
	beta, bias := 3, 4
	if !l.center {
		beta, bias = -1, 3
	}
	sum := b.Gradient(3)
	if g := b.Gradient(0); g != NoValue {
		shift := NoValue
		if l.center {
			shift = b.Input(beta)
		}
		d := b.normalizationGradient(l, g, b.Output(3), b.Input(2), shift)
		b.Set(2, d[1])
		if l.center {
			b.Set(beta, d[2])
		}
		if sum == NoValue {
			sum = d[0]
		} else {
			sum = b.Op("Add", sum, d[0])
		}
	}
	b.Set(0, sum)
	for _, i := range []int{1, bias} {
		if b.Wants(i) {
			b.Set(i, b.SumTo(sum, b.Input(i)))
		}
	}
}

// embedLayerNormalizationGradient: the sum of rows of tables, output 2, is
// normalised.
func embedLayerNormalizationGradient(b *Backward) {
	sum := b.Gradient(2)
	if g := b.Gradient(0); g != NoValue {
		l := normalizationLines{axis: -1, epsilon: b.Node.Float("epsilon", 1e-12), center: true}
		d := b.normalizationGradient(l, g, b.Output(2), b.Input(5), b.Input(6))
		b.Set(5, d[1])
		b.Set(6, d[2])
		if sum == NoValue {
			sum = d[0]
		} else {
			sum = b.Op("Add", sum, d[0])
		}
	}
	rows := func(table int, ids Value) {
		if b.Wants(table) {
			b.Set(table, b.ungathered(sum, ids, b.Shape(b.Input(table)), 0))
		}
	}
	rows(2, b.Input(0))
	rows(4, b.Input(1))
	if !b.Wants(3) {
		return
	}
	if ids := b.Input(8); ids != NoValue {
		rows(3, b.Op("Expand", ids, b.Shape(b.Input(0))))
		return
	}
	sum = b.ReduceSum(sum, false, 0) // of all rows at the same place in their sequences
	whole := func(vector Value) Value { return b.Op("Squeeze", vector) }
	rows(3, b.Op("Range", whole(b.Ints(0)), whole(b.Length(b.Input(0), 1)), whole(b.Ints(1))))
}
