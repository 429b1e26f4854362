package fmoefy_test

import (
	"math/rand/v2"
	"testing"

	"github.com/fmoe-go/fmoe/fmoefy"
	"github.com/fmoe-go/fmoe/onnx"
)

// repeated writes a Transformer that goes through one layer twice, as ALBERT
// does.
func repeated() *onnx.Model {
	b := newBuilder(17)
	x := b.tokens()
	w1, b1, w2 := b.weight(dModel, dHidden), b.weight(dHidden), b.weight(dHidden, dModel)
	for range 2 {
		h := b.op("Relu", b.op("Add", b.op("MatMul", x, w1), b1))
		x = b.op("Add", x, b.op("MatMul", h, w2))
	}
	b.output(x)
	return b.model
}

// TestRepeatedLayer: one layer stays one layer, and becomes several on demand.
func TestRepeatedLayer(t *testing.T) {
	m := repeated()
	upcycle(t, m, 2, 1e-5)
	dense := int64(2*dModel*dHidden + dHidden)
	router := int64(4 * dModel)
	for _, c := range []struct {
		separate bool
		sets     int64
	}{{false, 1}, {true, 2}} {
		rewritten, report := rewrite(t, m, fmoefy.Options{NumExperts: 4, SeparateShared: c.separate})
		if n := int64(len(rewritten.Graph.Initializers)); n != 4*c.sets {
			t.Errorf("separate %v: %d initializers, want a router and three stacks of weights for each of %d sets", c.separate, n, c.sets)
		}
		if report.ParametersAfter != c.sets*(4*dense+router) || report.ParametersActive != c.sets*(2*dense+router) {
			t.Errorf("separate %v: %d parameters, %d active", c.separate, report.ParametersAfter, report.ParametersActive)
		}
		shares := report.Blocks[1].SharesWith
		if !c.separate && shares != report.Blocks[0].Name || c.separate && shares != "" {
			t.Errorf("separate %v: the second block shares with %q", c.separate, shares)
		}
		compare(t, rewritten, m, 1e-5)
	}
}

// TestCopiesInBranches: where each branch of an If holds its own copy of the
// weights, the branches share one set of experts in the outermost graph all
// the same; a branch with other weights has another.
func TestCopiesInBranches(t *testing.T) {
	for _, c := range []struct {
		name  string
		equal bool
		sets  int
	}{{"equal", true, 1}, {"different", false, 2}} {
		t.Run(c.name, func(t *testing.T) {
			b := newBuilder(17)
			x := b.tokens()
			b.graph.Inputs = append(b.graph.Inputs, valueInfo("use_cache", onnx.Bool))
			branch := func(name string) *onnx.Attribute {
				inner := b.subgraph(name)
				if c.equal {
					inner.random = newBuilder(17).random
				}
				y := inner.linear(inner.op("Relu", inner.linear(x, dModel, dHidden)), dHidden, dModel)
				inner.output(inner.op("Add", x, y))
				return onnx.GraphAttribute(name, inner.graph)
			}
			b.output(b.op("If", "use_cache", branch("then_branch"), branch("else_branch")))
			for _, separate := range []bool{false, true} {
				rewritten, _ := rewrite(t, b.model, fmoefy.Options{NumExperts: 4, SeparateShared: separate})
				if n := len(rewritten.Graph.Initializers); n != 5*c.sets {
					t.Errorf("%d initializers in the outermost graph, want a router and four stacks of weights for each of %d sets", n, c.sets)
				}
				for _, g := range rewritten.Graph.Nodes[0].Subgraphs() {
					if len(g.Initializers) != 0 {
						t.Errorf("branch %s keeps %d weights", g.Name, len(g.Initializers))
					}
				}
			}
			upcycle(t, b.model, 2, 1e-5)
		})
	}
}

// TestCopiesInOneGraph: exporters that fold a transposition into a shared
// weight store it once for each use.
func TestCopiesInOneGraph(t *testing.T) {
	b := newBuilder(17)
	x := b.tokens()
	for range 2 {
		b.random = newBuilder(17).random // the same numbers again
		x = b.op("Add", x, b.linear(b.op("Relu", b.linear(x, dModel, dHidden)), dHidden, dModel))
	}
	b.random = rand.New(rand.NewPCG(7, 8))
	x = b.op("Add", x, b.linear(b.op("Relu", b.linear(x, dModel, dHidden)), dHidden, dModel))
	b.output(x)
	upcycle(t, b.model, 3, 1e-5)
	_, report := rewrite(t, b.model, fmoefy.Options{NumExperts: 4})
	if report.Blocks[1].SharesWith != report.Blocks[0].Name || report.Blocks[2].SharesWith != "" {
		t.Errorf("the second block shares with %q, the third with %q", report.Blocks[1].SharesWith, report.Blocks[2].SharesWith)
	}
}
