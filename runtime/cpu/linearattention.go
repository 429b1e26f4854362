package cpu

import (
	"math"

	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	register("", "LinearAttention", floatKernel(bindLinearAttention[float32], bindLinearAttention[float64], 0, 3))
	register("", "CausalConvWithState", floatKernel(bindCausalConv[float32], bindCausalConv[float64], 0))
	register(moe.Domain, "LinearAttentionGradient", floatKernel(bindLinearAttentionGradient[float32], bindLinearAttentionGradient[float64],
		0, 3, op.LinearGradientInput, op.LinearGradientInput+1))
	register(moe.Domain, "CausalConvWithStateGradient", floatKernel(bindCausalConvGradient[float32], bindCausalConvGradient[float64], 0))
}

// linearAttention is the recurrence of a head of keys, whose state S is a matrix
// of keys by values. With decay g, key k, value v and β of a token
//
//	S′ = e^g∘S    e = v − S′ᵀ·k    S = S′ + k⊗β·e    y = scale·Sᵀ·q
//
// where rules without gates have S′ = S, and those without a difference e = v
// and β = 1.
type linearAttention[T simd.Float] struct {
	batch, heads, shared, length int
	size, width                  int // of keys, and of values
	gated, delta                 bool
	scale                        float64
	q, k, v                      headView
	past, decays, betas          *tensor.Tensor
}

func newLinearAttention[T simd.Float](c *device.Call, n *op.Node) (*linearAttention[T], error) {
	s, err := op.LinearAttentionDims(inferenceOf(n, c))
	if err != nil {
		return nil, err
	}
	l := &linearAttention[T]{batch: int(s.Batch), heads: int(s.Heads), shared: int(s.KVHeads), length: int(s.Queries),
		size: int(s.HeadSize), width: int(s.ValueSize), scale: float64(n.Float("scale", 0)),
		past: at(c.In, 3), decays: at(c.In, 4), betas: at(c.In, 5)}
	l.gated, l.delta = op.LinearAttentionRule(n)
	if l.scale == 0 {
		l.scale = 1 / math.Sqrt(float64(l.size))
	}
	l.q, l.k = viewHeads(c.In[0], l.heads, l.length, l.size), viewHeads(c.In[1], l.shared, l.length, l.size)
	l.v = viewHeads(c.In[2], l.shared, l.length, l.width)
	return l, nil
}

// grain is how many heads are a piece of work.
func (l *linearAttention[T]) grain() int {
	return max(1, pieceWork/max(1, l.length*l.size*l.width))
}

// row returns the values at element j of the keys.
func (l *linearAttention[T]) row(state []T, j int) []T { return state[j*l.width:][:l.width] }

// begin sets the state before the first token. Heads are counted over batches.
func (l *linearAttention[T]) begin(state []T, head int) {
	if l.past == nil {
		clear(state)
		return
	}
	copy(state, tensor.Of[T](l.past)[head*l.size*l.width:])
}

// decay lets the state decay before token t.
func (l *linearAttention[T]) decay(state []T, b, h, t int) {
	if !l.gated {
		return
	}
	decay, start, step := gateOf[T](l.decays, b*l.length+t, l.shared, h, l.size)
	for j := range l.size {
		scaleInto(l.row(state, j), l.row(state, j), math.Exp(float64(decay[start+j*step])), 0)
	}
}

// difference computes e of token t from the decayed state, and returns β.
func (l *linearAttention[T]) difference(e, state []T, b, h, t int) (beta T) {
	copy(e, from[T](l.v, b, h, t))
	if !l.delta {
		return 1
	}
	for j, x := range from[T](l.k, b, h, t)[:l.size] {
		simd.Axpy(-x, l.row(state, j), e)
	}
	betas, start, _ := gateOf[T](l.betas, b*l.length+t, l.shared, h, 1)
	return betas[start]
}

// change adds k⊗β·e of token t to the decayed state. It leaves β·e in e.
func (l *linearAttention[T]) change(state, e []T, beta T, b, h, t int) {
	if l.delta {
		scaleInto(e, e, float64(beta), 0)
	}
	for j, x := range from[T](l.k, b, h, t)[:l.size] {
		simd.Axpy(x, e, l.row(state, j))
	}
}

// bindLinearAttention runs the recurrence token by token, in parallel over
// batches and heads of keys.
func bindLinearAttention[T simd.Float](d *Device, c *device.Call, n *op.Node) (func() error, error) {
	l, err := newLinearAttention[T](c, n)
	if err != nil {
		return nil, err
	}
	y := viewHeads(wanted(c, 0, c.In[0].Type, l.batch, l.length, l.heads*l.width), l.heads, l.length, l.width)
	present := wanted(c, 1, c.In[0].Type, l.batch, l.shared, l.size, l.width)
	space := newWorkspace[T](d, c.Scratch, 0, l.width)
	body := func(lo, hi int) {
		number, e := space.take()
		defer space.give(number)
		e = e[:l.width]
		for i := lo; i < hi; i++ {
			b, h := i/l.shared, i%l.shared
			state := tensor.Of[T](present)[i*l.size*l.width:][:l.size*l.width]
			l.begin(state, i)
			for t := range l.length {
				l.decay(state, b, h, t)
				l.change(state, e, l.difference(e, state, b, h, t), b, h, t)
				for g := range l.heads / l.shared {
					head := h*(l.heads/l.shared) + g
					out := from[T](y, b, head, t)[:l.width]
					clear(out)
					for j, x := range from[T](l.q, b, head, t)[:l.size] {
						simd.Axpy(x*T(l.scale), l.row(state, j), out)
					}
				}
			}
		}
	}
	return func() error {
		space.open()
		d.pool.run(l.batch*l.shared, l.grain(), body)
		return nil
	}, nil
}

// linearAttentionGradient goes through the tokens of a head from the last to the
// first with D, the gradient of its state. Where dy is that of a result,
//
//	dq = scale·S·dy    D += scale·q⊗dy    dk = D·β·e − S′·de    de = β·Dᵀ·k
//	dβ = e·Dᵀ·k    dv = de    D −= k⊗de    dg = (D∘S′)·1    D = e^g∘D
//
// States are computed again, from one in every √length tokens.
type linearAttentionGradient[T simd.Float] struct {
	*linearAttention[T]
	dy                     headView // of nothing where it is zero
	dpresent               *tensor.Tensor
	dq, dk, dv             headView
	dpast, ddecays, dbetas *tensor.Tensor
	chunk, chunks          int // tokens in a chunk, and how many of these there are
}

func bindLinearAttentionGradient[T simd.Float](d *Device, c *device.Call, n *op.Node) (func() error, error) {
	l, err := newLinearAttention[T](c, n)
	if err != nil {
		return nil, err
	}
	kind := c.In[0].Type
	heads := func(i, heads, size int) headView {
		return viewHeads(wanted(c, i, kind, l.batch, l.length, heads*size), heads, l.length, size)
	}
	g := &linearAttentionGradient[T]{linearAttention: l,
		dy: viewHeads(at(c.In, op.LinearGradientInput), l.heads, l.length, l.width), dpresent: at(c.In, op.LinearGradientInput+1),
		dq: heads(0, l.heads, l.size), dk: heads(1, l.shared, l.size), dv: heads(2, l.shared, l.width),
		dpast: wanted(c, 3, kind, l.batch, l.shared, l.size, l.width), ddecays: at(c.Out, 4), dbetas: at(c.Out, 5)}
	g.chunk = max(1, int(math.Sqrt(float64(l.length))))
	g.chunks = ceilDiv(l.length, g.chunk)
	area := l.size * l.width
	space := newWorkspace[T](d, c.Scratch, 0, (g.chunks+g.chunk+1)*area+2*l.width)
	body := func(lo, hi int) {
		number, work := space.take()
		defer space.give(number)
		m := linearGradientMemory[T]{state: work[:area]}
		work = work[area:]
		m.starts, work = work[:g.chunks*area], work[g.chunks*area:]
		m.decayed, work = work[:g.chunk*area], work[g.chunk*area:]
		m.e, m.de = work[:l.width], work[l.width:][:l.width]
		for i := lo; i < hi; i++ {
			g.head(i, &m)
		}
	}
	return func() error {
		for _, t := range []*tensor.Tensor{g.ddecays, g.dbetas} {
			if t != nil {
				clear(t.Data)
			}
		}
		space.open()
		d.pool.run(l.batch*l.shared, l.grain(), body)
		return nil
	}, nil
}

// linearGradientMemory is what the gradient of a head is computed in.
type linearGradientMemory[T simd.Float] struct {
	state   []T
	starts  []T // the state before each chunk
	decayed []T // S′ of each token of a chunk
	e, de   []T
}

// head computes the gradients of a head, counted over batches.
func (g *linearAttentionGradient[T]) head(i int, m *linearGradientMemory[T]) {
	b, h, area := i/g.shared, i%g.shared, g.size*g.width
	// forward goes through a chunk, keeping S′ of each token.
	forward := func(chunk int) {
		for t := chunk * g.chunk; t < min((chunk+1)*g.chunk, g.length); t++ {
			g.decay(m.state, b, h, t)
			copy(m.decayed[t%g.chunk*area:][:area], m.state)
			g.change(m.state, m.e, g.difference(m.e, m.state, b, h, t), b, h, t)
		}
	}
	g.begin(m.state, i)
	for chunk := range g.chunks {
		copy(m.starts[chunk*area:], m.state)
		if chunk < g.chunks-1 {
			forward(chunk)
		}
	}
	d := tensor.Of[T](g.dpast)[i*area:][:area]
	clear(d)
	if g.dpresent != nil {
		copy(d, tensor.Of[T](g.dpresent)[i*area:])
	}
	for chunk := g.chunks - 1; chunk >= 0; chunk-- {
		copy(m.state, m.starts[chunk*area:])
		forward(chunk)
		for t := min((chunk+1)*g.chunk, g.length) - 1; t >= chunk*g.chunk; t-- {
			g.token(d, m.decayed[t%g.chunk*area:][:area], m, b, h, t)
		}
	}
}

// token takes the gradient d of the state after token t to that of the state
// before it.
func (g *linearAttentionGradient[T]) token(d, decayed []T, m *linearGradientMemory[T], b, h, t int) {
	key, dkey := from[T](g.k, b, h, t)[:g.size], from[T](g.dk, b, h, t)[:g.size]
	beta := g.difference(m.e, decayed, b, h, t)
	g.results(d, decayed, m.e, beta, b, h, t)
	clear(m.de)
	for j, x := range key {
		simd.Axpy(x, g.row(d, j), m.de)
		dkey[j] = beta * simd.Dot(g.row(d, j), m.e)
	}
	if g.delta {
		if g.dbetas != nil {
			tensor.Of[T](g.dbetas)[(b*g.length+t)*g.shared+h] = simd.Dot(m.e, m.de)
		}
		scaleLine(m.de, beta)
		for j, x := range key {
			dkey[j] -= simd.Dot(g.row(decayed, j), m.de)
			simd.Axpy(-x, m.de, g.row(d, j))
		}
	}
	copy(from[T](g.dv, b, h, t), m.de)
	if !g.gated {
		return
	}
	if g.ddecays != nil {
		ddecay, start, step := gateOf[T](g.ddecays, b*g.length+t, g.shared, h, g.size)
		for j := range g.size {
			ddecay[start+j*step] += simd.Dot(g.row(d, j), g.row(decayed, j))
		}
	}
	g.decay(d, b, h, t)
}

// results computes dq of the queries that read the state after token t, and
// adds what their results contribute to the gradient d of that state.
func (g *linearAttentionGradient[T]) results(d, decayed, e []T, beta T, b, h, t int) {
	key := from[T](g.k, b, h, t)[:g.size]
	for i := range g.heads / g.shared {
		head := h*(g.heads/g.shared) + i
		dquery := from[T](g.dq, b, head, t)[:g.size]
		if g.dy.tensor == nil {
			clear(dquery)
			continue
		}
		dy, query := from[T](g.dy, b, head, t)[:g.width], from[T](g.q, b, head, t)[:g.size]
		change := beta * simd.Dot(e, dy)
		for j, x := range key {
			dquery[j] = T(g.scale) * (simd.Dot(g.row(decayed, j), dy) + x*change)
			simd.Axpy(T(g.scale)*query[j], dy, g.row(d, j))
		}
	}
}

// gateOf returns where a gate's entries for the key elements of a head lie, for
// a token: element j at start + j·step of the list. The gate has an entry for
// each element of each head, for each head, or one for all.
func gateOf[T simd.Float](t *tensor.Tensor, token, heads, head, size int) (list []T, start, step int) {
	width := t.Shape[2]
	list = tensor.Of[T](t)[token*width:][:width]
	switch width {
	case heads:
		return list, head, 0
	case heads * size:
		return list, head * size, 1
	}
	return list, 0, 0
}

// causalConv is a convolution of each channel with what came before it.
type causalConv[T simd.Float] struct {
	channels, length, taps    int
	input, weight, bias, past *tensor.Tensor
	activate                  bool
}

func newCausalConv[T simd.Float](c *device.Call, n *op.Node) *causalConv[T] {
	return &causalConv[T]{channels: c.In[0].Shape[1], length: c.In[0].Shape[2], taps: c.In[1].Shape[2],
		input: c.In[0], weight: c.In[1], bias: at(c.In, 2), past: at(c.In, 3), activate: n.String("activation", "none") != "none"}
}

// of returns the weights of a channel.
func (k *causalConv[T]) of(channel int) []T {
	return tensor.Of[T](k.weight)[channel*k.taps:][:k.taps]
}

// take gives a line, counted over batches and channels, its state and its input.
func (k *causalConv[T]) take(all []T, line int) {
	clear(all[:k.taps-1])
	if k.past != nil {
		copy(all[:k.taps-1], tensor.Of[T](k.past)[line*(k.taps-1):])
	}
	copy(all[k.taps-1:], tensor.Of[T](k.input)[line*k.length:])
}

// convolve computes what the activation takes.
func (k *causalConv[T]) convolve(y, all []T, channel int) {
	start := T(0)
	if k.bias != nil {
		start = tensor.Of[T](k.bias)[channel]
	}
	for j := range y {
		y[j] = start
	}
	for j, w := range k.of(channel) {
		simd.Axpy(w, all[j:j+k.length], y)
	}
}

func bindCausalConv[T simd.Float](d *Device, c *device.Call, n *op.Node) (func() error, error) {
	k := newCausalConv[T](c, n)
	out, state := wanted(c, 0, c.In[0].Type, c.In[0].Shape...), at(c.Out, 1)
	width := k.taps - 1 + k.length
	space := newWorkspace[T](d, c.Scratch, 0, width)
	body := func(lo, hi int) {
		number, work := space.take()
		defer space.give(number)
		all := work[:width] // the state, then the input
		for i := lo; i < hi; i++ {
			k.take(all, i)
			y := tensor.Of[T](out)[i*k.length:][:k.length]
			k.convolve(y, all, i%k.channels)
			if k.activate {
				for j, v := range y {
					y[j] = T(float64(v) / (1 + math.Exp(-float64(v))))
				}
			}
			if state != nil {
				copy(tensor.Of[T](state)[i*(k.taps-1):][:k.taps-1], all[k.length:])
			}
		}
	}
	return func() error {
		space.open()
		d.pool.run(c.In[0].Shape[0]*k.channels, max(1, 4096/max(k.taps*k.length, 1)), body)
		return nil
	}, nil
}

// bindCausalConvGradient goes through the batches of a channel, whose weights
// and bias get the sum over them.
func bindCausalConvGradient[T simd.Float](d *Device, c *device.Call, n *op.Node) (func() error, error) {
	k := newCausalConv[T](c, n)
	batch, kind, kept := c.In[0].Shape[0], c.In[0].Type, k.taps-1
	dy, dstate := at(c.In, op.CausalConvGradientInput), at(c.In, op.CausalConvGradientInput+1)
	dx, dweight := wanted(c, 0, kind, c.In[0].Shape...), wanted(c, 1, kind, c.In[1].Shape...)
	dbias, dpast := wanted(c, 2, kind, k.channels), wanted(c, 3, kind, batch, k.channels, kept)
	width := kept + k.length
	space := newWorkspace[T](d, c.Scratch, 0, 2*width+2*k.length)
	line := func(i int, all, dall, y, g, sums []T) (bias T) {
		channel := i % k.channels
		k.take(all, i)
		clear(dall)
		if dstate != nil {
			addTo(dall[k.length:], tensor.Of[T](dstate)[i*kept:][:kept])
		}
		if dy != nil {
			copy(g, tensor.Of[T](dy)[i*k.length:])
			if k.activate {
				k.convolve(y, all, channel)
				for j, v := range y {
					s := 1 / (1 + math.Exp(-float64(v)))
					g[j] *= T(s * (1 + float64(v)*(1-s)))
				}
			}
			for j, w := range k.of(channel) {
				simd.Axpy(w, g, dall[j:j+k.length])
				sums[j] += simd.Dot(g, all[j:j+k.length])
			}
			bias = simd.Sum(g)
		}
		copy(tensor.Of[T](dpast)[i*kept:][:kept], dall)
		copy(tensor.Of[T](dx)[i*k.length:][:k.length], dall[kept:])
		return bias
	}
	body := func(lo, hi int) {
		number, work := space.take()
		defer space.give(number)
		all, dall := work[:width], work[width:][:width]
		y, g := work[2*width:][:k.length], work[2*width+k.length:][:k.length]
		for channel := lo; channel < hi; channel++ {
			sums, bias := tensor.Of[T](dweight)[channel*k.taps:][:k.taps], T(0)
			clear(sums)
			for b := range batch {
				bias += line(b*k.channels+channel, all, dall, y, g, sums)
			}
			tensor.Of[T](dbias)[channel] = bias
		}
	}
	return func() error {
		space.open()
		d.pool.run(k.channels, max(1, 4096/max(batch*k.taps*k.length, 1)), body)
		return nil
	}, nil
}
