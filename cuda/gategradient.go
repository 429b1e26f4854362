//go:build fmoecuda

package cuda

import (
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// columnParameters are those of sums over rows, laid out as in gategradient.cu.
type columnParameters struct {
	x, partial, y               uintptr
	rows, columns, typeX, typeY int32
}

// routerGradient takes gradients through a gate and the router, after a
// routing that has decided about the same logits: those by gate_weight,
// gate_bias and noise_weight, and a part of that by the tokens.
type routerGradient struct {
	routing           *routing
	call              *device.Call // of FMoEGradient
	differentiate     *launch[gateParameters]
	room              int32
	byLogits, byNoise place // of the products' type [N, T]
	partial           place
	columns           []*launch[columnParameters] // sums of byLogits, and zeros
	products          []routerProduct
	throughRouter     place // float32 [N, d]: the gradient by the tokens; none where nobody wants it
}

// routerProduct is one with the gradient by logits, or by the noise's.
type routerProduct struct {
	multiply func(alpha float32, a, b uintptr, beta float32, y uintptr) error
	by       place
	weight   int  // the router's, an input
	tokens   bool // it gives the gradient by the tokens, else by the weight
	beta     float32
}

// newRouterGradient plans the gradients of a call of FMoEGradient.
func newRouterGradient(r *routing, c *device.Call, m *layout) (*routerGradient, error) {
	g := &routerGradient{routing: r, call: c}
	room := 3 * r.experts
	var err error
	if g.differentiate, err = r.device.tokenLaunch("differentiate", r.tokens, room); err != nil {
		return nil, err
	}
	g.room = int32(room)
	bytes := r.tokens * r.experts * r.product.Bits() / 8
	g.byLogits = m.take(bytes)
	if at(c.Out, moe.InputX) != nil {
		g.throughRouter = m.take(4 * r.tokens * r.d)
	}
	if err := g.multiply(m, moe.InputGateWeight, g.byLogits, 0); err != nil {
		return nil, err
	}
	if r.noise != nil {
		g.byNoise = m.take(bytes)
		err = g.multiply(m, moe.InputNoiseWeight, g.byNoise, 1)
	} else if out := at(c.Out, moe.InputNoiseWeight); out != nil {
		err = g.add("add_pieces", 1, 0, out) // zeros
	}
	if out := at(c.Out, moe.InputGateBias); out != nil && err == nil {
		pieces := ceilDiv(r.tokens, gatePiece)
		g.partial = m.take(8 * pieces * r.experts)
		if err = g.add("add_columns", pieces, r.tokens, out); err == nil {
			err = g.add("add_pieces", 1, r.tokens, out)
		}
	}
	return g, err
}

// multiply plans the products with a gradient by what a router's weight gives:
// that by the weight, of tokens, and beta times what there is already plus that
// by the tokens.
func (g *routerGradient) multiply(m *layout, weight int, by place, beta float32) error {
	r := g.routing
	logits := matrix{rows: r.tokens, columns: r.experts}
	if out := at(g.call.Out, weight); out != nil {
		if err := r.widenTokens(m); err != nil {
			return err
		}
		p, err := r.device.product(r.product, out.Type, matrix{rows: r.d, columns: r.tokens, transposed: true}, logits, 1)
		if err != nil {
			return err
		}
		g.products = append(g.products, routerProduct{multiply: p, by: by, weight: weight})
	}
	if g.throughRouter == 0 {
		return nil
	}
	p, err := r.device.product(r.product, onnx.Float32, logits, matrix{rows: r.experts, columns: r.d, transposed: true}, 1)
	g.products = append(g.products, routerProduct{multiply: p, by: by, weight: weight, tokens: true, beta: beta})
	return err
}

// add adds a kernel of sums over rows for an output.
func (g *routerGradient) add(name string, blocks, rows int, out *tensor.Tensor) error {
	l, err := newLaunch[columnParameters](g.routing.device, name, 256, blocks)
	if err != nil {
		return err
	}
	l.p.rows, l.p.columns = int32(rows), int32(out.Len())
	l.p.typeX, l.p.typeY = routerTypes[g.routing.product], routerTypes[out.Type]
	g.columns = append(g.columns, l)
	return nil
}

// run computes them from the gradients by the scores of slots, float32 [N·slots];
// those of dropped slots are not read.
func (g *routerGradient) run(scratch, byScores uintptr) error {
	in := func(slot int) uintptr { return address(at(g.call.In, slot)) }
	out := func(slot int) uintptr { return address(at(g.call.Out, slot)) }
	p := g.differentiate.p
	*p = g.routing.gate
	p.room, p.byType = g.room, routerTypes[g.routing.product]
	p.byScores, p.byGivenScores, p.byGivenLogits = byScores, in(moe.GradientExpertScores), in(moe.GradientRouterLogits)
	p.byAuxLoss, p.byZLoss = in(moe.GradientAuxLoss), in(moe.GradientZLoss)
	p.byLogits, p.byNoise = g.byLogits.in(scratch), g.byNoise.in(scratch)
	if err := g.differentiate.run(); err != nil {
		return err
	}
	for _, l := range g.columns {
		l.p.x, l.p.partial, l.p.y = p.byLogits, g.partial.in(scratch), out(moe.InputGateBias)
		if l.p.rows == 0 {
			l.p.y = out(moe.InputNoiseWeight)
		}
		if err := l.run(); err != nil {
			return err
		}
	}
	for _, m := range g.products {
		a, b, y := g.routing.tokensAt(scratch), m.by.in(scratch), out(m.weight)
		if m.tokens {
			a, b, y = m.by.in(scratch), in(m.weight), g.throughRouter.in(scratch)
		}
		if err := m.multiply(1, a, b, m.beta, y); err != nil {
			return err
		}
	}
	return nil
}
