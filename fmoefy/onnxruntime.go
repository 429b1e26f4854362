package fmoefy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

// The input slots of com.microsoft::MoE, version 1. A linear layer's weight is
// out × in, as in FMoE; the layer of gated experts that FMoE has in fc1 and fc3
// is one, its rows alternating. ONNX Runtime tells weights in × out, as they
// were before, by their shapes; out × in as written here is never taken for it.
const (
	microsoftInput = iota // [N, d] or [batch, sequence, d]
	microsoftRouter
	microsoftFC1Weight // [T, h, d], or [T, 2·h, d] for swiglu
	microsoftFC1Bias
	microsoftFC2Weight // [T, d, h]
	microsoftFC2Bias
	microsoftFC3Weight // [T, h, d]: ONNX Runtime's CPU kernel refuses it
	microsoftFC3Bias
	microsoftInputCount
)

// microsoftActivations are the activations of plain experts that
// com.microsoft::MoE has, and what it calls them. Its "gelu" is the
// approximation by tanh.
var microsoftActivations = map[moe.Activation]string{
	moe.ReLU: "relu", moe.GELUTanh: "gelu", moe.SiLU: "silu", moe.Identity: "identity",
}

// swigluAlpha has the activations that gated experts may have: the alpha of
// G·σ(alpha·G)·L.
var swigluAlpha = map[moe.Activation]float32{moe.SiLU: 1, moe.QuickGELU: 1.702}

// exporter writes FMoE nodes as com.microsoft::MoE.
type exporter struct {
	model   *onnx.Model
	options ExportOptions
	names   *onnx.Index
	paired  map[[2]*onnx.Tensor]string // names of initializers with alternating rows, by the two parts
}

// lower prepares what takes the place of e.
func (x *exporter) lower(e *exportedNode) error {
	n := e.node
	attributes, err := x.activation(e)
	if err != nil {
		return err
	}
	if e.elementType == onnx.Float64 {
		return fmt.Errorf("com.microsoft::MoE does not compute in %s", e.elementType)
	}
	inputs := make([]string, microsoftInputCount)
	inputs[microsoftFC1Weight], inputs[microsoftFC1Bias] = n.Input(moe.InputFC1Weight), n.Input(moe.InputFC1Bias)
	inputs[microsoftFC2Weight], inputs[microsoftFC2Bias] = n.Input(moe.InputFC2Weight), n.Input(moe.InputFC2Bias)
	if n.Input(moe.InputFC3Weight) != "" {
		if inputs[microsoftFC1Weight], err = x.pair(e, n.Input(moe.InputFC1Weight), n.Input(moe.InputFC3Weight)); err != nil {
			return err
		}
		if inputs[microsoftFC1Bias], err = x.pair(e, n.Input(moe.InputFC1Bias), n.Input(moe.InputFC3Bias)); err != nil {
			return err
		}
	}
	normalize := int64(0)
	if e.config.Normalize {
		normalize = 1
	}
	mixture := x.add(e, contrib, "MoE", nil, append(attributes,
		onnx.IntAttribute("k", int64(e.config.TopK)), onnx.IntAttribute("normalize_routing_weights", normalize))...)
	e.nodes = nil
	inputs[microsoftInput], inputs[microsoftRouter] = x.router(e)
	mixture.Inputs = inputs[:microsoftFC3Weight]
	e.nodes = append(e.nodes, mixture)
	y := n.Output(moe.OutputY)
	if inputs[microsoftInput] == n.Input(moe.InputX) {
		mixture.Outputs[0] = y
		return nil
	}
	shape := x.add(e, "", "Shape", []string{n.Input(moe.InputX)})
	reshape := x.add(e, "", "Reshape", []string{mixture.Outputs[0], shape.Outputs[0]})
	reshape.Outputs[0] = y
	return nil
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
	name := e.node.Name
	if name == "" {
		name = e.node.Output(moe.OutputY)
	}
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
func (x *exporter) pair(e *exportedNode, first, second string) (string, error) {
	p := &pairedRows{}
	var shaped *onnx.Tensor // one that is there
	for i, value := range []string{second, first} {
		if value == "" {
			continue
		}
		if shaped = e.scope.lookup(value).tensor; shaped == nil {
			return "", fmt.Errorf("%q is no initializer, so that its rows cannot be put between others", value)
		}
		p.parts[1-i] = shaped
	}
	if shaped == nil {
		return "", nil
	}
	if name, done := x.paired[p.parts]; done {
		return name, nil
	}
	if len(shaped.Dims) < 2 || p.parts[0] != nil && p.parts[1] != nil && !slices.Equal(p.parts[0].Dims, p.parts[1].Dims) {
		return "", fmt.Errorf("%q and %q do not fit one another", first, second)
	}
	dims := slices.Clone(shaped.Dims)
	p.rows, p.width = dims[0]*dims[1], int64(e.elementType.Bits()/8)
	for _, d := range dims[2:] {
		p.width *= d
	}
	dims[1] *= 2
	t := &onnx.Tensor{Name: x.names.NewName(shaped.Name + ".swiglu"), DataType: e.elementType, Dims: dims}
	t.SetSource(p)
	x.model.Graph.Initializers = append(x.model.Graph.Initializers, t)
	x.paired[p.parts] = t.Name
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
		r, pipe := io.Pipe()
		defer r.Close() // ends the writer
		go func() {
			_, err := t.WriteTo(pipe)
			pipe.CloseWithError(err)
		}()
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

// finish puts the new nodes in the place of the FMoE nodes and removes the
// initializers that only those used.
func (x *exporter) finish(written []*exportedNode) {
	var pending []graphValue
	for _, e := range written {
		at := slices.Index(e.scope.graph.Nodes, e.node)
		e.scope.graph.Nodes = slices.Replace(e.scope.graph.Nodes, at, at+1, e.nodes...)
		for _, in := range e.node.Inputs {
			pending = append(pending, graphValue{e.scope.graph, in})
		}
	}
	prune(x.model, pending, map[*onnx.Graph]map[string]bool{})
	if _, ok := x.model.OpsetVersion(contrib); !ok && len(written) > 0 {
		x.model.OpsetImports = append(x.model.OpsetImports, onnx.OpsetImport{Domain: contrib, Version: 1})
	}
}
