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

// Arena plans the model for inputs in its order. It returns the size of the
// arena and the bytes that are in use at the step where most are.
func (s *Session) Arena(inputs []*tensor.Tensor) (size, bound int, err error) {
	p, err := s.bind(s.main, inputs, nil, nil)
	if err != nil {
		return 0, 0, err
	}
	for i := range p.steps {
		live := 0
		for _, v := range p.slots {
			if v.planned && v.root == v && v.first >= 0 && v.first <= i && i <= v.last {
				live += v.size
			}
		}
		bound = max(bound, live)
	}
	return p.host.used, bound, nil
}
