//go:build fmoecuda

package cuda

import (
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() { register(moe.Domain, bindFMoE, moe.OpType) }

// The parameters of kernels, laid out as in fmoe.cu.
type (
	productParameters struct {
		x, weight, bias, y, token, offsets, tiles uintptr
		experts, depth, width, activation, factor int32
	}
	combineParameters struct {
		result, scores, row, y uintptr
		d, k                   int32
	}
)

// fmoe is FMoE bound to tokens: the routing, the dispatch, one launch for each
// projection of all experts, and the sum of each token's slots.
type fmoe struct {
	device   *Device
	call     *device.Call
	config   moe.Config
	d, h     int
	memory   layout
	routing  *routing
	dispatch *dispatch

	first, second  *hopperProduct             // to hidden values, and from them, on Hopper; nil elsewhere
	fc1, fc2, fc3  *launch[productParameters] // fc3 is nil where experts are not gated
	combine        *launch[combineParameters]
	activate       *launch[hiddenParameters] // where the gradient wants what fc1 and fc3 give
	hidden, result place
}

// bindFMoE takes layers whose experts' weights are of the tokens' type.
func bindFMoE(d *Device, n *op.Node, c *device.Call) (func() error, error) {
	config, err := moe.ParseConfig(n.Node)
	if err != nil {
		return nil, err
	}
	x, weight := c.In[moe.InputX], c.In[moe.InputFC1Weight]
	end, err := endingOfAll(x, weight, at(c.In, moe.InputFC1Bias), c.In[moe.InputFC2Weight], at(c.In, moe.InputFC2Bias),
		at(c.In, moe.InputFC3Weight), at(c.In, moe.InputFC3Bias))
	if err != nil {
		return nil, err
	}
	if config.FirstExpert >= 0 || config.Quantization != (moe.Quantization{}) {
		return nil, errForm
	}
	k := &fmoe{device: d, call: c, config: config, d: x.Shape[x.Rank()-1], h: weight.Shape[1]}
	if k.h == 0 {
		return nil, errForm
	}
	if k.routing, err = newRouting(d, config, c, &k.memory, nil); err != nil {
		return nil, err
	}
	if err := k.plan(end, x.Type); err != nil {
		return nil, err
	}
	c.Scratch.Reserve(k.memory.size)
	return k.run, nil
}

func (k *fmoe) plan(end string, t onnx.DataType) error {
	d, r := k.device, k.routing
	hopper := d.hasHopperExperts(end, t, k.d, k.h)
	name, tile := "product"+end, 64
	if t != onnx.Float32 && k.d%8 == 0 && k.h%8 == 0 {
		name, tile = "matrix_product"+end, 128
	}
	if hopper {
		tile = hopperTile
	}
	var err error
	if k.dispatch, err = newDispatch(r, &k.memory, tile); err != nil {
		return err
	}
	activation, err := activationNumber(k.config.Activation)
	if err != nil {
		return err
	}
	if hopper {
		err = k.planHopper(end, t, activation)
	} else {
		err = k.planProjections(name, end, tile, activation)
	}
	if err != nil {
		return err
	}
	width := t.Bits() / 8
	k.hidden, k.result = k.memory.take(width*r.rows*k.h), k.memory.take(width*r.rows*k.d)
	wide, lanes := "combine", 1
	if perLane := 128 / t.Bits(); k.d%perLane == 0 {
		wide, lanes = "combine_wide", perLane
	}
	threads := min(256, ceilDiv(ceilDiv(k.d, lanes), 32)*32)
	if k.combine, err = newLaunch[combineParameters](d, wide+end, threads, r.tokens); err != nil {
		return err
	}
	*k.combine.p = combineParameters{d: int32(k.d), k: int32(r.slots)}
	return nil
}

// planHopper plans the products on Hopper, the first of which makes hidden
// values of both branches.
func (k *fmoe) planHopper(end string, t onnx.DataType, activation int32) error {
	var err error
	gated := at(k.call.In, moe.InputFC3Weight) != nil
	if k.first, err = newHopperProduct(k.routing, "forward", end, t, k.d, k.h, 0, gated); err != nil {
		return err
	}
	k.first.p.activation = activation
	k.second, err = newHopperProduct(k.routing, "forward", end, t, k.h, k.d, 0, false)
	return err
}

func (k *fmoe) planProjections(name, end string, tile int, activation int32) error {
	r := k.routing
	tiles := ceilDiv(r.rows, tile) + r.experts // at most, whatever the choice
	projection := func(depth, width int, activation int32) (*launch[productParameters], error) {
		grid := []int{tiles, ceilDiv(width, tile)}
		if tile == 128 {
			slices.Reverse(grid)
		}
		l, err := newLaunch[productParameters](k.device, name, 256, grid...)
		if err == nil {
			*l.p = productParameters{experts: int32(r.experts), depth: int32(depth), width: int32(width), activation: activation}
		}
		return l, err
	}
	var err error
	first, second := activation, activation
	keeps := at(k.call.Out, moe.OutputHidden) != nil || at(k.call.Out, moe.OutputFactor) != nil
	if keeps {
		if err := k.keep(end, activation); err != nil {
			return err
		}
		first, second = 0, 0
	}
	if at(k.call.In, moe.InputFC3Weight) != nil {
		first = 0 // applied where the other branch is multiplied
		if k.fc3, err = projection(k.d, k.h, second); err != nil {
			return err
		}
		k.fc3.p.factor = truth(!keeps)
	}
	if k.fc1, err = projection(k.d, k.h, first); err != nil {
		return err
	}
	if k.fc2, err = projection(k.h, k.d, 0); err != nil {
		return err
	}
	return nil
}

// keep plans the activation of what the gradient wants to be kept.
func (k *fmoe) keep(end string, activation int32) error {
	if at(k.call.Out, moe.OutputHidden) == nil || (at(k.call.Out, moe.OutputFactor) != nil) != (at(k.call.In, moe.InputFC3Weight) != nil) {
		return errForm
	}
	var err error
	if k.activate, err = newLaunch[hiddenParameters](k.device, "activate_rows"+end, 256, k.routing.rows); err != nil {
		return err
	}
	*k.activate.p = hiddenParameters{experts: int32(k.routing.experts), h: int32(k.h), activation: activation}
	return nil
}

func (k *fmoe) run() error {
	scratch := address(&tensor.Tensor{Data: k.call.Scratch.Bytes()})
	if err := k.routing.run(scratch); err != nil {
		return err
	}
	if err := k.dispatch.run(scratch, k.routing.indices.in(scratch), k.out(moe.OutputExpertCount)); err != nil {
		return err
	}
	hidden, result := k.hidden.in(scratch), k.result.in(scratch)
	products := k.project
	if k.first != nil {
		products = k.projectHopper
	}
	if err := products(scratch, hidden, result); err != nil {
		return err
	}
	c := k.combine.p
	c.result, c.scores, c.row, c.y = result, k.routing.scores.in(scratch), k.dispatch.row.in(scratch), k.out(moe.OutputY)
	return k.combine.run()
}

func (k *fmoe) in(slot int) uintptr  { return address(at(k.call.In, slot)) }
func (k *fmoe) out(slot int) uintptr { return address(at(k.call.Out, slot)) }

func (k *fmoe) projectHopper(scratch, hidden, result uintptr) error {
	l, p := k.first, k.first.p
	l.order(k.dispatch, scratch)
	p.x, p.token, p.y = k.in(moe.InputX), k.dispatch.token.in(scratch), hidden
	p.bias = [2]uintptr{k.in(moe.InputFC1Bias), k.in(moe.InputFC3Bias)}
	p.keep = [2]uintptr{k.out(moe.OutputHidden), k.out(moe.OutputFactor)}
	if err := l.describe(0, k.in(moe.InputFC1Weight), 0); err != nil {
		return err
	}
	if err := l.describe(1, k.in(moe.InputFC3Weight), 0); err != nil {
		return err
	}
	if err := l.run(); err != nil {
		return err
	}
	l = k.second
	l.order(k.dispatch, scratch)
	l.p.y, l.p.bias[0] = result, k.in(moe.InputFC2Bias)
	if err := l.describe(0, k.in(moe.InputFC2Weight), hidden); err != nil {
		return err
	}
	return l.run()
}

func (k *fmoe) project(scratch, hidden, result uintptr) error {
	project := func(l *launch[productParameters], x uintptr, weight int, y, token uintptr) error {
		if l == nil {
			return nil
		}
		l.p.x, l.p.weight, l.p.bias, l.p.y = x, k.in(weight), k.in(weight+1), y
		l.p.token, l.p.offsets, l.p.tiles = token, k.dispatch.offsets.in(scratch), k.dispatch.tiles.in(scratch)
		return l.run()
	}
	tokens := k.dispatch.token.in(scratch)
	first, factor := hidden, hidden
	if k.activate != nil {
		first, factor = k.out(moe.OutputHidden), k.out(moe.OutputFactor)
	}
	if err := project(k.fc1, k.in(moe.InputX), moe.InputFC1Weight, first, tokens); err != nil {
		return err
	}
	if err := project(k.fc3, k.in(moe.InputX), moe.InputFC3Weight, factor, tokens); err != nil {
		return err
	}
	if k.activate != nil {
		p := k.activate.p
		p.hidden, p.factor, p.activated, p.offsets = first, factor, hidden, k.dispatch.offsets.in(scratch)
		if err := k.activate.run(); err != nil {
			return err
		}
	}
	return project(k.fc2, hidden, moe.InputFC2Weight, result, 0)
}
