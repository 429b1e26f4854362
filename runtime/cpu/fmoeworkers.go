package cpu

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/comm"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// sharing returns the groups of workers that compute a layer together, nil where
// one is alone and has all experts.
func (d *Device) sharing(config moe.Config) (*comm.Groups, error) {
	switch {
	case config.FirstExpert < 0 && d.workers.Alone():
		return nil, nil
	case d.workers == nil:
		return nil, fmt.Errorf("attribute %s is %d, so that the node is one of several workers' that compute a layer together, but there are none; open the model from which they were made",
			moe.AttributeFirstExpert, config.FirstExpert)
	}
	return d.workers, nil
}

// sharedBatch is the batch of all workers that compute a layer together. Each
// of them lets the gate decide about all tokens, and so decides alike and like
// one process; nobody needs to be told how many rows there are.
type sharedBatch[T simd.Float] struct {
	groups *comm.Groups
	ends   []int // of each worker's tokens in the batch, by rank of groups.Tokens

	// Of a run in progress.
	memory  []byte
	counts  []int64 // [workers, countFields]
	counted *comm.Handle

	bandwidth, speed float64 // of all workers; see [moe.Costs]

	z       []float64    // the sum of the z-loss and what it is divided by
	summedZ *comm.Handle // nil where nobody wants it
}

// What workers tell one another before they share a batch.
const (
	countTokens    = iota
	countSequence  // its length
	countBandwidth // bytes a second that the worker measured, 0 for none
	countSpeed     // floating-point operations, likewise
	countFields
)

// begin returns the place of a worker's first token.
func (s *sharedBatch[T]) begin(worker int) int {
	if worker == 0 {
		return 0
	}
	return s.ends[worker-1]
}

// count starts to ask for the others' numbers of tokens.
func (r *routing[T]) count() {
	s := r.shared
	s.counts = make([]int64, countFields*s.groups.Tokens.Size())
	bandwidth, speed := r.device.meter.read()
	own := []int64{countTokens: int64(r.tokens), countSequence: int64(r.sequence), countBandwidth: int64(bandwidth), countSpeed: int64(speed)}
	s.counted = s.groups.Tokens.AllGather(context.Background(), comm.Slice(own), comm.Slice(s.counts), nil)
}

// share gathers what the gate decides from, and makes the batch.
func (r *routing[T]) share(mask []byte) (logits, noises []T, masks []byte, err error) {
	s, b := r.shared, &r.batch
	if err := s.counted.Wait(); err != nil {
		return nil, nil, nil, err
	}
	s.ends = s.ends[:0]
	b.Tokens, b.Sequence = 0, 0
	s.bandwidth, s.speed = 0, 0
	for i := 0; i < len(s.counts); i += countFields {
		count := s.counts[i:]
		tokens, sequence := int(count[countTokens]), int(count[countSequence])
		// Waiting for others makes a connection look slower than it is.
		s.bandwidth = max(s.bandwidth, float64(count[countBandwidth]))
		s.speed = max(s.speed, float64(count[countSpeed]))
		if tokens > 0 && b.Tokens > 0 && sequence != b.Sequence {
			return nil, nil, nil, fmt.Errorf("worker %d has sequences of %d tokens, those before it of %d; all must have the same length", i/countFields, sequence, b.Sequence)
		}
		if tokens > 0 {
			b.Sequence = sequence
		}
		b.Tokens += tokens
		s.ends = append(s.ends, b.Tokens)
	}
	// Rows are numbered in 32 bits.
	if _, err := tensor.CheckedCount(onnx.Float64, []int{b.Tokens, 8 * (r.experts + r.slots)}); err != nil || b.Tokens > math.MaxInt32/r.slots {
		return nil, nil, nil, fmt.Errorf("%d tokens of all workers are too many for %d experts", b.Tokens, r.experts)
	}
	lay := func(p *scratchParts) {
		r.layBatch(p)
		logits = part[T](p, b.Tokens*r.experts)
		if r.noise != nil {
			noises = part[T](p, b.Tokens*r.experts)
		}
		if mask != nil {
			masks = part[byte](p, b.Tokens)
		}
	}
	s.memory = r.device.memory.lay(lay)
	handles := []*comm.Handle{gatherTokens(s, r.logits, logits, r.experts)}
	if r.noise != nil {
		handles = append(handles, gatherTokens(s, r.noises, noises, r.experts))
	}
	if mask != nil {
		handles = append(handles, gatherTokens(s, mask, masks, 1))
	}
	return logits, noises, masks, comm.Wait(handles...)
}

// gatherTokens gathers what all workers have of each of their tokens.
func gatherTokens[T simd.Float, E tensor.Element](s *sharedBatch[T], own, all []E, width int) *comm.Handle {
	counts := make([]int, len(s.ends))
	for i := range counts {
		counts[i] = (s.ends[i] - s.begin(i)) * width
	}
	return s.groups.Tokens.AllGather(context.Background(), comm.Slice(own), comm.Slice(all), counts)
}

// sumZLoss starts to add up the z-loss over all workers.
func (s *sharedBatch[T]) sumZLoss(sum float64, count int) {
	s.z = []float64{sum, float64(count)}
	s.summedZ = s.groups.Tokens.AllReduce(context.Background(), comm.Slice(s.z), comm.Sum)
}

// setZLoss gives the z-loss of all workers, if somebody wants it.
func (r *routing[T]) setZLoss() error {
	s := r.shared
	if s.summedZ == nil {
		return nil
	}
	err := s.summedZ.Wait()
	s.summedZ = nil
	tensor.Of[T](r.call.Out[moe.OutputZLoss])[0] = T(s.z[0] / max(1, s.z[1]))
	return err
}

// release ends a run.
func (r *routing[T]) release() {
	r.device.memory.give(r.shared.memory)
	r.shared.memory = nil
}

// slice returns those of this worker's tokens that it sends to experts: all but
// those of others along Slice.
func (r *routing[T]) slice() (lo, hi int) {
	g := r.shared.groups.Slice
	return comm.Share(r.tokens, g.Size(), g.Rank())
}

// addsBias reports whether this worker adds fc2_bias to what its part of the
// experts gives: one along Tensor does.
func (r *routing[T]) addsBias() bool {
	return r.shared == nil || r.shared.groups.Tensor.Rank() == 0
}

// join completes what experts gave for this worker's tokens, numbers of the
// given width: it adds up what parts of the experts gave along Tensor, and
// gathers the tokens along Slice.
func (r *routing[T]) join(x []T, width int) error {
	g := r.shared.groups
	lo, hi := r.slice()
	own := x[lo*width : hi*width]
	if g.Tensor.Size() > 1 {
		if err := g.Tensor.AllReduce(context.Background(), comm.Slice(own), comm.Sum).Wait(); err != nil {
			return err
		}
	}
	if g.Slice.Size() == 1 {
		return nil
	}
	counts := make([]int, g.Slice.Size())
	for i := range counts {
		lo, hi := comm.Share(r.tokens, len(counts), i)
		counts[i] = (hi - lo) * width
	}
	return g.Slice.AllGather(context.Background(), comm.Slice(own), comm.Slice(x), counts).Wait()
}

// rowExchange moves rows between the workers that share the experts.
type rowExchange[T simd.Float] struct {
	*moe.Exchange
	*routing[T]
	group    comm.Communicator
	ranges   [][2]int // of the workers' tokens in the batch
	borrowed []int    // experts whose weights travel, by their numbers among all
}

// newRowExchange makes the exchange of a layer. It fails where the node does
// not have the weights of this worker's experts.
func newRowExchange[T simd.Float](k *fmoe, r *routing[T]) (*rowExchange[T], error) {
	group := k.workers.Expert
	workers := group.Size()
	if workers > r.experts {
		return nil, fmt.Errorf("%d workers cannot share %d experts; use at most as many workers along expert, and others along data", workers, r.experts)
	}
	owned := make([]int, workers+1)
	for i := range workers {
		_, owned[i+1] = comm.Share(r.experts, workers, i)
	}
	first, end := owned[group.Rank()], owned[group.Rank()+1]
	if have, from := r.call.In[moe.InputFC1Weight].Shape[0], max(k.config.FirstExpert, 0); have != end-first || from != first {
		return nil, fmt.Errorf("has the weights of %d experts from number %d on; worker %d of %d that share %d experts needs %d from number %d on",
			have, from, group.Rank(), workers, r.experts, end-first, first)
	}
	return &rowExchange[T]{Exchange: moe.NewExchange(owned, group.Rank()), routing: r, group: group, ranges: make([][2]int, workers)}, nil
}

// Rows are exchanged in so many steps at most, and in no more than leave each of
// them so many rows of an expert on average: in every step experts' weights are
// read again.
const (
	exchangeSteps = 5
	exchangeRows  = 64
)

// count counts the rows of what the gate chose.
func (x *rowExchange[T]) count() {
	s := x.shared
	for w := range x.ranges {
		i := s.groups.Data.Rank()*len(x.ranges) + w
		begin := s.begin(i)
		lo, hi := comm.Share(s.ends[i]-begin, s.groups.Slice.Size(), s.groups.Slice.Rank())
		x.ranges[w] = [2]int{begin + lo, begin + hi}
	}
	x.Count(x.batch.Indices, x.slots, x.ranges)
}

// plan plans the exchange of what was counted.
func (x *rowExchange[T]) plan(borrowed []int) {
	x.borrowed = borrowed
	steps := 1
	if !x.shared.groups.NoOverlap {
		steps = min(exchangeSteps, int(x.Load()/exchangeRows))
	}
	x.Plan(x.batch.Indices, x.slots, x.ranges, steps, borrowed)
}

// choose returns the experts that workers should borrow, given the numbers of
// an expert's weights and of its multiplications for a row.
func (x *rowExchange[T]) choose(weights, products int) []int {
	s := x.shared
	if x.alone() || s.groups.NoShadowing {
		return nil
	}
	return x.Borrow(moe.Costs{RowBytes: float64(sizeOf[T](x.d)), ExpertBytes: float64(sizeOf[T](weights)),
		RowWork: 2 * float64(products), Bandwidth: s.bandwidth, Speed: s.speed})
}

// alone reports whether this worker has all experts.
func (x *rowExchange[T]) alone() bool { return x.group.Size() == 1 }

// rows and places count the rows that this worker computes, and the places of
// those and of what it sends.
func (x *rowExchange[T]) rows() int   { return x.Kept + x.Received }
func (x *rowExchange[T]) places() int { return x.Sent + x.rows() }

// rowPlaces returns where inputs and results of rows are: inputs in places too
// unless this worker has all experts, which then read the tokens.
func (x *rowExchange[T]) rowPlaces() rowPlaces {
	if x.alone() {
		return rowPlaces{input: x.Token, slot: x.Row}
	}
	return rowPlaces{input: x.Place, result: x.Place, slot: x.Row}
}

// send puts a row of each token into its places, and starts to send them.
// places is not used, and the tokens returned, where this worker has all
// experts.
func (x *rowExchange[T]) send(tokens, places []T) (inputs []T, sent []*comm.Handle) {
	lo, _ := x.slice()
	tokens = tokens[lo*x.d:]
	sent = make([]*comm.Handle, x.Steps())
	if x.alone() {
		return tokens, sent
	}
	x.device.pool.run(x.Sent+x.Kept, max(1, 1<<14/x.d), func(lo, hi int) {
		for at := lo; at < hi; at++ {
			copy(places[at*x.d:][:x.d], tokens[int(x.Token[at])*x.d:])
		}
	})
	bytes, start := make([]int, len(sent)), time.Now()
	for step := range sent {
		sends, receives := x.Rows(step)
		from, to, into, end := x.Places(step)
		sent[step] = x.exchange(places, x.d, sends, from, to, receives, into, end)
		bytes[step] = sizeOf[T](max(to-from, end-into) * x.d)
	}
	go x.device.meter.watch(sent, bytes, start)
	return places, sent
}

// sendBack starts to send results of a step, of the given width, to where their
// tokens are.
func (x *rowExchange[T]) sendBack(step int, results []T, width int) *comm.Handle {
	sends, receives := x.Rows(step)
	into, end, from, to := x.Places(step)
	return x.exchange(results, width, receives, from, to, sends, into, end)
}

// exchange starts an all-to-all of rows between places.
func (x *rowExchange[T]) exchange(places []T, width int, sends []int, from, to int, receives []int, into, end int) *comm.Handle {
	if x.alone() {
		return nil
	}
	elements := func(rows []int) []int {
		counts := make([]int, len(rows))
		for i, n := range rows {
			counts[i] = n * width
		}
		return counts
	}
	return x.group.AllToAll(context.Background(), comm.Slice(places[from*width:to*width]), elements(sends),
		comm.Slice(places[into*width:end*width]), elements(receives))
}

// wait waits for a call that may be nil.
func wait(h *comm.Handle) error {
	if h == nil {
		return nil
	}
	return h.Wait()
}

// waitAll waits for calls that may be nil.
func waitAll(handles []*comm.Handle) error {
	var list []error
	for _, h := range handles {
		list = append(list, wait(h))
	}
	return errors.Join(list...)
}

// expertsOf are weights of experts, or gradients by them, by slot: those of each
// expert one after the other.
type expertsOf[T simd.Float] [moe.InputFC3Bias + 1][]T

// weightsOf returns the number of elements that one expert has in a slot, 0
// where that is absent.
func weightsOf(in []*tensor.Tensor, slot int) int {
	t := at(in, slot)
	if t == nil || t.Shape[0] == 0 {
		return 0
	}
	return t.Len() / t.Shape[0]
}

// lay places those of a number of experts whose slots are as large as in a
// list of tensors.
func (e *expertsOf[T]) lay(p *scratchParts, like []*tensor.Tensor, experts int) {
	for slot := moe.InputFC1Weight; slot <= moe.InputFC3Bias; slot++ {
		e[slot] = nil
		if n := weightsOf(like, slot); n > 0 && experts > 0 {
			e[slot] = part[T](p, experts*n)
		}
	}
}

// each calls f for the slots of each expert that is borrowed: with the part
// of the own tensors, where this worker lends it, or of those that it borrows.
func (x *rowExchange[T]) each(own []*tensor.Tensor, borrowed *expertsOf[T], f func(owner int, weights []T)) {
	first, i := max(0, x.first()), 0
	for _, e := range x.borrowed {
		owner := x.Owner(e)
		for slot := moe.InputFC1Weight; slot <= moe.InputFC3Bias; slot++ {
			n := weightsOf(own, slot)
			switch {
			case n == 0:
			case owner == x.group.Rank():
				f(owner, tensor.Of[T](own[slot])[(e-first)*n:][:n])
			default:
				f(owner, borrowed[slot][i*n:][:n])
			}
		}
		if owner != x.group.Rank() {
			i++
		}
	}
}

// first returns the number of the first own expert.
func (x *rowExchange[T]) first() int {
	first, _ := comm.Share(x.experts, x.group.Size(), x.group.Rank())
	return first
}

// lend starts to send the weights of borrowed experts.
func (x *rowExchange[T]) lend(own []*tensor.Tensor, borrowed *expertsOf[T]) (handles []*comm.Handle) {
	x.each(own, borrowed, func(owner int, weights []T) {
		handles = append(handles, x.group.Broadcast(context.Background(), comm.Slice(weights), owner))
	})
	return handles
}

// sumLent starts to add up the gradients by borrowed experts for their owners.
func (x *rowExchange[T]) sumLent(own []*tensor.Tensor, borrowed *expertsOf[T]) (handles []*comm.Handle) {
	x.each(own, borrowed, func(_ int, weights []T) {
		handles = append(handles, x.group.AllReduce(context.Background(), comm.Slice(weights), comm.Sum))
	})
	return handles
}

// rowsForGradient is what FMoE keeps for its gradient where workers compute together.
type rowsForGradient[T simd.Float] struct {
	memory         []byte
	input          []T // [places, d], nil where those are the tokens
	hidden, factor []T // [rows, h]
	borrowed       []int
	weights        expertsOf[T] // of the borrowed experts of other workers
}

// bindShared is [bindFMoE] for workers that compute together.
func (r *fmoeRun[T]) bindShared(k *fmoe) (func() error, error) {
	c := r.call
	x, err := newRowExchange(k, &r.routing)
	if err != nil {
		return nil, err
	}
	if !r.addsBias() {
		r.fc2.bias = nil
	}
	r.rows = maxPieceRows
	var parts scratchParts
	r.routing.lay(&parts)
	r.space = newWorkspace[T](r.device, c.Scratch, sizeIn[T](parts.used), r.workLen())
	keeps := at(c.Out, moe.OutputHidden) != nil
	products := r.d * r.h * 2
	if r.fc3 != nil {
		products += r.d * r.h
	}
	weights := 0
	for slot := moe.InputFC1Weight; slot <= moe.InputFC3Bias; slot++ {
		weights += weightsOf(c.In, slot)
	}
	return func() error {
		r.space.open()
		r.routing.lay(&scratchParts{memory: c.Scratch.Bytes()})
		if err := r.route(); err != nil {
			return err
		}
		defer r.release()
		x.count()
		saved := &rowsForGradient[T]{}
		if !r.fc1.ready() { // packed weights are not those of a tensor
			saved.borrowed = x.choose(weights, products)
		}
		x.plan(saved.borrowed)
		if keeps {
			saved.memory = r.device.memory.lay(func(p *scratchParts) { r.layKept(p, x, saved) })
			r.kept, r.factors = saved.hidden, saved.factor
			r.device.kept.put(&r.device.memory, k.rows, saved.memory, saved)
		}
		memory := r.device.memory.lay(func(p *scratchParts) { r.layShared(p, x, saved, keeps) })
		defer r.device.memory.give(memory)
		return r.runShared(x, saved, 2*products)
	}, nil
}

// layKept places what is kept for the gradient.
func (r *fmoeRun[T]) layKept(p *scratchParts, x *rowExchange[T], saved *rowsForGradient[T]) {
	saved.hidden = part[T](p, x.rows()*r.h)
	if r.fc3 != nil {
		saved.factor = part[T](p, x.rows()*r.h)
	}
	r.layInputs(p, x, saved)
}

// layShared places what a run needs beside.
func (r *fmoeRun[T]) layShared(p *scratchParts, x *rowExchange[T], saved *rowsForGradient[T], keeps bool) {
	if !keeps {
		r.layInputs(p, x, saved)
	}
	r.hidden, r.result = part[T](p, x.rows()*r.h), part[T](p, x.places()*r.d)
}

// layInputs places what other workers send.
func (r *fmoeRun[T]) layInputs(p *scratchParts, x *rowExchange[T], saved *rowsForGradient[T]) {
	if !x.alone() {
		saved.input = part[T](p, x.places()*r.d)
		saved.weights.lay(p, r.call.In, len(x.Borrowed))
	}
}

// runShared computes the rows of each step when they are there, while those of
// others are under way, and sends back their results. work is the number of
// operations for a row.
func (r *fmoeRun[T]) runShared(x *rowExchange[T], saved *rowsForGradient[T], work int) error {
	var sent []*comm.Handle
	r.rowsOf = x.rowPlaces()
	r.input, sent = x.send(r.x, saved.input)
	lent := x.lend(r.call.In, &saved.weights)
	back := make([]*comm.Handle, len(sent))
	compute := func(step int) {
		start := time.Now()
		r.pieces.segments = x.Segments(step)
		r.eachPiece(r.fc1, r.project)
		r.eachPiece(r.fc2, r.projectBack)
		r.device.meter.computed(r.pieces.rows()*work, time.Since(start))
	}
	for step := range sent {
		if err := wait(sent[step]); err != nil {
			return err
		}
		compute(step)
		back[step] = x.sendBack(step, r.result, r.d)
	}
	if len(lent) > 0 {
		if err := waitAll(lent); err != nil {
			return err
		}
		for i, layer := range []*projection[T]{r.fc1, r.fc2, r.fc3} {
			if layer != nil {
				layer.borrow(&saved.weights, moe.InputFC1Weight+2*i)
			}
		}
		compute(len(sent))
	}
	if err := waitAll(back); err != nil {
		return err
	}
	lo, hi := r.slice()
	r.first, r.y = lo, tensor.Of[T](r.call.Out[moe.OutputY])
	r.device.pool.run(hi-lo, max(1, 1<<14/max(1, r.d*r.slots)), r.combine)
	if err := r.join(r.y, r.d); err != nil {
		return err
	}
	return r.setZLoss()
}
