package runtime

import (
	"strings"

	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// NodeTypes lists the operators of a compiled model in the order in which they
// run, those of bodies behind the nodes that have them, those of chains between
// braces.
func (s *Session) NodeTypes() []string { return s.main.nodeTypes() }

func (p *program) nodeTypes() (list []string) {
	for _, n := range p.nodes {
		name := operatorName(n.op)
		if chain, err := op.ParseChain(n.op.Node); err == nil {
			var members []string
			for _, m := range chain.Nodes {
				members = append(members, operatorName(m))
			}
			name = "{" + strings.Join(members, " ") + "}"
		}
		list = append(list, name)
		for _, b := range n.bodies {
			list = append(list, b.nodeTypes()...)
		}
	}
	return list
}

// InPlace tells of each cache whether it stayed in place in the last run.
func (st *State) InPlace() []bool { return st.runner.bound.plan.inPlace }

// Bind plans the model for inputs in its order, and keeps no plan.
func (s *Session) Bind(inputs []*tensor.Tensor) error {
	_, err := s.bind(s.main, inputs, nil, nil)
	return err
}

func operatorName(n *op.Node) string {
	if d := n.Operator.Domain; d != "" {
		return d + "::" + n.OpType
	}
	return n.OpType
}
