// Package op says what operators mean before any device computes them: which
// versions exist, which types and shapes come out, and their gradients as
// graph nodes. One file holds one family of operators; runtime/cpu has the
// kernels in a file of the same name.
package op

import (
	"fmt"
	"slices"
	"sort"

	"github.com/fmoe-go/fmoe/onnx"
)

// Operator describes one operator in all its versions.
type Operator struct {
	Domain string // "" is ONNX's own
	Name   string

	// Since lists the opset versions that changed the operator, ascending,
	// as far as they are implemented. A node means the newest one not above
	// the version that its model imports.
	Since []int

	// Inputs and Outputs bound how many a node may have; a negative maximum
	// means any number.
	Inputs, Outputs Arity

	// Attributes names the attributes that are understood in at least one
	// version. A node with any other is refused rather than misread.
	Attributes []string

	// Parameters lists the inputs whose *content* decides output shapes or
	// how the node computes (a target shape, axes, starts). A kernel is bound
	// only once they are known, so it may read them when it is bound.
	Parameters []int

	// Elementwise: output elements depend only on the elements at the same
	// place, so an output may take over the memory of an input of its type
	// and shape.
	Elementwise bool

	// View: output 0 has the elements of input 0 in the same order, so that
	// it needs no memory of its own.
	View bool

	// ViewOfSame: output 0 is input 0 where both have the same shape.
	ViewOfSame bool

	// Caches lists the inputs that may be caches with room between their
	// heads; see Rooms of a device's Call.
	Caches []int

	// Appends maps inputs that may be caches to the outputs that are these
	// with something behind it in each head; Concat does
	// so along one axis only.
	Appends map[int]int

	// Nondeterministic: equal inputs may give different outputs, so the node
	// is never folded.
	Nondeterministic bool

	// Infer states the types and shapes of the outputs as far as the inputs
	// tell them, and fails where they contradict the operator.
	Infer func(*Inference) error

	// Gradient adds the nodes that compute the gradients of the inputs; see
	// [Backward]. Operators without one stand between no weight and a loss.
	Gradient func(*Backward)
}

// Arity bounds a number of inputs or outputs.
type Arity struct{ Min, Max int }

// Exactly is the arity of n.
func Exactly(n int) Arity { return Arity{n, n} }

// Between is the arity of lo to hi.
func Between(lo, hi int) Arity { return Arity{lo, hi} }

// AtLeast is the arity of n or more.
func AtLeast(n int) Arity { return Arity{n, -1} }

func (a Arity) check(n int) bool { return n >= a.Min && (a.Max < 0 || n <= a.Max) }

func (a Arity) String() string {
	switch {
	case a.Max < 0:
		return fmt.Sprintf("at least %d", a.Min)
	case a.Min == a.Max:
		return fmt.Sprint(a.Min)
	}
	return fmt.Sprintf("%d to %d", a.Min, a.Max)
}

// Node is a node whose operator is resolved.
type Node struct {
	*onnx.Node
	Operator *Operator
	// Since is the operator version that the node means: an element of
	// Operator.Since.
	Since int
}

type key struct{ domain, name string }

var operators = map[key]*Operator{}

// Register makes operators known. It panics when one is registered twice, a
// programmer's error.
func Register(list ...Operator) {
	for i := range list {
		o := &list[i]
		k := key{o.Domain, o.Name}
		if _, dup := operators[k]; dup {
			panic("op: " + o.Domain + "::" + o.Name + " is registered twice")
		}
		if len(o.Since) == 0 || !slices.IsSorted(o.Since) || o.Infer == nil {
			panic("op: " + o.Domain + "::" + o.Name + " is registered without versions or inference")
		}
		operators[k] = o
	}
}

// Operators lists what is registered, ordered by domain and name.
func Operators() []*Operator {
	list := make([]*Operator, 0, len(operators))
	for _, o := range operators {
		list = append(list, o)
	}
	sort.Slice(list, func(i, j int) bool {
		if list[i].Domain != list[j].Domain {
			return list[i].Domain < list[j].Domain
		}
		return list[i].Name < list[j].Name
	})
	return list
}

// Resolve finds the operator of a node in a model that imports the node's
// domain at version opset, and checks the node's form against it. The error
// says what is not supported.
func Resolve(n *onnx.Node, opset int64) (*Node, error) {
	domain := onnx.CanonicalDomain(n.Domain)
	o := operators[key{domain, n.OpType}]
	if o == nil {
		return nil, fmt.Errorf("operator is not known")
	}
	since := 0
	for _, v := range o.Since {
		if int64(v) <= opset {
			since = v
		}
	}
	if since == 0 {
		return nil, fmt.Errorf("version %d is older than the oldest that is supported, %d", opset, o.Since[0])
	}
	if !o.Inputs.check(len(n.Inputs)) {
		return nil, fmt.Errorf("has %d inputs, needs %s", len(n.Inputs), o.Inputs)
	}
	if !o.Outputs.check(len(n.Outputs)) {
		return nil, fmt.Errorf("has %d outputs, needs %s", len(n.Outputs), o.Outputs)
	}
	required := o.Inputs.Min
	if required > 0 && o.Inputs.Max < 0 {
		required = len(n.Inputs) // a list has no gaps
	}
	for i := range required {
		if n.Inputs[i] == "" {
			return nil, fmt.Errorf("lacks its input %d", i)
		}
	}
	for _, a := range n.Attributes {
		if !slices.Contains(o.Attributes, a.Name) {
			return nil, fmt.Errorf("attribute %q is not supported", a.Name)
		}
	}
	return &Node{Node: n, Operator: o, Since: since}, nil
}
