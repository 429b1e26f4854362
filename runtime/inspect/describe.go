// Package inspect finds out about a model without running it.
package inspect

import (
	"cmp"
	"maps"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

// Description says what a model is made of.
type Description struct {
	IRVersion  int64            `json:"ir_version"`
	Producer   string           `json:"producer"`
	Opsets     map[string]int64 `json:"opsets"` // by domain; ONNX's own is "ai.onnx"
	Inputs     []Value          `json:"inputs"` // without those that are initializers
	Outputs    []Value          `json:"outputs"`
	Operators  []Operator       `json:"operators"` // most frequent first
	Functions  []string         `json:"functions"` // the model-local functions
	Parameters Parameters       `json:"parameters"`
	Layers     []Layer          `json:"fmoe_layers"`
}

// Value is an input or output.
type Value struct {
	Name string `json:"name"`
	Type string `json:"type"` // such as "float32[batch,4]"
}

// Operator counts the nodes of one operator, those in subgraphs included.
type Operator struct {
	Name  string `json:"name"` // with its domain where that is not ONNX's own
	Count int    `json:"count"`
}

// Parameters counts the elements of a model's weights.
type Parameters struct {
	Total int64 `json:"total"`
	// Active is how many take part in the computation of one token: of an
	// FMoE layer's T experts, top_k do.
	Active int64 `json:"active"`
}

// Layer is an FMoE node.
type Layer struct {
	Name    string `json:"name"`
	Experts int64  `json:"experts"`
	TopK    int    `json:"top_k"`
	Gate    string `json:"gate"`

	// Capacity has the gate's capacity factors, nil where it has no limit.
	Capacity *Capacity `json:"capacity_factor,omitempty"`

	Activation string `json:"activation"`
	Gated      bool   `json:"gated"` // the experts have a third projection
	DModel     int64  `json:"d_model"`
	DHidden    int64  `json:"d_hidden"`
	Weights    string `json:"weights"`              // how the experts' are stored, such as "float32" or "int4"
	BlockSize  int    `json:"block_size,omitempty"` // how many integers share a scale
}

// Capacity is how many rows an expert computes, in proportion to what it would
// if all experts had the same number, −1 for any number.
type Capacity struct {
	Train      float64 `json:"train"`
	Evaluation float64 `json:"evaluation"`
}

// Describe reads a model's structure. It fails where an FMoE node is not as
// its operator demands, but not for a gate that is not registered.
func Describe(m *onnx.Model) (*Description, error) {
	d := &Description{
		IRVersion: m.IRVersion,
		Producer:  m.ProducerName,
		Opsets:    map[string]int64{},
		Inputs:    []Value{}, Outputs: []Value{}, Operators: []Operator{}, Functions: []string{}, Layers: []Layer{},
	}
	if m.ProducerVersion != "" {
		d.Producer += " " + m.ProducerVersion
	}
	for _, o := range m.OpsetImports {
		d.Opsets[domainName(o.Domain)] = o.Version
	}
	for _, f := range m.Functions {
		d.Functions = append(d.Functions, domainName(f.Domain)+"::"+f.Name)
	}
	index := onnx.NewIndex(m.Graph)
	for _, v := range m.Graph.Inputs {
		if index.Initializer(v.Name) == nil {
			d.Inputs = append(d.Inputs, Value{v.Name, v.Type.String()})
		}
	}
	for _, v := range m.Graph.Outputs {
		d.Outputs = append(d.Outputs, Value{v.Name, v.Type.String()})
	}
	d.Operators = countOperators(m.Graph)
	p := &parameters{share: map[*onnx.Tensor]share{}, elements: map[*onnx.Tensor]int64{}}
	err := p.graph(m.Graph, nil)
	d.Parameters, d.Layers = p.sum(), append(d.Layers, p.layers...)
	return d, err
}

func domainName(domain string) string {
	return cmp.Or(domain, "ai.onnx")
}

func countOperators(g *onnx.Graph) []Operator {
	counts := map[string]int{}
	_ = g.Walk(func(g *onnx.Graph) error {
		for _, n := range g.Nodes {
			name := n.OpType
			if d := onnx.CanonicalDomain(n.Domain); d != "" {
				name = d + "::" + name
			}
			counts[name]++
		}
		return nil
	})
	operators := []Operator{}
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		operators = append(operators, Operator{name, counts[name]})
	}
	slices.SortStableFunc(operators, func(a, b Operator) int { return b.Count - a.Count })
	return operators
}

// IsFMoE reports whether a node is of the FMoE operator.
func IsFMoE(n *onnx.Node) bool { return n.Domain == moe.Domain && n.OpType == moe.OpType }
