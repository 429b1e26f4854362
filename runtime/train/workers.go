package train

import (
	"cmp"
	"context"
	"math"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/comm"
	"github.com/fmoe-go/fmoe/runtime/tensor"
	"github.com/fmoe-go/fmoe/runtime/train/report"
)

// bucketBytes is about how much of the gradients is reduced in one call.
const bucketBytes = 16 << 20

// sum adds up numbers over all workers that have different tokens.
func sum[T float64 | int64](ctx context.Context, o *Options, numbers ...*T) error {
	if o.Workers.Alone() {
		return nil
	}
	return sumOver(ctx, o.Workers.Tokens, numbers...)
}

// sumOver adds up numbers over a group.
func sumOver[T float64 | int64](ctx context.Context, group comm.Communicator, numbers ...*T) error {
	x := make([]T, len(numbers))
	for i, n := range numbers {
		x[i] = *n
	}
	err := group.AllReduce(ctx, comm.Slice(x), comm.Sum).Wait()
	for i, n := range numbers {
		*n = x[i]
	}
	return err
}

// sum adds up what the workers read. Rows of experts are those of all workers
// already.
func (s *Step) sum(ctx context.Context, o *Options) error {
	numbers := []*float64{(*float64)(&s.Loss)}
	counts := []*int64{&s.Labels, &s.Correct}
	for i := range s.Layers {
		l := &s.Layers[i]
		numbers = append(numbers, (*float64)(&l.BalanceLoss), (*float64)(&l.ZLoss))
		counts = append(counts, &s.slots[i])
	}
	if err := sum(ctx, o, numbers...); err != nil {
		return err
	}
	return sum(ctx, o, counts...)
}

// sumEvaluation adds up what the workers measured.
func sumEvaluation(ctx context.Context, o *Options, loss, weight *float64, e *report.Evaluation) error {
	if err := sum(ctx, o, loss, weight); err != nil {
		return err
	}
	return sum(ctx, o, &e.Tokens)
}

// reduction is the gradients of parameters of one type that one group of
// workers has in common: those of experts among the workers that have the same
// ones, all others among the workers that have different tokens. Where the
// state of the optimizer is divided among the group (ZeRO stage 1, arXiv
// 1910.02054), each worker updates whole parameters, which lie one after the
// other by worker.
type reduction struct {
	group   comm.Communicator
	experts bool
	divided bool
	members []*parameter
	counts  []int          // elements by worker, where divided
	all     *tensor.Tensor // of the gradients, and where divided of weights too
	mine    *tensor.Tensor // the sums of what this worker updates
}

// reductions groups the parameters, and decides which worker updates which.
func (t *Trainer) reductions() []*reduction {
	o := &t.options
	var list []*reduction
	for _, p := range t.parameters {
		if p.gradient < 0 {
			continue
		}
		kind := onnx.Float32
		if p.weight.Type == onnx.Float64 {
			kind = onnx.Float64
		}
		i := slices.IndexFunc(list, func(r *reduction) bool { return r.experts == p.expert && r.all.Type == kind })
		if i < 0 {
			r := &reduction{experts: p.expert, divided: o.ShardOptimizer, all: &tensor.Tensor{Type: kind}, group: o.Workers.Tokens}
			if p.expert {
				r.group = o.Workers.Replicas
			}
			i, list = len(list), append(list, r)
		}
		list[i].members = append(list[i].members, p)
	}
	for _, r := range list {
		r.share()
	}
	return list
}

// share gives each parameter, the largest first, to the worker with the fewest
// elements so far.
func (r *reduction) share() {
	r.divided = r.divided && r.group.Size() > 1
	r.counts = make([]int, r.group.Size())
	if r.divided {
		slices.SortStableFunc(r.members, func(a, b *parameter) int { return cmp.Compare(b.weight.Len(), a.weight.Len()) })
		for _, p := range r.members {
			p.owner = slices.Index(r.counts, slices.Min(r.counts))
			r.counts[p.owner] += p.weight.Len()
			p.elsewhere = p.owner != r.group.Rank()
		}
		slices.SortStableFunc(r.members, func(a, b *parameter) int { return cmp.Compare(a.owner, b.owner) })
	}
	n := 0
	for _, p := range r.members {
		n += p.weight.Len()
	}
	if r.group.Size() == 1 {
		return
	}
	r.all = tensor.New(r.all.Type, n)
	if r.divided {
		r.mine = tensor.New(r.all.Type, r.counts[r.group.Rank()])
	}
}

// eachPart calls f with each parameter and the elements of a tensor that are its
// own. Where only is set, the tensor has those that this worker updates.
func (r *reduction) eachPart(of *tensor.Tensor, only bool, f func(p *parameter, part *tensor.Tensor)) {
	at, width := 0, of.Type.Bits()/8
	for _, p := range r.members {
		if only && p.elsewhere {
			continue
		}
		n := p.weight.Len() * width
		f(p, &tensor.Tensor{Type: of.Type, Shape: p.Shape, Data: of.Data[at : at+n]})
		at += n
	}
}

// start begins to sum the gradients, which replaces them when it is done. Those
// that another worker updates become nil.
func (r *reduction) start(ctx context.Context) []*comm.Handle {
	if r.group.Size() == 1 {
		return nil
	}
	r.eachPart(r.all, false, func(p *parameter, part *tensor.Tensor) {
		copy(part.Data, p.summed.Data)
		if !r.divided {
			p.summed = part
		}
	})
	if r.divided {
		r.eachPart(r.mine, true, func(p *parameter, part *tensor.Tensor) { p.summed = part })
		return []*comm.Handle{r.group.ReduceScatter(ctx, comm.Of(r.all), comm.Of(r.mine), r.counts, comm.Sum)}
	}
	var buckets []*comm.Handle
	size := max(bucketBytes, len(r.all.Data)/(comm.Window/4)/8*8)
	for lo := 0; lo < len(r.all.Data); lo += size {
		bucket := comm.Buffer{Type: r.all.Type, Data: r.all.Data[lo:min(lo+size, len(r.all.Data))]}
		buckets = append(buckets, r.group.AllReduce(ctx, bucket, comm.Sum))
	}
	return buckets
}

// spread gives all workers the weights that one of them has updated.
func (r *reduction) spread(ctx context.Context) error {
	if !r.divided {
		return nil
	}
	at := 0
	for _, n := range r.counts[:r.group.Rank()] {
		at += n
	}
	width := r.all.Type.Bits() / 8
	own := &tensor.Tensor{Type: r.all.Type, Shape: r.mine.Shape, Data: r.all.Data[at*width:][:len(r.mine.Data)]}
	r.eachPart(own, true, func(p *parameter, part *tensor.Tensor) { copy(part.Data, p.wide().Data) })
	if err := r.group.AllGather(ctx, comm.Of(own), comm.Of(r.all), r.counts).Wait(); err != nil {
		return err
	}
	r.eachPart(r.all, false, func(p *parameter, part *tensor.Tensor) {
		if p.elsewhere {
			tensor.ConvertFloat(p.weight, part)
		}
	})
	return nil
}

// sumGradients replaces the gradients by their sums over the workers that have
// the same parameters, which have the same bits on each.
func (t *Trainer) sumGradients(ctx context.Context) error {
	var handles []*comm.Handle
	for _, r := range t.shared {
		handles = append(handles, r.start(ctx)...)
	}
	if err := comm.Wait(handles...); err != nil {
		return err
	}
	return t.sumShared(ctx)
}

// spreadWeights gives all workers the weights that others have updated.
func (t *Trainer) spreadWeights(ctx context.Context) error {
	for _, r := range t.shared {
		if err := r.spread(ctx); err != nil {
			return err
		}
	}
	return nil
}

// norm returns the norm of all gradients together, which count once however
// many workers have them, and the name of a parameter whose gradient is not
// finite.
func (t *Trainer) norm(ctx context.Context) (norm float64, infinite string, err error) {
	gradients := make([]*tensor.Tensor, len(t.parameters))
	for i, p := range t.parameters {
		if !p.elsewhere && t.pipeline.counts(p.Name) {
			gradients[i] = p.summed
		}
	}
	var dense, experts float64
	sums, err := t.squares(ctx, gradients)
	if err != nil {
		return 0, "", err
	}
	for i, x := range sums {
		p := t.parameters[i]
		if infinite == "" && (math.IsNaN(x) || math.IsInf(x, 0)) {
			infinite = p.Name
		}
		switch {
		case !p.expert:
			dense += x
		case !p.undivided || t.options.Workers.Alone() || t.options.Workers.Tensor.Rank() == 0:
			experts += x
		}
	}
	if w := t.options.Workers; !w.Alone() {
		if err := t.sumSquares(ctx, w, &dense, &experts); err != nil {
			return 0, "", err
		}
	}
	norm = math.Sqrt(dense + experts)
	if !t.options.Workers.Alone() && (math.IsNaN(norm) || math.IsInf(norm, 0)) {
		names, err := comm.Gather(ctx, t.options.Workers.World, infinite)
		if err != nil {
			return 0, "", err
		}
		infinite = cmp.Or(append(names, "the sum of squares")...)
	}
	return norm, infinite, nil
}

// sumSquares adds up the squares that workers have of different gradients.
func (t *Trainer) sumSquares(ctx context.Context, w *comm.Groups, dense, experts *float64) error {
	for _, of := range []*float64{dense, experts} {
		i := slices.IndexFunc(t.shared, func(r *reduction) bool { return r.divided && r.experts == (of == experts) })
		if i < 0 {
			continue
		}
		if err := sumOver(ctx, t.shared[i].group, of); err != nil {
			return err
		}
	}
	if err := sumOver(ctx, w.Owners, experts); err != nil {
		return err
	}
	return sumOver(ctx, w.Pipeline, dense, experts)
}
