//go:build fmoecuda

package cuda

import (
	"math"
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
	chooseParameters struct {
		logits, bias, indices, scores    uintptr
		outIndices, outScores, outLogits uintptr
		tokens, experts, k, normalize    int32
		scaling                          float32
	}
	sortParameters struct {
		indices, counts, offsets, tiles, row, token, outCounts uintptr
		slots, experts, k, tile                                int32
	}
	productParameters struct {
		x, weight, bias, y, token, offsets, tiles uintptr
		experts, depth, width, activation, factor int32
	}
	combineParameters struct {
		result, scores, row, y uintptr
		d, k                   int32
	}
)

// fmoeExperts bounds the experts that the kernels of the sort have room for.
const fmoeExperts = 1024

// wgmmaShared is the shared memory of wgmma_product: three stages of both
// operands, and what aligns them to 1 KiB.
const wgmmaShared = 3*2*128*128 + 1024

// sortChunk is how many slots a block sorts.
const sortChunk = 1024

// fmoe is FMoE bound to tokens: a router's product, a few small kernels that
// choose experts and sort slots by them, one launch for each projection of all
// experts, and the sum of each token's slots. The host learns nothing of the
// choice.
type fmoe struct {
	device *Device
	call   *device.Call
	config moe.Config

	tokens, d, h, experts, slots int
	router                       func(alpha float32, a, b uintptr, beta float32, y uintptr) error
	widenX                       *launch[unaryParameters] // nil where the router has the types already
	choose                       *launch[chooseParameters]
	count, offsets, place        *launch[sortParameters]
	fc1, fc2, fc3                *launch[productParameters] // fc3 is nil where experts are not gated
	combine                      *launch[combineParameters]

	// Places in scratch memory.
	x, logits, indices, scores, counts, firsts, tiles, row, token, hidden, result int
	size                                                                          int
}

// bindFMoE takes layers of the naive gate in evaluation, whose scores are
// softmax and whose experts' weights are of the tokens' type.
func bindFMoE(d *Device, n *op.Node, c *device.Call) (func() error, error) {
	config, err := moe.ParseConfig(n.Node)
	if err != nil {
		return nil, err
	}
	x, gate := c.In[moe.InputX], c.In[moe.InputGateWeight]
	end, err := endingOfAll(x, c.In[moe.InputFC1Weight], at(c.In, moe.InputFC1Bias), c.In[moe.InputFC2Weight], at(c.In, moe.InputFC2Bias),
		at(c.In, moe.InputFC3Weight), at(c.In, moe.InputFC3Bias))
	if err != nil {
		return nil, err
	}
	for _, slot := range []int{moe.InputNoiseWeight, moe.InputSelectionBias, moe.InputMask, moe.InputStep} {
		if at(c.In, slot) != nil {
			return nil, errForm
		}
	}
	for _, slot := range []int{moe.OutputAuxLoss, moe.OutputZLoss, moe.OutputHidden, moe.OutputFactor} {
		if at(c.Out, slot) != nil {
			return nil, errForm
		}
	}
	if config.Gate != moe.GateNaive || config.Scores != moe.ScoresSoftmax || config.Quantization != (moe.Quantization{}) {
		return nil, errForm
	}
	k := &fmoe{device: d, call: c, config: config}
	k.d, k.h, k.experts = x.Shape[x.Rank()-1], c.In[moe.InputFC1Weight].Shape[1], c.In[moe.InputFC1Weight].Shape[0]
	k.tokens = tensor.Count(x.Shape[:x.Rank()-1])
	k.slots = k.tokens * config.TopK
	if k.slots == 0 || k.slots > math.MaxInt32 || k.experts > fmoeExperts || k.d == 0 || k.h == 0 {
		return nil, errForm
	}
	if err := k.plan(end, x.Type, gate.Type); err != nil {
		return nil, err
	}
	c.Scratch.Reserve(k.size)
	return k.run, nil
}

func (k *fmoe) plan(end string, t, router onnx.DataType) error {
	d := k.device
	routerEnd, err := ending(router)
	if err != nil {
		return err
	}
	// The router's product has float32 results. Tokens that are narrower than
	// its weights are widened.
	product := t
	if t != router {
		product = onnx.Float32
		if k.widenX, err = newUnary(d, "Cast"+end+"_f32", k.tokens*k.d); err != nil {
			return err
		}
		if router != onnx.Float32 {
			return errForm
		}
		k.x = k.take(4 * k.tokens * k.d)
	}
	if k.router, err = d.product(product, onnx.Float32, matrix{rows: k.tokens, columns: k.d}, matrix{rows: k.d, columns: k.experts}, 1); err != nil {
		return err
	}
	k.logits = k.take(4 * k.tokens * k.experts)
	if k.choose, err = newLaunch[chooseParameters](d, "choose"+routerEnd, 128, ceilDiv(k.tokens, 4)); err != nil {
		return err
	}
	*k.choose.p = chooseParameters{tokens: int32(k.tokens), experts: int32(k.experts), k: int32(k.config.TopK), scaling: float32(k.config.RoutedScaling)}
	if k.config.Normalize {
		k.choose.p.normalize = 1
	}
	k.indices, k.scores = k.take(4*k.slots), k.take(4*k.slots)

	name, tile, shared := "product"+end, 64, 0
	if t != onnx.Float32 && k.d%8 == 0 && k.h%8 == 0 {
		name, tile = "matrix_product"+end, 128
		if hopper := "wgmma_product" + end; d.has(hopper) {
			name, shared = hopper, wgmmaShared
		}
	}
	chunks, threads := ceilDiv(k.slots, sortChunk), min(1024, ceilDiv(k.experts, 32)*32)
	for _, sort := range []struct {
		to            **launch[sortParameters]
		name          string
		threads, grid int
	}{{&k.count, "count", threads, chunks}, {&k.offsets, "offsets", threads, 1}, {&k.place, "place", 256, chunks}} {
		if *sort.to, err = newLaunch[sortParameters](d, sort.name, sort.threads, sort.grid); err != nil {
			return err
		}
		*(*sort.to).p = sortParameters{slots: int32(k.slots), experts: int32(k.experts), k: int32(k.config.TopK), tile: int32(tile)}
	}
	k.counts, k.firsts, k.tiles = k.take(4*chunks*k.experts), k.take(4*(k.experts+1)), k.take(4*(k.experts+1))
	k.row, k.token = k.take(4*k.slots), k.take(4*k.slots)

	activation, err := activationNumber(k.config.Activation)
	if err != nil {
		return err
	}
	tiles := ceilDiv(k.slots, tile) + k.experts // at most, whatever the choice
	projection := func(depth, width int, activation int32) (*launch[productParameters], error) {
		grid := []int{tiles, ceilDiv(width, tile)}
		if tile == 128 {
			slices.Reverse(grid)
		}
		l, err := newLaunch[productParameters](d, name, 256, grid...)
		if err == nil {
			err = l.share(shared)
		}
		if err == nil {
			*l.p = productParameters{experts: int32(k.experts), depth: int32(depth), width: int32(width), activation: activation}
		}
		return l, err
	}
	first := activation
	if at(k.call.In, moe.InputFC3Weight) != nil {
		first = 0 // applied where the other branch is multiplied
		if k.fc3, err = projection(k.d, k.h, activation); err != nil {
			return err
		}
		k.fc3.p.factor = 1
	}
	if k.fc1, err = projection(k.d, k.h, first); err != nil {
		return err
	}
	if k.fc2, err = projection(k.h, k.d, 0); err != nil {
		return err
	}
	width := t.Bits() / 8
	k.hidden, k.result = k.take(width*k.slots*k.h), k.take(width*k.slots*k.d)
	wide, lanes := "combine", 1
	if perLane := 128 / t.Bits(); k.d%perLane == 0 {
		wide, lanes = "combine_wide", perLane
	}
	threads = min(256, ceilDiv(ceilDiv(k.d, lanes), 32)*32)
	if k.combine, err = newLaunch[combineParameters](d, wide+end, threads, k.tokens); err != nil {
		return err
	}
	*k.combine.p = combineParameters{d: int32(k.d), k: int32(k.config.TopK)}
	return nil
}

// take places n bytes in scratch memory.
func (k *fmoe) take(n int) int {
	at := k.size
	k.size += (n + 255) &^ 255
	return at
}

func (k *fmoe) run() error {
	scratch := address(&tensor.Tensor{Data: k.call.Scratch.Bytes()})
	place := func(offset int) uintptr { return scratch + uintptr(offset) }
	in := func(slot int) uintptr { return address(at(k.call.In, slot)) }
	out := func(slot int) uintptr { return address(at(k.call.Out, slot)) }

	x := in(moe.InputX)
	if k.widenX != nil {
		k.widenX.p.x, k.widenX.p.y = x, place(k.x)
		if err := k.widenX.run(); err != nil {
			return err
		}
		x = place(k.x)
	}
	if err := k.router(1, x, in(moe.InputGateWeight), 0, place(k.logits)); err != nil {
		return err
	}
	p := k.choose.p
	p.logits, p.bias, p.indices, p.scores = place(k.logits), in(moe.InputGateBias), place(k.indices), place(k.scores)
	p.outIndices, p.outScores, p.outLogits = out(moe.OutputExpertIndices), out(moe.OutputExpertScores), out(moe.OutputRouterLogits)
	if err := k.choose.run(); err != nil {
		return err
	}
	for _, sort := range [...]*launch[sortParameters]{k.count, k.offsets, k.place} {
		p := sort.p
		p.indices, p.counts, p.offsets, p.tiles = place(k.indices), place(k.counts), place(k.firsts), place(k.tiles)
		p.row, p.token, p.outCounts = place(k.row), place(k.token), out(moe.OutputExpertCount)
		if err := sort.run(); err != nil {
			return err
		}
	}
	project := func(l *launch[productParameters], x uintptr, weight int, y, token uintptr) error {
		if l == nil {
			return nil
		}
		l.p.x, l.p.weight, l.p.bias, l.p.y = x, in(weight), in(weight+1), y
		l.p.token, l.p.offsets, l.p.tiles = token, place(k.firsts), place(k.tiles)
		return l.run()
	}
	if err := project(k.fc1, in(moe.InputX), moe.InputFC1Weight, place(k.hidden), place(k.token)); err != nil {
		return err
	}
	if err := project(k.fc3, in(moe.InputX), moe.InputFC3Weight, place(k.hidden), place(k.token)); err != nil {
		return err
	}
	if err := project(k.fc2, place(k.hidden), moe.InputFC2Weight, place(k.result), 0); err != nil {
		return err
	}
	c := k.combine.p
	c.result, c.scores, c.row, c.y = place(k.result), place(k.scores), place(k.row), out(moe.OutputY)
	return k.combine.run()
}
