package op

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

func init() {
	Register(
		// FMoE, ai.fmoe 1: a mixture of experts; see package moe.
		Operator{Domain: moe.Domain, Name: moe.OpType, Since: []int{moe.Version},
			Inputs: Between(1, moe.InputCount), Outputs: Between(1, moe.OutputCount),
			Attributes: moe.Attributes, Infer: inferFMoE, Gradient: differentiateFMoE},
	)
}

// fmoeLayer is what the inputs of a node tell of its layer.
type fmoeLayer struct {
	config                 moe.Config
	tokens, router         onnx.DataType
	x                      []Dim // […, d], nil where it is not known
	leading                []Dim // … of it
	experts, model, hidden Dim
}

// inferFMoELayer checks the inputs of FMoE.
func inferFMoELayer(c *Inference) (*fmoeLayer, error) {
	config, err := moe.ParseConfig(c.Node.Node)
	if errors.Is(err, moe.ErrUnknownGate) {
		return nil, fmt.Errorf("%w; the program that runs the model must call moe.Register with the gate first, or \"fmoefy regate\" gives the model another one", err)
	}
	if err != nil {
		return nil, err
	}
	if err := fmoeInputs(c, config); err != nil {
		return nil, err
	}
	t, err := fmoeType(c, config.Quantization)
	if err != nil {
		return nil, err
	}

	// The letters of the operator's definition, as far as they are known.
	experts, model, hidden := c.Fresh(), c.Fresh(), c.Fresh()
	part, own := c.Fresh(), &experts // the experts whose weights the node has
	if config.FirstExpert >= 0 {
		own = &part
	}
	x := slices.Clone(c.Shape(moe.InputX))
	if x != nil {
		if len(x) == 0 {
			return nil, fmt.Errorf("input X is a scalar, needs a last dimension of d_model")
		}
		model = x[len(x)-1]
	}
	inputs := []fmoeInput{
		{moe.InputGateWeight, []*Dim{&model, &experts}},
		{moe.InputGateBias, []*Dim{&experts}},
		{moe.InputNoiseWeight, []*Dim{&model, &experts}},
		{moe.InputSelectionBias, []*Dim{&experts}},
		{moe.InputStep, []*Dim{}},
	}
	for _, l := range []struct {
		weight  int
		out, in *Dim
	}{{moe.InputFC1Weight, &hidden, &model}, {moe.InputFC2Weight, &model, &hidden}, {moe.InputFC3Weight, &hidden, &model}} {
		if config.Quantization.Bits == 0 {
			inputs = append(inputs, fmoeInput{l.weight, []*Dim{own, l.out, l.in}})
		}
		inputs = append(inputs, fmoeInput{l.weight + 1, []*Dim{own, l.out}})
	}
	for _, in := range inputs {
		if err := c.unifyInput(in.slot, in.shape); err != nil {
			return nil, err
		}
	}
	if err := c.unifyQuantized(config.Quantization, own, &hidden, &model); err != nil {
		return nil, err
	}
	if experts.Known() {
		if err := config.Check(int(experts)); err != nil {
			return nil, err
		}
		if own.Known() && int(*own) > int(experts)-max(config.FirstExpert, 0) {
			return nil, fmt.Errorf("has the weights of %d experts from %s %d on, but there are %d", *own, moe.AttributeFirstExpert, config.FirstExpert, experts)
		}
	}
	if model == 0 {
		return nil, fmt.Errorf("d_model is 0, the tokens have no elements")
	}
	var leading []Dim // of tokens
	if x != nil {
		x[len(x)-1] = model
		leading = x[:len(x)-1]
	}
	if err := c.fmoeMask(leading); err != nil {
		return nil, err
	}
	router := t
	if t.Bits() == 16 {
		router = onnx.Float32
	}
	return &fmoeLayer{config: config, tokens: t, router: router, x: x, leading: leading, experts: experts, model: model, hidden: hidden}, nil
}

func inferFMoE(c *Inference) error {
	l, err := inferFMoELayer(c)
	if err != nil {
		return err
	}
	if c.Node.Output(moe.OutputFactor) != "" && !c.Has(moe.InputFC3Weight) {
		return fmt.Errorf("has the output factor, but no fc3_weight that gives it")
	}
	c.Set(moe.OutputY, l.tokens, l.x)
	c.Set(moe.OutputExpertCount, onnx.Int64, []Dim{l.experts})
	c.Set(moe.OutputAuxLoss, l.router, Dims[int]())
	c.Set(moe.OutputZLoss, l.router, Dims[int]())
	slots := Dim(l.config.TopK)
	if gate, _ := moe.KindOf(l.config.Gate); gate.ExpertChoice {
		slots = l.experts
	}
	of := func(n Dim) []Dim {
		if l.x == nil {
			return nil
		}
		return JoinDims(l.leading, []Dim{n})
	}
	c.Set(moe.OutputExpertIndices, onnx.Int64, of(slots))
	c.Set(moe.OutputExpertScores, l.router, of(slots))
	c.Set(moe.OutputRouterLogits, l.router, of(l.experts))
	rows := []Dim{l.rows(c), l.hidden}
	c.Set(moe.OutputHidden, l.tokens, rows)
	c.Set(moe.OutputFactor, l.tokens, rows)
	return nil
}

// rows returns the rows of experts that a node keeps for its gradient. How
// many a worker's node has to keep is known to its kernel alone, which does so.
func (l *fmoeLayer) rows(c *Inference) Dim {
	if l.config.FirstExpert >= 0 {
		return 0
	}
	tokens := Dim(1)
	for _, d := range l.leading {
		tokens = c.Mul(tokens, d)
	}
	if l.x == nil || !tokens.Known() || !l.experts.Known() {
		return c.Fresh()
	}
	if c.Mul(tokens, c.Mul(l.experts, Dim(l.config.Tile+1))) == math.MaxInt {
		return math.MaxInt // for which there is no memory
	}
	return Dim(l.config.Rows(int(tokens), int(l.experts)))
}

// fmoeMask checks that the mask has an element for each token.
func (c *Inference) fmoeMask(leading []Dim) error {
	mask := c.Shape(moe.InputMask)
	have, known := elements(mask)
	tokens, also := elements(leading)
	if known && also && have != tokens {
		return fmt.Errorf("input mask has shape %s for tokens %s; it must have an element for each token", FormatDims(mask), FormatDims(leading))
	}
	return nil
}

// fmoeInput is the shape that an input must have.
type fmoeInput struct {
	slot  int
	shape []*Dim
}

// unifyQuantized checks the shapes of quantised weights and their scales.
// They say how wide the experts are, but not the inputs of their layers.
func (c *Inference) unifyQuantized(q moe.Quantization, experts, hidden, model *Dim) error {
	if q.Bits == 0 {
		return nil
	}
	bytes := Dim(q.BlockBytes())
	blocks := func(width Dim) Dim {
		if !width.Known() {
			return c.Fresh()
		}
		return Dim(q.Blocks(int(width)))
	}
	for _, slot := range []int{moe.InputFC1Weight, moe.InputFC3Weight, moe.InputFC2Weight} {
		out, in := hidden, model
		if slot == moe.InputFC2Weight {
			out, in = model, hidden
		}
		n := blocks(*in)
		if err := c.unifyInput(slot, []*Dim{experts, out, &n, &bytes}); err != nil {
			return err
		}
		if err := c.unifyInput(moe.Scales(slot), []*Dim{experts, out, &n}); err != nil {
			return err
		}
	}
	return nil
}

// fmoeInputs checks which of the optional inputs are there.
func fmoeInputs(c *Inference, config moe.Config) error {
	q := config.Quantization
	for _, slot := range []int{moe.InputGateWeight, moe.InputFC1Weight, moe.InputFC2Weight} {
		if !c.Has(slot) {
			return fmt.Errorf("lacks its input %d, %s", slot, moe.InputNames[slot])
		}
	}
	if c.Has(moe.InputFC3Bias) && !c.Has(moe.InputFC3Weight) {
		return fmt.Errorf("has fc3_bias without fc3_weight")
	}
	gate, err := moe.KindOf(config.Gate)
	switch {
	case err != nil:
		return err
	case c.Has(moe.InputNoiseWeight) && !gate.Noisy:
		return fmt.Errorf("has noise_weight, which the gate %s does not take", config.Gate)
	case c.Has(moe.InputSelectionBias) && !gate.SelectionBias:
		return fmt.Errorf("has selection_bias, which the gate %s does not take", config.Gate)
	case gate.Noisy && c.Has(moe.InputStep) && !c.Has(moe.InputNoiseWeight):
		return fmt.Errorf("lacks noise_weight, which the gate %s takes in training", config.Gate)
	}
	for _, in := range []struct {
		slot int
		want onnx.DataType
	}{{moe.InputMask, onnx.Bool}, {moe.InputStep, onnx.Int64}} {
		if got := c.Type(in.slot); got != onnx.Undefined && got != in.want {
			return fmt.Errorf("input %s has type %s, must be %s", moe.InputNames[in.slot], got, in.want)
		}
	}
	for _, slot := range fmoeWeights {
		scales := moe.Scales(slot)
		switch {
		case q.Bits == 0 && c.Has(scales):
			return fmt.Errorf("has %s, but no attribute expert_bits that says how %s is quantised", moe.InputNames[scales], moe.InputNames[slot])
		case q.Bits != 0 && c.Has(slot) != c.Has(scales):
			return fmt.Errorf("quantised experts need both %s and %s", moe.InputNames[slot], moe.InputNames[scales])
		}
	}
	return nil
}

// fmoeWeights are the slots of experts' weights.
var fmoeWeights = []int{moe.InputFC1Weight, moe.InputFC2Weight, moe.InputFC3Weight}

// fmoeType returns the type of tokens and experts. The router has it too, or
// is float32 where they are narrower; the experts' weights have it or one of
// fewer bits.
func fmoeType(c *Inference, q moe.Quantization) (onnx.DataType, error) {
	t, err := c.sameType(moe.InputX, moe.InputFC1Bias, moe.InputFC2Bias, moe.InputFC3Bias)
	switch {
	case err != nil:
		return t, err
	case t != onnx.Undefined && (!t.IsFloat() || t.Bits() < 16):
		return t, fmt.Errorf("cannot compute experts of type %s", t)
	}
	if err := fmoeWeightTypes(c, q, t); err != nil {
		return t, err
	}
	router, err := c.sameType(moe.InputGateWeight, moe.InputGateBias, moe.InputNoiseWeight, moe.InputSelectionBias)
	if err != nil {
		return t, err
	}
	if t == onnx.Undefined || router == onnx.Undefined || router == t || router == onnx.Float32 && t.Bits() == 16 {
		return t, nil
	}
	return t, fmt.Errorf("its router has type %s, its experts %s; it must be the same type, or float32 for experts of float16 or bfloat16", router, t)
}

// fmoeWeightTypes checks the types of the experts' weights, where tokens have
// type t.
func fmoeWeightTypes(c *Inference, q moe.Quantization, t onnx.DataType) error {
	w, err := c.sameType(fmoeWeights...)
	if err != nil {
		return err
	}
	half := w == onnx.Float16 || w == onnx.BFloat16
	switch {
	case w == onnx.Undefined:
	case q.Bits != 0 && w != onnx.Uint8:
		return fmt.Errorf("its experts' weights have type %s; with the attribute expert_bits they must be uint8", w)
	case q.Bits != 0 && t == onnx.Float64:
		return fmt.Errorf("tokens have type %s; those of quantised experts must be float32, float16 or bfloat16", t)
	case q.Bits == 0 && w == onnx.Uint8:
		return fmt.Errorf("its experts' weights have type uint8, and no attribute expert_bits says how they are quantised")
	case q.Bits == 0 && w != t && t != onnx.Undefined && (!half || t == onnx.Float64):
		return fmt.Errorf("its experts' weights have type %s, its tokens %s; they must be the same type, or the weights float16 or bfloat16", w, t)
	}
	for _, slot := range fmoeWeights {
		scales := moe.Scales(slot)
		if got := c.Type(scales); got != onnx.Undefined && got != onnx.Float32 {
			return fmt.Errorf("input %s has type %s, must be float32", moe.InputNames[scales], got)
		}
	}
	return nil
}

// unifyInput checks the shape of an input against dimensions, and sets those
// that were not known yet.
func (c *Inference) unifyInput(slot int, want []*Dim) error {
	shape := c.Shape(slot)
	if shape == nil {
		return nil
	}
	expected, matches := make([]Dim, len(want)), len(shape) == len(want)
	for i, d := range want {
		expected[i] = *d
	}
	for i := 0; matches && i < len(want); i++ {
		_, err := Unify(expected[i], shape[i])
		matches = err == nil
	}
	if !matches {
		return fmt.Errorf("input %s has shape %s, needs %s", moe.InputNames[slot], FormatDims(shape), FormatDims(expected))
	}
	for i, d := range want {
		*d, _ = Unify(*d, shape[i])
	}
	return nil
}
