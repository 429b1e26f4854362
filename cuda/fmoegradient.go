//go:build fmoecuda

package cuda

import (
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() { register(moe.Domain, bindFMoEGradient, moe.GradientOpType) }

// The parameters of kernels, laid out as in fmoegradient.cu.
type (
	backParameters struct {
		x, weight, x2, weight2, y, token, offsets, tiles uintptr
		experts, depth, width                            int32
	}
	overRowsParameters struct {
		left, right, y, leftToken, rightToken, offsets uintptr
		height, width                                  int32
	}
	hiddenParameters struct {
		hidden, factor, dy, bias, activated, byHidden, byFactor, scores, byScores, token, slot, offsets uintptr
		experts, h, d, activation                                                                       int32
	}
	sumRowsParameters struct {
		x, y, scores, token, slot, offsets uintptr
		width                              int32
	}
	combineBackParameters struct {
		byRow, throughRouter, row, y uintptr
		d, k                         int32
	}
)

// fmoeGradient is FMoEGradient bound to tokens. The gate decides once more,
// about the same logits, so that rows have the order in which the node kept
// them.
type fmoeGradient struct {
	device   *Device
	call     *device.Call
	d, h     int
	memory   layout
	routing  *routing
	dispatch *dispatch
	router   *routerGradient

	activated, byHidden, byFactor, byRow, byScores place
	steps                                          []func(scratch uintptr) error
	ending                                         string
	matrices                                       bool // the matrix units take the widths
	hopper                                         bool // so do Hopper's
}

func bindFMoEGradient(d *Device, n *op.Node, c *device.Call) (func() error, error) {
	config, err := moe.ParseConfig(n.Node)
	if err != nil {
		return nil, err
	}
	x, weight := c.In[moe.InputX], c.In[moe.InputFC1Weight]
	g := &fmoeGradient{device: d, call: c, d: x.Shape[x.Rank()-1], h: weight.Shape[1]}
	g.ending, err = endingOfAll(x, weight, at(c.In, moe.InputFC1Bias), c.In[moe.InputFC2Weight], at(c.In, moe.InputFC2Bias),
		at(c.In, moe.InputFC3Weight), at(c.In, moe.InputFC3Bias))
	if err != nil {
		return nil, err
	}
	if g.h == 0 || config.FirstExpert >= 0 || config.Quantization != (moe.Quantization{}) {
		return nil, errForm
	}
	g.matrices = x.Type != onnx.Float32 && g.d%8 == 0 && g.h%8 == 0
	g.hopper = d.hasHopperExperts(g.ending, x.Type, g.d, g.h)
	if g.routing, err = newRouting(d, config, c, &g.memory, c.In[moe.SavedRouterLogits]); err != nil {
		return nil, err
	}
	if g.router, err = newRouterGradient(g.routing, c, &g.memory); err != nil {
		return nil, err
	}
	if g.dispatch, err = newDispatch(g.routing, &g.memory, g.tile()); err != nil {
		return nil, err
	}
	activation, err := activationNumber(config.Activation)
	if err != nil {
		return nil, err
	}
	if at(c.In, moe.GradientY) != nil {
		err = g.planExperts(activation)
	} else {
		err = g.planZeros()
	}
	if err == nil {
		err = g.planEnd()
	}
	if err != nil {
		return nil, err
	}
	c.Scratch.Reserve(g.memory.size)
	return g.run, nil
}

// tile is the number of rows that a block computes.
func (g *fmoeGradient) tile() int {
	switch {
	case g.hopper:
		return hopperTile
	case g.matrices:
		return 128
	}
	return 64
}

func (g *fmoeGradient) name(kernel string) string {
	if g.matrices {
		return "matrix_" + kernel + g.ending
	}
	return kernel + g.ending
}

// wide names a kernel whose threads take 16 bytes at a time of rows of n
// numbers, where these are a whole number of times that.
func (g *fmoeGradient) wide(kernel string, n int) string {
	if n*g.call.In[moe.InputX].Type.Bits()%128 == 0 {
		kernel += "_wide"
	}
	return kernel + g.ending
}

func (g *fmoeGradient) in(slot int) uintptr  { return address(at(g.call.In, slot)) }
func (g *fmoeGradient) out(slot int) uintptr { return address(at(g.call.Out, slot)) }

// planExperts plans the gradients by what experts compute with.
func (g *fmoeGradient) planExperts(activation int32) error {
	r, c := g.routing, g.call
	width := c.In[moe.InputX].Type.Bits() / 8
	gated := at(c.In, moe.InputFC3Weight) != nil
	g.activated, g.byHidden = g.memory.take(width*r.rows*g.h), g.memory.take(width*r.rows*g.h)
	if gated {
		g.byFactor = g.memory.take(width * r.rows * g.h)
	}
	g.byScores = g.memory.take(4 * r.tokens * r.slots)

	if err := g.back(g.d, g.h, func(p *backParameters, scratch uintptr) {
		p.x, p.token, p.weight, p.y = g.in(moe.GradientY), g.dispatch.token.in(scratch), g.in(moe.InputFC2Weight), g.byHidden.in(scratch)
	}); err != nil {
		return err
	}
	through, err := newLaunch[hiddenParameters](g.device, g.wide("through_hidden", g.h), min(256, ceilDiv(g.h, 8*32)*32), r.rows)
	if err != nil {
		return err
	}
	*through.p = hiddenParameters{experts: int32(r.experts), h: int32(g.h), d: int32(g.d), activation: activation}
	g.steps = append(g.steps, func(scratch uintptr) error {
		p := through.p
		p.hidden, p.factor, p.dy, p.bias = g.in(moe.SavedHidden), g.in(moe.SavedFactor), g.in(moe.GradientY), g.in(moe.InputFC2Bias)
		p.activated, p.byHidden, p.byFactor = g.activated.in(scratch), g.byHidden.in(scratch), g.byFactor.in(scratch)
		p.scores, p.byScores = r.scores.in(scratch), g.byScores.in(scratch)
		p.token, p.slot, p.offsets = g.dispatch.token.in(scratch), g.dispatch.slot.in(scratch), g.dispatch.offsets.in(scratch)
		return through.run()
	})
	if err := g.planWeights(); err != nil {
		return err
	}
	if at(c.Out, moe.InputX) == nil {
		return nil
	}
	g.byRow = g.memory.take(width * r.rows * g.d)
	return g.back(g.h, g.d, func(p *backParameters, scratch uintptr) {
		p.x, p.weight, p.y = g.byHidden.in(scratch), g.in(moe.InputFC1Weight), g.byRow.in(scratch)
		if gated {
			p.x2, p.weight2 = g.byFactor.in(scratch), g.in(moe.InputFC3Weight)
		}
	})
}

// back plans a product from outputs to inputs of a layer.
func (g *fmoeGradient) back(depth, width int, set func(p *backParameters, scratch uintptr)) error {
	if g.hopper {
		return g.backHopper(depth, width, set)
	}
	tile := g.tile()
	tiles := ceilDiv(g.routing.rows, tile) + g.routing.experts // at most, whatever the choice
	grid := []int{tiles, ceilDiv(width, tile)}
	if g.matrices {
		grid[0], grid[1] = grid[1], grid[0]
	}
	l, err := newLaunch[backParameters](g.device, g.name("back"), 256, grid...)
	if err != nil {
		return err
	}
	*l.p = backParameters{experts: int32(g.routing.experts), depth: int32(depth), width: int32(width)}
	g.steps = append(g.steps, func(scratch uintptr) error {
		l.p.offsets, l.p.tiles = g.dispatch.offsets.in(scratch), g.dispatch.tiles.in(scratch)
		set(l.p, scratch)
		return l.run()
	})
	return nil
}

func (g *fmoeGradient) backHopper(depth, width int, set func(p *backParameters, scratch uintptr)) error {
	l, err := newHopperProduct(g.routing, "back", g.ending, g.call.In[moe.InputX].Type, depth, width, 0, false)
	if err != nil {
		return err
	}
	g.steps = append(g.steps, func(scratch uintptr) error {
		var of backParameters
		set(&of, scratch)
		l.order(g.dispatch, scratch)
		l.p.y, l.p.token = of.y, of.token
		rows := of.x
		if of.token != 0 {
			l.p.x, rows = of.x, 0
		}
		if err := l.describe(0, of.weight, rows); err != nil {
			return err
		}
		if of.x2 != 0 {
			l.p.branches = 2
		}
		if err := l.describe(1, of.weight2, of.x2); err != nil {
			return err
		}
		return l.run()
	})
	return nil
}

// planWeights plans the products and sums over the rows of each expert.
func (g *fmoeGradient) planWeights() error {
	token := func(scratch uintptr) uintptr { return g.dispatch.token.in(scratch) }
	none := func(uintptr) uintptr { return 0 }
	place := func(p *place) func(uintptr) uintptr { return func(scratch uintptr) uintptr { return p.in(scratch) } }
	input := func(slot int) func(uintptr) uintptr { return func(uintptr) uintptr { return g.in(slot) } }
	for _, layer := range []struct {
		slot                                 int
		left, right, leftTokens, rightTokens func(scratch uintptr) uintptr
		height, width                        int
		scores                               bool // the bias's rows count by their scores
	}{
		{moe.InputFC2Weight, input(moe.GradientY), place(&g.activated), token, none, g.d, g.h, true},
		{moe.InputFC1Weight, place(&g.byHidden), input(moe.InputX), none, token, g.h, g.d, false},
		{moe.InputFC3Weight, place(&g.byFactor), input(moe.InputX), none, token, g.h, g.d, false},
	} {
		switch {
		case at(g.call.Out, layer.slot) == nil:
		case g.hopper:
			l, err := newHopperProduct(g.routing, "over_rows", g.ending, g.call.In[moe.InputX].Type, 0, layer.width, layer.height, false)
			if err != nil {
				return err
			}
			g.steps = append(g.steps, func(scratch uintptr) error {
				p := l.p
				l.order(g.dispatch, scratch)
				p.x, p.x2, p.y = layer.right(scratch), layer.left(scratch), g.out(layer.slot)
				p.token, p.token2 = layer.rightTokens(scratch), layer.leftTokens(scratch)
				return l.run()
			})
		default:
			tile := g.tile()
			l, err := newLaunch[overRowsParameters](g.device, g.name("over_rows"), 256, ceilDiv(layer.width, tile), ceilDiv(layer.height, tile), g.routing.experts)
			if err != nil {
				return err
			}
			l.p.height, l.p.width = int32(layer.height), int32(layer.width)
			g.steps = append(g.steps, func(scratch uintptr) error {
				p := l.p
				p.left, p.right, p.y = layer.left(scratch), layer.right(scratch), g.out(layer.slot)
				p.leftToken, p.rightToken, p.offsets = layer.leftTokens(scratch), layer.rightTokens(scratch), g.dispatch.offsets.in(scratch)
				return l.run()
			})
		}
		if at(g.call.Out, layer.slot+1) == nil {
			continue
		}
		l, err := newLaunch[sumRowsParameters](g.device, "sum_rows"+g.ending, 256, ceilDiv(layer.height, 32), g.routing.experts)
		if err != nil {
			return err
		}
		l.p.width = int32(layer.height)
		g.steps = append(g.steps, func(scratch uintptr) error {
			p := l.p
			p.x, p.y, p.token = layer.left(scratch), g.out(layer.slot+1), layer.leftTokens(scratch)
			p.slot, p.offsets = g.dispatch.slot.in(scratch), g.dispatch.offsets.in(scratch)
			if layer.scores {
				p.scores = g.routing.scores.in(scratch)
			}
			return l.run()
		})
	}
	return nil
}

// planZeros plans zeros as the gradients by the experts, which nobody asks.
func (g *fmoeGradient) planZeros() error {
	for slot := moe.InputFC1Weight; slot <= moe.InputFC3Bias; slot++ {
		out := at(g.call.Out, slot)
		if out == nil {
			continue
		}
		l, err := newLaunch[columnParameters](g.device, "add_pieces", 1024, 1)
		if err != nil {
			return err
		}
		l.p.columns, l.p.typeY = int32(out.Len()), routerTypes[out.Type]
		g.steps = append(g.steps, func(uintptr) error {
			l.p.y = address(out)
			return l.run()
		})
	}
	return nil
}

// planEnd plans the router's gradients and that by the tokens.
func (g *fmoeGradient) planEnd() error {
	g.steps = append(g.steps, func(scratch uintptr) error { return g.router.run(scratch, g.byScores.in(scratch)) })
	if at(g.call.Out, moe.InputX) == nil {
		return nil
	}
	combine, err := newLaunch[combineBackParameters](g.device, g.wide("combine_back", g.d), min(256, ceilDiv(g.d, 32)*32), g.routing.tokens)
	if err != nil {
		return err
	}
	combine.p.d, combine.p.k = int32(g.d), int32(g.routing.slots)
	g.steps = append(g.steps, func(scratch uintptr) error {
		p := combine.p
		p.byRow, p.throughRouter, p.row, p.y = g.byRow.in(scratch), g.router.throughRouter.in(scratch), g.dispatch.row.in(scratch), g.out(moe.InputX)
		return combine.run()
	})
	return nil
}

func (g *fmoeGradient) run() error {
	scratch := address(&tensor.Tensor{Data: g.call.Scratch.Bytes()})
	if err := g.routing.run(scratch); err != nil {
		return err
	}
	if err := g.dispatch.run(scratch, g.routing.indices.in(scratch), 0); err != nil {
		return err
	}
	for _, step := range g.steps {
		if err := step(scratch); err != nil {
			return err
		}
	}
	return nil
}
