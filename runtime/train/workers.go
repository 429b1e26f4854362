package train

import (
	"context"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/comm"
	"github.com/fmoe-go/fmoe/runtime/tensor"
	"github.com/fmoe-go/fmoe/runtime/train/report"
)

// bucketBytes is about how much of the gradients is reduced in one call.
const bucketBytes = 16 << 20

// rank returns the number of this worker.
func (o *Options) rank() int {
	if o.Communicator == nil {
		return 0
	}
	return o.Communicator.Rank()
}

// alone reports whether there are no other workers.
func (o *Options) alone() bool { return o.Communicator == nil || o.Communicator.Size() == 1 }

// sum adds up numbers over all workers.
func sum[T float64 | int64](ctx context.Context, o *Options, numbers ...*T) error {
	if o.alone() {
		return nil
	}
	x := make([]T, len(numbers))
	for i, n := range numbers {
		x[i] = *n
	}
	err := o.Communicator.AllReduce(ctx, comm.Slice(x), comm.Sum).Wait()
	for i, n := range numbers {
		*n = x[i]
	}
	return err
}

// sum adds up what the workers read.
func (s *Step) sum(ctx context.Context, o *Options) error {
	numbers := []*float64{(*float64)(&s.Loss)}
	counts := []*int64{&s.Labels, &s.Correct}
	for i := range s.Layers {
		l := &s.Layers[i]
		numbers = append(numbers, (*float64)(&l.BalanceLoss), (*float64)(&l.ZLoss))
		counts = append(counts, &s.slots[i])
		for e := range s.rows[i] {
			counts = append(counts, &s.rows[i][e])
		}
	}
	if err := sum(ctx, o, numbers...); err != nil {
		return err
	}
	return sum(ctx, o, counts...)
}

// gradients is memory for those of all parameters, one after the other.
type gradients struct {
	all []*tensor.Tensor // of float32 and of float64
	of  []*tensor.Tensor // by parameter: parts of all
}

func newGradients(list []*tensor.Tensor) *gradients {
	g := &gradients{of: make([]*tensor.Tensor, len(list))}
	for _, t := range []onnx.DataType{onnx.Float32, onnx.Float64} {
		n := 0
		for _, x := range list {
			if x != nil && x.Type == t {
				n += x.Len()
			}
		}
		all := tensor.New(t, n)
		at := 0
		for i, x := range list {
			if x != nil && x.Type == t {
				g.of[i] = &tensor.Tensor{Type: t, Shape: x.Shape, Data: all.Data[at : at+len(x.Data)]}
				at += len(x.Data)
			}
		}
		g.all = append(g.all, all)
	}
	return g
}

// sumGradients replaces gradients by their sums over all workers, which have
// the same bits on each.
func (t *Trainer) sumGradients(ctx context.Context, list []*tensor.Tensor) error {
	if t.options.alone() {
		return nil
	}
	if t.sums == nil {
		t.sums = newGradients(list)
	}
	for i, g := range list {
		if g != nil {
			copy(t.sums.of[i].Data, g.Data)
			list[i] = t.sums.of[i]
		}
	}
	var buckets []*comm.Handle
	for _, all := range t.sums.all {
		size := max(bucketBytes, len(all.Data)/(comm.Window/4)/8*8)
		for lo := 0; lo < len(all.Data); lo += size {
			bucket := comm.Buffer{Type: all.Type, Data: all.Data[lo:min(lo+size, len(all.Data))]}
			buckets = append(buckets, t.options.Communicator.AllReduce(ctx, bucket, comm.Sum))
		}
	}
	return comm.Wait(buckets...)
}

// sumEvaluation adds up what the workers measured.
func sumEvaluation(ctx context.Context, o *Options, loss, weight *float64, e *report.Evaluation) error {
	if err := sum(ctx, o, loss, weight); err != nil {
		return err
	}
	return sum(ctx, o, &e.Tokens)
}
