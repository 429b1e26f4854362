//go:build fmoecuda

package cuda

import (
	"fmt"
	"math"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// The gates that have kernels, and kinds of scores, by their numbers in
// gate.cuh.
var (
	gateKinds = map[string]int32{moe.GateNaive: 0, moe.GateNoisy: 1, moe.GateGShard: 2, moe.GateSwitch: 3, moe.GateSwipe: 4, moe.GateTopology: 5,
		moe.GateDC: 6, moe.GateZero: 7, moe.GateExpertChoice: 8, moe.GateSigmoid: 9, moe.GateTokenRounding: 10}
	gateScores  = map[moe.Scores]int32{moe.ScoresSoftmax: 0, moe.ScoresSigmoid: 1, moe.ScoresOne: 2}
	routerTypes = map[onnx.DataType]int32{onnx.Float32: 0, onnx.Float16: 1, onnx.BFloat16: 2}
)

// maxExperts bounds the experts that the kernels of gates and of the dispatch
// have room for.
const maxExperts = 1024

// Numbers of gate.cuh and ranks.cuh.
const (
	gatePiece = 128  // tokens that losses add up at a time
	rankChunk = 1024 // slots that a block ranks
)

// gateParameters are those of all kernels of a gate, laid out as in gate.cuh,
// which says what they are.
type gateParameters struct {
	logits, bias, selection, noises, mask, step                                                 uintptr
	indices, scores, outIndices, outScores, outLogits, auxLoss, zLoss                           uintptr
	changed, chances, norms, sums, counted, counts, rows, keys, marks, partial, weights, totals uintptr
	byScores, byGivenScores, byAuxLoss, byZLoss, byGivenLogits, byLogits, byNoise               uintptr
	capacity, fraction, jitter, scaling                                                         float64
	seed                                                                                        uint64
	tokens, experts, k, slots, kind, scoring, normalize, routerType, byType, random             int32
	groups, topGroups, tile, workers, workersPerNode, layer, sequence, room                     int32
}

// routing is the first half of FMoE, bound to N tokens of width d before T
// experts: the router's products, what the gate decides, and the outputs that
// tell of it. The host learns nothing of the choice.
type routing struct {
	device                          *Device
	call                            *device.Call
	config                          moe.Config
	tokens, d, experts, slots, rows int // slots of a token; most rows of all experts
	training                        bool
	given                           *tensor.Tensor // logits, or nil

	product         onnx.DataType // of what the router's products multiply
	router, noise   func(alpha float32, a, b uintptr, beta float32, y uintptr) error
	widen           *launch[unaryParameters] // tokens to product's type, nil where they have it
	gate            gateParameters
	places          []placed
	steps           []gateStep
	x               place
	indices, scores place // int32 and float32 [N, slots]
}

// placed is a parameter that is the address of a place.
type placed struct {
	to *uintptr
	at place
}

// gateStep is a kernel of a gate.
type gateStep struct {
	*launch[gateParameters]
	room int32
}

// newRouting plans the routing of a call of FMoE. Logits, where they are not
// nil, are what the router gave, bias included; the call is FMoEGradient's then.
func newRouting(d *Device, config moe.Config, c *device.Call, m *layout, logits *tensor.Tensor) (*routing, error) {
	kind, ok := gateKinds[config.Gate]
	if !ok {
		return nil, fmt.Errorf("gate %s is %w by CUDA", config.Gate, device.ErrUnsupported)
	}
	x, weight := c.In[moe.InputX], c.In[moe.InputGateWeight]
	known, err := moe.KindOf(config.Gate)
	if err != nil {
		return nil, err
	}
	r := &routing{device: d, call: c, config: config, given: logits, training: at(c.In, moe.InputStep) != nil}
	r.d, r.experts = x.Shape[x.Rank()-1], weight.Shape[1]
	r.tokens = tensor.Count(x.Shape[:x.Rank()-1])
	if _, err := moe.NewGate(config, r.experts); err != nil {
		return nil, err
	}
	r.slots, r.rows = known.Slots(config, r.experts), config.Rows(r.tokens, r.experts)
	routerType, ok := routerTypes[weight.Type]
	if !ok || config.FirstExpert >= 0 || r.experts > maxExperts || r.d == 0 || r.tokens == 0 || r.tokens > math.MaxInt32/r.experts {
		return nil, errForm
	}
	if mask := at(c.In, moe.InputMask); mask != nil && mask.Len() != r.tokens {
		return nil, errForm
	}
	p := &r.gate
	p.tokens, p.experts, p.k, p.slots, p.kind = int32(r.tokens), int32(r.experts), int32(config.TopK), int32(r.slots), kind
	p.scoring, p.normalize, p.routerType, p.scaling = gateScores[config.Scores], truth(config.Normalize), routerType, config.RoutedScaling
	p.groups, p.topGroups, p.tile = int32(config.Groups), int32(config.TopGroups), int32(config.Tile)
	p.workers, p.workersPerNode, p.fraction = int32(config.Workers), int32(config.WorkersPerNode), config.Fraction
	p.seed, p.layer, p.jitter = uint64(config.Seed), int32(config.Layer), config.Jitter
	p.capacity = config.CapacityEval
	if r.training {
		p.capacity = config.CapacityTrain
	}
	p.sequence = p.tokens
	if config.Gate == moe.GateSigmoid && x.Rank() > 2 {
		p.sequence = int32(x.Shape[x.Rank()-2])
	}
	if err := r.planProducts(m, x.Type, weight.Type); err != nil {
		return nil, err
	}
	r.indices, r.scores = r.take(m, &p.indices, 4*r.tokens*r.slots), r.take(m, &p.scores, 4*r.tokens*r.slots)
	return r, r.planGate(m)
}

func truth(b bool) int32 {
	if b {
		return 1
	}
	return 0
}

// take takes memory for what a parameter is the address of.
func (r *routing) take(m *layout, to *uintptr, bytes int) place {
	at := m.take(bytes)
	r.places = append(r.places, placed{to, at})
	return at
}

// planProducts plans the router's products, whose results are float32. Where
// tokens and its weights have different types, it multiplies in float32.
func (r *routing) planProducts(m *layout, tokens, router onnx.DataType) error {
	if r.product = tokens; tokens != router {
		if r.product = onnx.Float32; router != onnx.Float32 {
			return errForm
		}
	}
	var err error
	plan := func() (func(alpha float32, a, b uintptr, beta float32, y uintptr) error, error) {
		if err := r.widenTokens(m); err != nil {
			return nil, err
		}
		return r.device.product(r.product, onnx.Float32, matrix{rows: r.tokens, columns: r.d}, matrix{rows: r.d, columns: r.experts}, 1)
	}
	bytes := 4 * r.tokens * r.experts
	if r.given == nil {
		if r.router, err = plan(); err != nil {
			return err
		}
		r.take(m, &r.gate.logits, bytes)
	}
	if r.training && at(r.call.In, moe.InputNoiseWeight) != nil {
		if r.noise, err = plan(); err != nil {
			return err
		}
		r.take(m, &r.gate.noises, bytes)
	}
	return nil
}

// widenTokens lets a run convert the tokens to the type that products multiply.
func (r *routing) widenTokens(m *layout) (err error) {
	x := r.call.In[moe.InputX]
	if x.Type == r.product || r.widen != nil {
		return nil
	}
	end, err := ending(x.Type)
	if err != nil {
		return err
	}
	r.x = m.take(4 * x.Len())
	r.widen, err = newUnary(r.device, "Cast"+end+"_f32", x.Len())
	return err
}

// wants reports whether an output of FMoE is wanted, or given is a gradient by
// it, an input of FMoEGradient.
func (r *routing) wants(output, gradient int) bool {
	if r.given == nil {
		return at(r.call.Out, output) != nil
	}
	return at(r.call.In, gradient) != nil
}

// planGate plans the gate's kernels.
func (r *routing) planGate(m *layout) error {
	p, c := &r.gate, r.config
	loss := r.wants(moe.OutputAuxLoss, moe.GradientAuxLoss)
	zLoss := r.wants(moe.OutputZLoss, moe.GradientZLoss)
	var balances, norms, counted bool
	switch c.Gate {
	case moe.GateGShard, moe.GateDC:
		balances, norms, counted = loss, loss, true
		p.random = truth(r.training && c.RandomRouting)
	case moe.GateTopology:
		balances, norms, counted = loss, loss, loss
	case moe.GateSwitch:
		balances, norms = loss, loss
	case moe.GateNoisy:
		balances = loss
	case moe.GateSigmoid:
		balances, counted = loss, loss
	case moe.GateExpertChoice:
		norms = true
	case moe.GateTokenRounding:
		norms = r.training
	}
	each := r.tokens * r.experts
	if r.noise != nil || r.training && c.Gate == moe.GateSwitch && c.Jitter > 0 {
		r.take(m, &p.changed, 8*each)
	}
	if balances && r.noise != nil && c.TopK < r.experts {
		r.take(m, &p.chances, 8*each)
	}
	if norms || zLoss {
		r.take(m, &p.norms, 16*r.tokens)
	}
	if counted {
		r.take(m, &p.counted, 4*r.tokens*c.TopK)
	}
	if balances && c.Gate == moe.GateSigmoid {
		r.take(m, &p.sums, 8*r.tokens)
	}
	if err := r.eachToken("choose", r.experts+c.Groups); err != nil {
		return err
	}
	if err := r.settle(m); err != nil {
		return err
	}
	if !loss && !zLoss {
		return nil
	}
	r.take(m, &p.totals, 8)
	threads := min(256, ceilDiv(r.experts, 32)*32)
	if balances {
		sequences := ceilDiv(r.tokens, int(p.sequence))
		pieces := sequences * ceilDiv(int(p.sequence), gatePiece)
		r.take(m, &p.partial, 8*pieces*2*r.experts)
		r.take(m, &p.weights, 8*max(2, sequences)*r.experts)
		if err := r.add("tally", threads, pieces); err != nil {
			return err
		}
	}
	return r.add("losses", 512, 1)
}

// settle plans what takes all tokens.
func (r *routing) settle(m *layout) error {
	p, c, before := &r.gate, r.config, len(r.steps)
	threads := min(1024, ceilDiv(r.experts, 32)*32)
	var err error
	add := func(name string, threads, blocks int) {
		if err == nil {
			err = r.add(name, threads, blocks)
		}
	}
	switch c.Gate {
	case moe.GateGShard, moe.GateDC, moe.GateSwitch:
		parts := 1
		if c.Gate == moe.GateGShard {
			parts = c.Workers
		}
		chunks := parts * ceilDiv(ceilDiv(r.tokens, parts)*r.slots, rankChunk)
		r.take(m, &p.counts, 4*chunks*r.experts)
		r.take(m, &p.rows, 4*parts)
		add("grant_count", threads, chunks)
		add("grant_rows", threads, parts)
		add("grant", 256, chunks)
		return err
	case moe.GateSwipe:
		if r.training && c.Workers > 1 {
			add("level", 256, 1)
		}
	case moe.GateTopology:
		if c.Workers != c.WorkersPerNode {
			r.take(m, &p.rows, 4*c.Workers)
			r.take(m, &p.keys, 8*r.tokens)
			r.take(m, &p.marks, r.tokens*r.experts)
			add("select_distant", 1024, c.Workers)
		}
	case moe.GateExpertChoice, moe.GateTokenRounding:
		if c.Gate == moe.GateExpertChoice || r.training {
			r.take(m, &p.keys, 8*r.tokens*r.experts)
			r.take(m, &p.marks, r.tokens*r.experts)
			add("select_tokens", 1024, r.experts)
		}
	}
	if err == nil && len(r.steps) > before {
		err = r.eachToken("reweigh", r.experts)
	}
	return err
}

func (r *routing) add(name string, threads, blocks int) error {
	l, err := newLaunch[gateParameters](r.device, name, threads, blocks)
	r.steps = append(r.steps, gateStep{launch: l})
	return err
}

// eachToken adds a kernel that has a warp for each token, with room for so many
// numbers of double precision in shared memory.
func (r *routing) eachToken(name string, room int) error {
	l, err := r.device.tokenLaunch(name, r.tokens, room)
	r.steps = append(r.steps, gateStep{l, int32(room)})
	return err
}

func (d *Device) tokenLaunch(name string, tokens, room int) (*launch[gateParameters], error) {
	warps := max(1, min(4, 48<<10/(8*room)))
	l, err := newLaunch[gateParameters](d, name, 32*warps, ceilDiv(tokens, warps))
	if err != nil {
		return nil, err
	}
	return l, l.share(8 * room * warps)
}

// tokensAt returns where the tokens are that products multiply, once a run has
// begun.
func (r *routing) tokensAt(scratch uintptr) uintptr {
	if r.widen != nil {
		return r.x.in(scratch)
	}
	return address(r.call.In[moe.InputX])
}

// run decides, with scratch memory at an address.
func (r *routing) run(scratch uintptr) error {
	in := func(slot int) uintptr { return address(at(r.call.In, slot)) }
	p := &r.gate
	for _, f := range r.places {
		*f.to = f.at.in(scratch)
	}
	p.selection, p.mask, p.step = in(moe.InputSelectionBias), in(moe.InputMask), in(moe.InputStep)
	if r.widen != nil {
		r.widen.p.x, r.widen.p.y = in(moe.InputX), r.x.in(scratch)
		if err := r.widen.run(); err != nil {
			return err
		}
	}
	if r.given != nil {
		p.logits = address(r.given)
	} else {
		out := func(slot int) uintptr { return address(at(r.call.Out, slot)) }
		p.bias = in(moe.InputGateBias)
		p.outIndices, p.outScores, p.outLogits = out(moe.OutputExpertIndices), out(moe.OutputExpertScores), out(moe.OutputRouterLogits)
		p.auxLoss, p.zLoss = out(moe.OutputAuxLoss), out(moe.OutputZLoss)
		if err := r.router(1, r.tokensAt(scratch), in(moe.InputGateWeight), 0, p.logits); err != nil {
			return err
		}
	}
	if r.noise != nil {
		if err := r.noise(1, r.tokensAt(scratch), in(moe.InputNoiseWeight), 0, p.noises); err != nil {
			return err
		}
	}
	for _, s := range r.steps {
		*s.p = *p
		s.p.room = s.room
		if err := s.run(); err != nil {
			return err
		}
	}
	return nil
}
