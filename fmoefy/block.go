package fmoefy

import (
	"fmt"
	"strings"
	"unicode"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

// Kind is the form of an MLP block.
type Kind string

// The kinds. W·x stands for a linear layer, with or without a bias.
const (
	Plain      Kind = "plain"       // W2·act(W1·x)
	Gated      Kind = "gated"       // W2·(act(W1·x) * W3·x)
	GatedFused Kind = "gated-fused" // as Gated, W1 and W3 being halves of one matrix
)

// Block is an MLP that Find recognised in a graph, or something that looks
// like one and cannot be replaced.
type Block struct {
	Index int    // its place in the list
	Name  string // from the names in the file, such as "encoder.layers.0.mlp"; unique, for display and selection only
	Graph string // the graph that it is in: "main", or a path to a subgraph such as "main/If_3.then_branch"

	// Refused says why the block cannot be replaced; it is empty for one that
	// can. The fields below are set as far as they were found out.
	Refused string

	// Doubtful: the block could be replaced, but does not look like a
	// Transformer's MLP. Naming it in Options.Include replaces it.
	Doubtful bool

	Kind            Kind
	Activation      moe.Activation
	DModel, DHidden int64
	ElementType     onnx.DataType // of the experts that replace it

	// Input […, d_model] and Output, of the same shape, are the values between
	// which the block lies; Nodes are what computes one from the other.
	Input, Output string
	Nodes         []*onnx.Node

	// Parameters counts the elements of its weights and biases.
	Parameters int64

	scope         *scope
	fc1, fc2, fc3 *linear             // fc3 is nil in a plain block
	fc2Bias       *constant           // nil where the block has none or leaves it to a later node
	outputType    onnx.DataType       // of Output, where that is not ElementType
	inputType     onnx.DataType       // of Input, likewise
	removed       map[*onnx.Node]bool // Nodes as a set
	weightKey     string              // equal for blocks with the same weights
	counterparts  map[int]*Block      // the same block in the models that become experts, by expert
}

// matrices returns the block's linear layers.
func (b *Block) matrices() []*linear {
	if b.fc3 == nil {
		return []*linear{b.fc1, b.fc2}
	}
	return []*linear{b.fc1, b.fc2, b.fc3}
}

// count returns the number of elements of the block's weights and biases.
func (b *Block) count() int64 {
	n := int64(0)
	for _, l := range b.matrices() {
		n += l.weight.elements()
	}
	for _, bias := range b.biases() {
		if bias != nil {
			n += bias.elements()
		}
	}
	return n
}

// biases returns the biases of the block's matrices in their order, nil where
// there is none.
func (b *Block) biases() []*constant {
	if b.fc3 == nil {
		return []*constant{b.fc1.bias, b.fc2Bias}
	}
	return []*constant{b.fc1.bias, b.fc2Bias, b.fc3.bias}
}

// nodeName says which node is meant: its name, or its operator and output
// where it has none.
func nodeName(n *onnx.Node) string {
	if n.Name != "" {
		return fmt.Sprintf("%s %q", n.OpType, n.Name)
	}
	return fmt.Sprintf("%s (output %q)", n.OpType, n.Output(0))
}

// blockName derives a readable name from what the names of the two
// projections have in common: the modules that the exporter noted, the names
// of their weights, or the paths of their nodes. A name with a layer's number
// in it is preferred.
func blockName(fc1, fc2 *linear) string {
	best := ""
	for _, of := range []func(*linear) []string{moduleNames, weightNames, pathNames, tensorNames} {
		for _, a := range of(fc1) {
			for _, b := range of(fc2) {
				name := commonPath(a, b)
				if better(name, best) {
					best = name
				}
			}
		}
		if hasDigit(best) {
			break
		}
	}
	if best != "" {
		return best
	}
	for _, name := range fc1.names {
		if i := strings.LastIndexByte(name, '.'); i > 0 {
			return name[:i] // the module of the first projection
		}
	}
	return "mlp"
}

func better(name, best string) bool {
	if hasDigit(name) != hasDigit(best) {
		return hasDigit(name)
	}
	return len(name) > len(best)
}

func hasDigit(s string) bool { return strings.ContainsFunc(s, unicode.IsDigit) }

// commonPath returns the parts that two names begin with, joined by dots.
func commonPath(a, b string) string {
	split := func(s string) []string {
		return strings.FieldsFunc(s, func(r rune) bool { return r == '/' || r == '.' })
	}
	x, y := split(a), split(b)
	n := 0
	for n < len(x)-1 && n < len(y)-1 && x[n] == y[n] {
		n++
	}
	return strings.Join(x[:n], ".")
}

// moduleNames returns the innermost modules that PyTorch's exporter notes
// with a node, from its list of the names of all modules around it.
func moduleNames(l *linear) []string {
	for _, p := range l.node.Metadata {
		if p.Key == "pkg.torch.onnx.name_scopes" {
			modules := strings.Split(strings.Trim(p.Value, "[]"), ", ")
			if last := len(modules) - 2; last >= 0 {
				return []string{strings.Trim(modules[last], "'\"") + ".weight"}
			}
		}
	}
	return nil
}

func pathNames(l *linear) []string   { return []string{l.node.Name} }
func weightNames(l *linear) []string { return l.names }

func tensorNames(l *linear) []string {
	if l.weight == nil {
		return nil
	}
	names := []string{l.weight.tensor.Name}
	if l.bias != nil {
		names = append(names, l.bias.tensor.Name)
	}
	return names
}
