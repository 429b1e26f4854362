package fmoefy

import (
	"fmt"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
)

// A shared expert is always on: it computes every token beside those that the
// router chooses. It is the dense MLP, whose nodes stay where they are, and the
// result is
//
//	α·MLP(x) + (1−α)·FMoE(x)
//
// in operators of ONNX, so that experts which are equal to the MLP keep its
// function. Others have a shared expert since DeepSeekMoE (arXiv 2401.06066).

// completeShared checks the options of a shared expert and fills in their
// defaults.
func (o *Options) completeShared() error {
	kind, err := kindOf(o)
	switch {
	case err != nil:
		return err
	case !o.SharedExpert && o.SharedWeight != 0:
		return fmt.Errorf("a weight of the shared expert needs a shared expert")
	case !o.SharedExpert:
		return nil
	case kind.alone != "":
		return fmt.Errorf("a shared expert does not go with expert init %s: %s", kind.name, kind.alone)
	}
	setDefault(&o.SharedWeight, 0.5)
	if !(o.SharedWeight > 0 && o.SharedWeight < 1) {
		return fmt.Errorf("the weight of the shared expert is %v, must be between 0 and 1", o.SharedWeight)
	}
	return nil
}

// withShared adds the nodes that join y, the routed experts' result, with that
// of the dense block, which has another name from now on.
func (n *nodes) withShared(y string) string {
	b, t := n.block, n.block.outputType
	dense := n.rewriter.names.NewName(b.Name + ".shared")
	last := b.scope.producer(b.Output)
	last.Outputs[slices.Index(last.Outputs, b.Output)] = dense

	alpha := narrow(t, []float64{n.rewriter.options.SharedWeight})
	rest := narrow(t, []float64{1 - widen(t, alpha)[0]})
	weigh := func(x, role string, weight []byte) string {
		return n.op("Mul", []string{x, n.initializer(role, onnx.NewTensor("", t, nil, weight))})
	}
	return n.op("Add", []string{weigh(dense, "shared_weight", alpha), weigh(y, "routed_weight", rest)})
}

// isShared reports whether a mixture of experts takes the tokens that a block
// takes.
func (s *scope) isShared(b *Block) bool {
	var takes func(value string, depth int) bool
	takes = func(value string, depth int) bool {
		return slices.ContainsFunc(s.index.Consumers(value), func(use onnx.Use) bool {
			if use.Nested() || use.Input != 0 {
				return false
			}
			if _, ok := s.keepsElements(use.Node); ok && depth > 0 {
				return takes(use.Node.Output(0), depth-1)
			}
			return isMixture(use.Node)
		})
	}
	return slices.ContainsFunc(s.origins(b.Input), func(value string) bool { return takes(value, 2) })
}
