package cpu

import (
	"context"
	"errors"

	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/runtime/comm"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// bindShared is [bindFMoEGradient] for workers that compute together. Each
// gives the gradients of the loss of all of them, which is the sum of theirs, by
// its tokens. Those by the router are what its tokens add to them, and those by
// its experts are what the rows that they computed do.
func (r *fmoeGradientRun[T]) bindShared(k *fmoeGradient) (func() error, error) {
	x, err := newRowExchange(&k.fmoe, &r.routing)
	if err != nil {
		return nil, err
	}
	r.most = maxPieceRows
	var parts scratchParts
	r.layRouter(&parts)
	used := sizeIn[T](parts.used)
	r.space = newWorkspace[T](r.device, r.node.Scratch, used, r.workLen())
	router := r.bindRouterGradients(used)
	return func() error {
		r.space.open()
		r.layRouter(&scratchParts{memory: r.node.Scratch.Bytes()})
		r.lookUp()
		losses := []float64{r.gradients.BalanceLoss, r.gradients.ZLoss}
		summed := k.workers.Tokens.AllReduce(context.Background(), comm.Slice(losses), comm.Sum)
		saved, ok := r.device.kept.take(k.rows).(*rowsForGradient[T])
		if !ok {
			return errors.New("there are no rows of the node whose gradient this is; it must run before, once for each gradient")
		}
		defer r.device.memory.give(saved.memory)
		if err := r.route(); err != nil {
			return err
		}
		defer r.release()
		if err := summed.Wait(); err != nil {
			return err
		}
		r.gradients.BalanceLoss, r.gradients.ZLoss = losses[0], losses[1]
		x.count()
		x.plan(saved.borrowed)
		for i, layer := range []*projection[T]{r.back1, r.back2, r.back3} {
			if layer != nil {
				layer.borrow(&saved.weights, moe.InputFC1Weight+2*i)
			}
		}
		r.fc2Bias.borrow(&saved.weights, moe.InputFC2Weight)
		r.sums.of(x.Parts, len(x.Offset)-1)
		r.rows, r.offset, r.rowsOf = x.rows(), x.Offset, x.rowPlaces()
		r.hidden, r.factor, r.inputs = saved.hidden, saved.factor, saved.input
		var shared sharedGradients[T]
		memory := r.device.memory.lay(func(p *scratchParts) { r.layShared(p, x, &shared) })
		defer r.device.memory.give(memory)
		for slot, row := range x.Computed(r.batch.Indices, r.slots, x.ranges) {
			r.scores[row] = T(r.batch.Scores[slot])
		}
		if err := r.runExperts(x, &shared); err != nil {
			return err
		}
		r.device.pool.run(r.tokens, max(1, 1<<14/(r.experts+16*r.slots)), r.differentiate)
		r.sumGateBias()
		for _, product := range router {
			if err := product(); err != nil {
				return err
			}
		}
		if r.out(moe.InputX) != nil {
			r.device.pool.run(r.tokens, max(1, 1<<14/max(1, r.d)), func(lo, hi int) {
				r.addThrough(shared.throughRows, lo, hi)
			})
		}
		return nil
	}, nil
}

// sharedGradients are what experts give for this worker's tokens.
type sharedGradients[T simd.Float] struct {
	places      []T // [places, d]
	throughRows []T // the gradient by the tokens through experts [N, d]
}

// layShared places what a run computes about rows, and about the tokens of all
// workers.
func (r *fmoeGradientRun[T]) layShared(p *scratchParts, x *rowExchange[T], s *sharedGradients[T]) {
	r.layGate(p)
	r.layRows(p, r.rows)
	r.byScore, r.byRow = part[T](p, x.places()), part[T](p, x.places()*r.d)
	r.bySlot, s.throughRows = part[T](p, r.tokens*r.slots), part[T](p, r.tokens*r.d)
	r.sums.packed = part[T](p, r.sums.packedLen(r.rows, min(r.d, r.h)))
	if !x.alone() {
		s.places = part[T](p, x.places()*r.d)
	}
	r.borrowed.lay(p, r.node.Out, len(x.Borrowed))
}

// runExperts computes the gradients by the rows and scores of this worker's
// tokens, and by its experts. It sums over rows while the others are sent back.
func (r *fmoeGradientRun[T]) runExperts(x *rowExchange[T], s *sharedGradients[T]) error {
	lo, hi := r.slice()
	if x.alone() {
		r.inputs = r.x[lo*r.d:]
	}
	if r.dy == nil {
		r.sumOverRows()
		return nil
	}
	var sent []*comm.Handle
	r.byResults, sent = x.send(r.dy, s.places)
	var back []*comm.Handle
	throughHidden := func(lo, hi int) { r.pieces.eachRow(lo, hi, r.throughHidden) }
	for step := range len(sent) + 1 { // the last one is that of borrowed experts
		if step < len(sent) {
			if err := wait(sent[step]); err != nil {
				return err
			}
		}
		r.pieces.segments = x.Segments(step)
		r.eachPiece(r.back2, r.backHidden)
		r.device.pool.run(r.pieces.rows(), max(1, 1<<13/max(1, r.h)), throughHidden)
		if step < len(sent) {
			back = append(back, x.sendBack(step, r.byScore, 1))
		}
		if r.out(moe.InputX) == nil {
			continue
		}
		r.eachPiece(r.back1, r.backRows)
		if step < len(sent) {
			back = append(back, x.sendBack(step, r.byRow, r.d))
		}
	}
	r.sumOverRows()
	back = append(back, x.sumLent(r.node.Out, &r.borrowed)...)
	if err := waitAll(back); err != nil {
		return err
	}
	for i, place := range x.Row {
		score := &r.bySlot[lo*r.slots+i]
		if *score = 0; place >= 0 {
			*score = r.byScore[place]
		}
	}
	if err := r.join(r.bySlot, r.slots); err != nil || r.out(moe.InputX) == nil {
		return err
	}
	r.device.pool.run(hi-lo, max(1, 1<<14/max(1, r.d*r.slots)), func(from, to int) {
		for n := from; n < to; n++ {
			sum := s.throughRows[(lo+n)*r.d:][:r.d]
			clear(sum)
			r.addRows(sum, n)
		}
	})
	return r.join(s.throughRows, r.d)
}

// addThrough adds the gradients through experts, and through the noise, to
// those of tokens through the router.
func (r *fmoeGradientRun[T]) addThrough(rows []T, lo, hi int) {
	dx := tensor.Of[T](r.out(moe.InputX))
	if r.noise != nil {
		simd.Axpy(1, r.throughNoise[lo*r.d:hi*r.d], dx[lo*r.d:])
	}
	if r.dy != nil {
		simd.Axpy(1, rows[lo*r.d:hi*r.d], dx[lo*r.d:])
	}
}
