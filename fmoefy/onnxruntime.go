package fmoefy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

// A linear layer's weight is out × in in com.microsoft::MoE and QMoE, as in
// FMoE; the layer of gated experts that FMoE has in fc1 and fc3 is one, its rows
// alternating. ONNX Runtime tells weights in × out, as they were before, by
// their shapes; out × in as written here is never taken for it. Its CPU kernel
// refuses fc3.

// microsoftActivations are the activations of plain experts that
// com.microsoft::MoE has, and what it calls them. Its "gelu" is the
// approximation by tanh.
var microsoftActivations = map[moe.Activation]string{
	moe.ReLU: "relu", moe.GELUTanh: "gelu", moe.SiLU: "silu", moe.Identity: "identity",
}

// swigluAlpha has the activations that gated experts may have: the alpha of
// G·σ(alpha·G)·L.
var swigluAlpha = map[moe.Activation]float32{moe.SiLU: 1, moe.QuickGELU: 1.702}

// exporter writes FMoE nodes as com.microsoft::MoE, or as QMoE where experts
// are quantised.
type exporter struct {
	model   *onnx.Model
	options ExportOptions
	names   *onnx.Index
	paired  map[[2]*onnx.Tensor]string    // names of initializers with alternating rows, by the two parts
	plain   map[*onnx.Tensor]*onnx.Tensor // quantised weights in QMoE's layout
}

// lower prepares what takes the place of e.
func (x *exporter) lower(e *exportedNode) error {
	n := e.node
	if err := plainlyRouted(e); err != nil {
		return err
	}
	attributes, err := x.activation(e)
	if err != nil {
		return err
	}
	if e.elementType == onnx.Float64 {
		return fmt.Errorf("com.microsoft::MoE does not compute in %s", e.elementType)
	}
	opType, normalize := "MoE", int64(0)
	if e.config.Normalize {
		normalize = 1
	}
	attributes = append(attributes, onnx.IntAttribute("k", int64(e.config.TopK)), onnx.IntAttribute("normalize_routing_weights", normalize))
	if q := e.config.Quantization; q.Bits != 0 {
		if normalize == 0 {
			return fmt.Errorf("com.microsoft::QMoE has no softmax over all experts: use the target portable or standard")
		}
		opType = "QMoE"
		attributes = append(attributes, onnx.IntAttribute("expert_weight_bits", int64(q.Bits)), onnx.IntAttribute("block_size", int64(q.Block)))
	}
	inputs, err := x.layers(e, opType, attributes)
	if err != nil {
		return err
	}
	mixture := x.add(e, contrib, opType, nil, attributes...)
	e.nodes = e.nodes[:len(e.nodes)-1] // to follow what makes its inputs
	inputs[moe.MicrosoftX], inputs[moe.MicrosoftLogits] = x.router(e)
	for inputs[len(inputs)-1] == "" {
		inputs = inputs[:len(inputs)-1]
	}
	mixture.Inputs = inputs
	e.nodes = append(e.nodes, mixture)
	y := n.Output(moe.OutputY)
	if inputs[moe.MicrosoftX] == n.Input(moe.InputX) {
		mixture.Outputs[0] = y
		return nil
	}
	shape := x.add(e, "", "Shape", []string{n.Input(moe.InputX)})
	reshape := x.add(e, "", "Reshape", []string{mixture.Outputs[0], shape.Outputs[0]})
	reshape.Outputs[0] = y
	return nil
}

// plainlyRouted fails for nodes whose gate does in evaluation what the router
// of com.microsoft::MoE does not: that takes the largest logits and weighs
// them by a softmax.
func plainlyRouted(e *exportedNode) error {
	if err := evaluates(e.node); err != nil {
		return err
	}
	r, err := routingOf(e.config)
	switch {
	case err != nil:
		return err
	case r != routing{scores: moe.ScoresSoftmax, normalize: r.normalize, scaling: 1}:
		return fmt.Errorf("com.microsoft::MoE has no gate %s (%s): use the target portable or standard", e.config.Gate, strings.Join(r.words(), " "))
	case e.node.Input(moe.InputSelectionBias) != "":
		return fmt.Errorf("com.microsoft::MoE has no selection bias: use the target portable or standard")
	case e.node.Input(moe.InputMask) != "":
		return fmt.Errorf("com.microsoft::MoE has no mask of tokens: use the target portable or standard")
	}
	return nil
}

// layers returns the inputs that hold the experts.
func (x *exporter) layers(e *exportedNode, opType string, attributes []*onnx.Attribute) ([]string, error) {
	c, err := moe.ParseMicrosoft(&onnx.Node{OpType: opType, Attributes: attributes})
	if err != nil {
		return nil, err
	}
	inputs := make([]string, 14)
	for i, slot := range []int{moe.InputFC1Weight, moe.InputFC2Weight} {
		second := moe.InputFC3Weight
		if i == 1 || e.node.Input(second) == "" {
			second = slot // rows of one weight
		}
		layer := c.Layers[i]
		if inputs[layer.Weight], err = x.rows(e, slot, second); err != nil {
			return nil, err
		}
		if inputs[layer.Bias], err = x.rows(e, slot+1, second+1); err != nil {
			return nil, err
		}
		if layer.Scales == 0 {
			inputs[layer.Weight] = x.widened(e, inputs[layer.Weight])
			continue
		}
		if inputs[layer.Scales], err = x.rows(e, moe.Scales(slot), moe.Scales(second)); err != nil {
			return nil, err
		}
	}
	return inputs, nil
}

// rows returns the value of an input of FMoE, or where a second one is given,
// of the rows of both in turn.
func (x *exporter) rows(e *exportedNode, slot, second int) (string, error) {
	first, other := e.node.Input(slot), e.node.Input(second)
	isWeight := slot == moe.InputFC1Weight || slot == moe.InputFC2Weight
	quantized := isWeight && e.stored.Bits != 0
	if slot == second && !quantized {
		return first, nil
	}
	var parts [2]*onnx.Tensor
	for i, value := range []string{first, other} {
		if value == "" {
			continue
		}
		t := e.scope.lookup(value).tensor
		if t == nil {
			return "", fmt.Errorf("%q is no initializer, so that its rows cannot be written in another order", value)
		}
		if quantized {
			var err error
			if t, err = x.unpadded(e, slot, t); err != nil {
				return "", err
			}
		}
		parts[i] = t
	}
	if slot == second {
		return x.hold(parts[0]), nil
	}
	return x.pair(parts)
}

// hold makes a tensor an initializer of the model, if it is none yet, and
// returns its name.
func (x *exporter) hold(t *onnx.Tensor) string {
	if !slices.Contains(x.model.Graph.Initializers, t) {
		x.model.Graph.Initializers = append(x.model.Graph.Initializers, t)
	}
	return t.Name
}

// unpadded returns a quantised weight [T, out, in · bits/8], as QMoE has it:
// without what fills up the last block of a row.
func (x *exporter) unpadded(e *exportedNode, slot int, t *onnx.Tensor) (*onnx.Tensor, error) {
	if done := x.plain[t]; done != nil {
		return done, nil
	}
	other := moe.InputFC2Weight
	if slot == other {
		other = moe.InputFC1Weight
	}
	wide := e.scope.lookup(e.node.Input(other)).tensor
	if len(t.Dims) != 4 || wide == nil || len(wide.Dims) != 4 {
		return nil, fmt.Errorf("%s has shape %v, must be [experts, out, blocks, bytes of a block]", moe.InputNames[slot], t.Dims)
	}
	bits := wide.Dims[1] * int64(e.stored.Bits)
	width, padded := bits/8, t.Dims[2]*t.Dims[3]
	if bits%8 != 0 || width > padded {
		return nil, fmt.Errorf("com.microsoft::QMoE cannot hold rows of %d integers of %d bits: use the target portable or standard", wide.Dims[1], e.stored.Bits)
	}
	plain := &onnx.Tensor{Name: x.names.NewName(t.Name + ".packed"), DataType: t.DataType, Dims: []int64{t.Dims[0], t.Dims[1], width}}
	plain.SetSource(&rowBeginnings{t, t.Dims[0] * t.Dims[1], padded, width})
	x.plain[t] = plain
	return plain, nil
}

// rowBeginnings is the source of a tensor that has the first bytes of each of
// another's rows.
type rowBeginnings struct {
	tensor              *onnx.Tensor
	rows, padded, width int64 // in bytes
}

func (s *rowBeginnings) Size() int64 { return s.rows * s.width }

// WriteTo implements [onnx.Source].
func (s *rowBeginnings) WriteTo(w io.Writer) (written int64, err error) {
	source := readerOf(s.tensor)
	defer source.Close()
	buffered, row := bufio.NewReaderSize(source, 1<<16), make([]byte, s.padded)
	for range s.rows {
		if _, err := io.ReadFull(buffered, row); err != nil {
			return written, err
		}
		n, err := w.Write(row[:s.width])
		written += int64(n)
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// widened returns a weight in the type that experts compute in, since MoE has
// no other.
func (x *exporter) widened(e *exportedNode, weight string) string {
	if e.stored.elementType == e.elementType {
		return weight
	}
	return x.add(e, "", "Cast", []string{weight}, onnx.IntAttribute("to", int64(e.elementType))).Outputs[0]
}

// activation returns the attributes that say what lies between an expert's
// projections.
func (x *exporter) activation(e *exportedNode) ([]*onnx.Attribute, error) {
	a := e.config.Activation
	if e.node.Input(moe.InputFC3Weight) != "" {
		alpha, ok := swigluAlpha[a]
		if !ok {
			return nil, fmt.Errorf("com.microsoft::MoE has no gated experts with activation %s, only with silu or quick_gelu: use the target portable or standard", a)
		}
		return []*onnx.Attribute{onnx.StringAttribute("activation_type", "swiglu"), onnx.IntAttribute("swiglu_fusion", 1),
			onnx.FloatAttribute("activation_alpha", alpha), onnx.FloatAttribute("activation_beta", 0)}, nil
	}
	if a == moe.GELU {
		if !x.options.AllowGELUApproximation {
			return nil, fmt.Errorf("com.microsoft::MoE has no GELU by the error function, only its approximation by tanh: accept that with --allow-gelu-approximation, or use the target portable or standard")
		}
		a = moe.GELUTanh
	}
	name, ok := microsoftActivations[a]
	if !ok {
		return nil, fmt.Errorf("com.microsoft::MoE has no experts with activation %s: use the target portable or standard", a)
	}
	return []*onnx.Attribute{onnx.StringAttribute("activation_type", name)}, nil
}

// add appends a node with one output to what takes the place of e.
func (x *exporter) add(e *exportedNode, domain, opType string, inputs []string, attributes ...*onnx.Attribute) *onnx.Node {
	name := e.name()
	n := &onnx.Node{Name: x.names.NewNodeName(name + "." + opType), Domain: domain, OpType: opType, Inputs: inputs,
		Outputs: []string{x.names.NewName(name + "." + opType)}, Attributes: attributes}
	e.nodes = append(e.nodes, n)
	return n
}

// router adds the nodes that score the experts and returns the tokens as
// com.microsoft::MoE takes them, with two or three dimensions, and the logits
// [N, T].
func (x *exporter) router(e *exportedNode) (tokens, logits string) {
	n := e.node
	op := func(opType string, inputs []string, attributes ...*onnx.Attribute) string {
		return x.add(e, "", opType, inputs, attributes...).Outputs[0]
	}
	narrow := e.elementType.Bits() < 32
	wide := func(value string) string {
		if t := e.scope.lookup(value).tensor; !narrow || t != nil && t.DataType == onnx.Float32 {
			return value
		}
		return op("Cast", []string{value}, onnx.IntAttribute("to", int64(onnx.Float32)))
	}
	flat := op("Flatten", []string{n.Input(moe.InputX)}, onnx.IntAttribute("axis", -1))
	logits = op("MatMul", []string{wide(flat), wide(n.Input(moe.InputGateWeight))})
	if bias := n.Input(moe.InputGateBias); bias != "" {
		logits = op("Add", []string{logits, wide(bias)})
	}
	if narrow {
		logits = op("Cast", []string{logits}, onnx.IntAttribute("to", int64(e.elementType)))
	}
	if rank := len(e.scope.shapeOf(n.Input(moe.InputX))); rank == 2 || rank == 3 {
		return n.Input(moe.InputX), logits
	}
	return flat, logits
}

// pair returns the initializer, "" for none, whose rows are those of two
// others in turn. A bias that only one of the layers has is zero in the other.
func (x *exporter) pair(parts [2]*onnx.Tensor) (string, error) {
	shaped := parts[0]
	if shaped == nil {
		shaped = parts[1]
	}
	if shaped == nil {
		return "", nil
	}
	if name, done := x.paired[parts]; done {
		return name, nil
	}
	if len(shaped.Dims) < 2 || parts[1] != nil && (!slices.Equal(shaped.Dims, parts[1].Dims) || shaped.DataType != parts[1].DataType) {
		return "", fmt.Errorf("%q and %q do not fit one another", shaped.Name, parts[1].Name)
	}
	dims := slices.Clone(shaped.Dims)
	p := &pairedRows{parts: parts, rows: dims[0] * dims[1], width: int64(shaped.DataType.Bits() / 8)}
	for _, d := range dims[2:] {
		p.width *= d
	}
	dims[1] *= 2
	t := &onnx.Tensor{Name: x.names.NewName(shaped.Name + ".swiglu"), DataType: shaped.DataType, Dims: dims}
	t.SetSource(p)
	x.model.Graph.Initializers = append(x.model.Graph.Initializers, t)
	x.paired[parts] = t.Name
	return t.Name, nil
}

// pairedRows is the source of a tensor whose rows come from two others in
// turn; rows of one that is absent are zero. Neither is held in memory.
type pairedRows struct {
	parts       [2]*onnx.Tensor
	rows, width int64 // of each part, the width in bytes
}

func (s *pairedRows) Size() int64 { return 2 * s.rows * s.width }

// WriteTo implements [onnx.Source].
func (s *pairedRows) WriteTo(w io.Writer) (written int64, err error) {
	row := make([]byte, s.width)
	var sources [2]io.Reader
	for i, t := range s.parts {
		if t == nil {
			continue
		}
		r := readerOf(t)
		defer r.Close()
		sources[i] = bufio.NewReaderSize(r, 1<<16)
	}
	zeros := make([]byte, s.width)
	for range s.rows {
		for _, source := range sources {
			if source == nil {
				source = bytes.NewReader(zeros)
			}
			if _, err := io.ReadFull(source, row); err != nil {
				return written, err
			}
			n, err := w.Write(row)
			written += int64(n)
			if err != nil {
				return written, err
			}
		}
	}
	return written, nil
}

// readerOf returns a reader of a tensor's elements, which must be closed.
func readerOf(t *onnx.Tensor) io.ReadCloser {
	r, pipe := io.Pipe()
	go func() {
		_, err := t.WriteTo(pipe)
		pipe.CloseWithError(err)
	}()
	return r // closing it ends the writer
}

// finish puts the new nodes in the place of the FMoE nodes and removes the
// initializers that only those used.
func (x *exporter) finish(written []*exportedNode) {
	for _, e := range written {
		at := slices.Index(e.scope.graph.Nodes, e.node)
		e.scope.graph.Nodes = slices.Replace(e.scope.graph.Nodes, at, at+1, e.nodes...)
	}
	prune(x.model, inputsOf(written), map[*onnx.Graph]map[string]bool{})
	if _, ok := x.model.OpsetVersion(contrib); !ok && len(written) > 0 {
		x.model.OpsetImports = append(x.model.OpsetImports, onnx.OpsetImport{Domain: contrib, Version: 1})
	}
}
