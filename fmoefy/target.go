package fmoefy

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

// Target says what mixtures of experts are written as.
type Target string

// The targets.
const (
	Portable    Target = "portable"    // FMoE nodes with a model-local function as their body: moerun and every ONNX runtime
	ONNXRuntime Target = "onnxruntime" // com.microsoft::MoE nodes: ONNX Runtime's own sparse kernels
	Standard    Target = "standard"    // operators of ONNX alone, every expert computing every token
)

// Targets lists every target.
var Targets = []Target{Portable, ONNXRuntime, Standard}

// ExportOptions say how Export writes FMoE nodes.
type ExportOptions struct {
	Target Target // default Portable

	// AllowGELUApproximation lets the target ONNXRuntime compute experts whose
	// activation is the GELU of the error function with its approximation by
	// tanh, the only one that com.microsoft::MoE has: hidden values change by up
	// to 0.0005.
	AllowGELUApproximation bool
}

// Check reports what is wrong with the options, whatever the model.
func (o ExportOptions) Check() error {
	switch {
	case o.Target != "" && !slices.Contains(Targets, o.Target):
		names := make([]string, len(Targets))
		for i, t := range Targets {
			names[i] = string(t)
		}
		return fmt.Errorf("target %q is not known; there are %s", o.Target, strings.Join(names, ", "))
	case o.AllowGELUApproximation && o.Target != ONNXRuntime:
		return fmt.Errorf("allowing an approximation of GELU needs the target onnxruntime")
	}
	return nil
}

// Export rewrites the FMoE nodes of m, in subgraphs too, for a target, and
// returns how many there are. m changes only if everything succeeded; the
// result passes onnx.Check. As after [Rewrite], a model that was read from a
// file must stay open until the result is written.
func Export(m *onnx.Model, o ExportOptions) (int, error) {
	if err := o.Check(); err != nil {
		return 0, err
	}
	if err := onnx.Check(m); err != nil {
		return 0, fmt.Errorf("the model is not valid: %w", err)
	}
	w := m.Clone()
	count, err := export(w, o)
	if err != nil {
		return 0, err
	}
	if count == 0 {
		return 0, fmt.Errorf("the model has no FMoE node")
	}
	if err := onnx.Check(w); err != nil {
		return 0, fmt.Errorf("the exported model is not valid, which is an error in fmoefy: %w", err)
	}
	m.IRVersion, m.OpsetImports, m.Graph, m.Functions = w.IRVersion, w.OpsetImports, w.Graph, w.Functions
	return count, nil
}

// export is Export on a valid model that may change even in failure.
func export(m *onnx.Model, o ExportOptions) (count int, err error) {
	opset, ok := m.OpsetVersion("")
	if !ok || opset < minOpset {
		return 0, errOpset(opset)
	}
	// Nodes inside other functions become visible where they are called.
	if hasCalls(m) {
		if err := inline(m); err != nil {
			return 0, err
		}
	}
	all := scopes(m)
	x := &exporter{model: m, options: o, names: onnx.NewIndex(m.Graph), paired: map[[2]*onnx.Tensor]string{}, plain: map[*onnx.Tensor]*onnx.Tensor{}}
	var written []*exportedNode
	for _, s := range all {
		for _, n := range s.graph.Nodes {
			if n.Domain != moe.Domain || n.OpType != moe.OpType {
				continue
			}
			e, err := readFMoE(s, n)
			if err == nil && o.Target == ONNXRuntime {
				err = x.lower(e)
			}
			if err != nil {
				return 0, fmt.Errorf("%s: %w", nodeName(n), err)
			}
			written = append(written, e)
		}
	}
	switch o.Target {
	case ONNXRuntime:
		x.finish(written)
	default:
		for _, e := range written {
			if err := (functions{m}).give(e.node, e.config, e.elementType, e.stored, opset); err != nil && o.Target == Standard {
				return 0, fmt.Errorf("%s: %w", nodeName(e.node), err)
			}
		}
		if o.Target == Standard {
			if err := m.Inline(func(*onnx.Node) bool { return false }); err != nil {
				return 0, err
			}
			prune(m, inputsOf(written), map[*onnx.Graph]map[string]bool{}) // what is for training only
		}
	}
	if o.Target == ONNXRuntime || o.Target == Standard {
		m.Functions = slices.DeleteFunc(m.Functions, func(f *onnx.Function) bool { return f.Domain == moe.Domain })
		m.OpsetImports = slices.DeleteFunc(m.OpsetImports, func(i onnx.OpsetImport) bool { return i.Domain == moe.Domain })
	}
	return len(written), nil
}

// inputsOf lists the inputs of FMoE nodes.
func inputsOf(nodes []*exportedNode) (values []graphValue) {
	for _, e := range nodes {
		for _, in := range e.node.Inputs {
			values = append(values, graphValue{e.scope.graph, in})
		}
	}
	return values
}

func errOpset(opset int64) error {
	return fmt.Errorf("the model is written in operator set %d, FMoE needs at least %d: convert it with onnx.version_converter first", opset, minOpset)
}

// exportedNode is an FMoE node that is about to be written in another way.
type exportedNode struct {
	scope       *scope
	node        *onnx.Node
	config      moe.Config
	elementType onnx.DataType // in which the experts compute
	stored      storage       // of their weights
	experts     int
	nodes       []*onnx.Node // what takes its place
}

// name returns the node's name, or that of its output where it has none.
func (e *exportedNode) name() string {
	if e.node.Name != "" {
		return e.node.Name
	}
	return e.node.Output(moe.OutputY)
}

// readFMoE reads an FMoE node of a scope. If all that is wrong is a gate that
// is not registered, it returns the node with the error, moe.ErrUnknownGate.
func readFMoE(s *scope, n *onnx.Node) (*exportedNode, error) {
	c, unknown := moe.ParseConfig(n)
	if unknown != nil && !errors.Is(unknown, moe.ErrUnknownGate) {
		return nil, unknown
	}
	weight, err := s.constant(n.Input(moe.InputFC1Weight))
	if err != nil {
		return nil, fmt.Errorf("fc1_weight is no constant: %w", err)
	}
	if len(weight.dims) < 3 || weight.dims[0] < 1 {
		return nil, fmt.Errorf("fc1_weight has shape %v, must be [experts, out, in] or quantised rows", weight.dims)
	}
	e := &exportedNode{scope: s, node: n, config: c, experts: int(weight.dims[0]), stored: storage{weight.elementType(), c.Quantization}}
	if e.elementType, err = e.computes(); err != nil {
		return nil, err
	}
	return e, unknown
}

// computes returns the type in which experts compute: that of the tokens,
// which is the weights' type unless that has fewer bits.
func (e *exportedNode) computes() (onnx.DataType, error) {
	s, n := e.scope, e.node
	w := e.stored.elementType
	if computable(w) && w.Bits() >= 32 {
		return w, nil
	}
	if !computable(w) && e.stored.Bits == 0 {
		return w, fmt.Errorf("fc1_weight has element type %s", w)
	}
	for _, value := range []string{n.Input(moe.InputX), n.Output(moe.OutputY)} {
		if t := s.declared[value]; t != nil && computable(t.ElemType) {
			return t.ElemType, nil
		}
	}
	for _, slot := range []int{moe.InputFC1Bias, moe.InputFC2Bias, moe.InputFC3Bias} {
		if bias, err := s.constant(n.Input(slot)); err == nil && computable(bias.elementType()) {
			return bias.elementType(), nil
		}
	}
	if e.stored.Bits == 0 {
		return w, nil
	}
	return onnx.Float32, nil
}
