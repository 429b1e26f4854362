package train

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/comm"
	"github.com/fmoe-go/fmoe/runtime/tensor"
	"github.com/fmoe-go/fmoe/runtime/train/report"
)

// pipeline is what a worker does as a stage of several: batches pass through
// one stage after the other, and their gradients back, each stage at another
// batch (1F1B, arXiv 2006.09503). What a stage keeps of a batch until its
// gradients arrive is what it got; the backward pass computes the rest again.
type pipeline struct {
	*stage
	group   comm.Communicator
	forward *passage // nil in the last stage, whose forward pass is a part of the backward one
	in      []int    // where among the trainer's inputs those from the stage before are
	back    []int    // where the gradients are that the stage behind sends
	share   *tensor.Tensor
	pending []*comm.Handle
	before  int // FMoE layers in the stages before
}

// passage is a session that computes what a stage sends on.
type passage struct {
	session *runtime.Session
	runner  *runtime.Runner
	inputs  []*tensor.Tensor
	feeds   []feed
	in      []int
}

func (s *stage) isFirst() bool { return s == nil || s.rank == 0 }
func (s *stage) isLast() bool  { return s == nil || s.rank == s.size-1 }

// has reports whether a value comes from the stage before.
func (s *stage) has(name string) bool {
	return s != nil && slices.ContainsFunc(s.in, func(v *onnx.ValueInfo) bool { return v.Name == name })
}

// differentiable lists those values that have gradients.
func differentiable(list []*onnx.ValueInfo) (names []string) {
	for _, v := range list {
		if v.Type.ElemType.IsFloat() {
			names = append(names, v.Name)
		}
	}
	return names
}

// addStage adds, as the loss of a stage that is not the last one, a number whose
// gradients are those of the whole loss: the products of what it sends with the
// gradients of that, and the losses of its routers.
func (o *objective) addStage(b *builder, l Loss, s *stage) {
	t := onnx.Float32
	if s.out[0].Type.ElemType == onnx.Float64 {
		t = onnx.Float64
	}
	cast := func(v string) string {
		return b.add(&onnx.Node{OpType: "Cast", Attributes: []*onnx.Attribute{onnx.IntAttribute("to", int64(t))}}, 1, v)[0]
	}
	add := func(v string) {
		if o.total == "" {
			o.total = v
		} else {
			o.total = b.op("Add", o.total, v)
		}
	}
	for _, v := range s.out {
		if !v.Type.ElemType.IsFloat() {
			continue
		}
		gradient := b.input(v.Name+"/from_behind", v.Type.ElemType, rankOf(v))
		o.back = append(o.back, gradient)
		sum := &onnx.Node{OpType: "ReduceSum", Attributes: []*onnx.Attribute{onnx.IntAttribute("keepdims", 0)}}
		add(b.add(sum, 1, b.op("Mul", cast(v.Name), cast(gradient)))[0])
	}
	if len(o.layers) > 0 && l.Balance+l.RouterZ > 0 {
		o.share = b.input("share", t, []int64{})
		for _, x := range o.layers {
			if l.Balance > 0 {
				add(b.op("Mul", b.op("Mul", cast(x.balance), b.number(t, l.Balance)), o.share))
			}
			if l.RouterZ > 0 {
				add(b.op("Mul", b.op("Mul", cast(x.z), b.number(t, l.RouterZ)), o.share))
			}
		}
	}
	b.output(o.total)
}

// newPassage compiles the forward pass of a stage.
func newPassage(o *objective, s *stage, options runtime.Options, fixed map[string]*tensor.Tensor) (*passage, error) {
	options.Gradient = nil
	p := &passage{}
	var err error
	if p.session, err = runtime.New(o.forward, options); err != nil {
		return nil, err
	}
	p.runner = p.session.NewRunner()
	p.inputs, p.feeds = connected(p.session, fixed)
	p.in = s.among(p.session)
	return p, nil
}

// among returns where among a session's inputs those are that the stage before
// sends, −1 for one that it does not need.
func (s *stage) among(session *runtime.Session) []int {
	list := make([]int, len(s.in))
	for i, v := range s.in {
		list[i] = slices.IndexFunc(session.Inputs(), func(x *onnx.ValueInfo) bool { return x.Name == v.Name })
	}
	return list
}

// put places values among inputs.
func put(inputs []*tensor.Tensor, at []int, values []*tensor.Tensor) {
	for i, v := range values {
		if at[i] >= 0 {
			inputs[at[i]] = v
		}
	}
}

// run computes what the stage sends on of a batch.
func (p *passage) run(ctx context.Context, o *objective, batch Batch, in []*tensor.Tensor) ([]*tensor.Tensor, error) {
	if err := o.supply(p.inputs, p.feeds, batch); err != nil {
		return nil, err
	}
	put(p.inputs, p.in, in)
	return p.runner.Run(ctx, p.inputs)
}

// maxRank is the largest rank of what stages send.
const maxRank = 8

// send begins to send copies of tensors to another stage.
func (p *pipeline) send(ctx context.Context, to int, list []*tensor.Tensor) error {
	for _, t := range list {
		if len(t.Shape) > maxRank {
			return fmt.Errorf("a pipeline stage sends %s; it must have at most %d dimensions", t, maxRank)
		}
		head := make([]int64, 2+maxRank)
		head[0], head[1] = int64(t.Type), int64(len(t.Shape))
		for i, d := range t.Shape {
			head[2+i] = int64(d)
		}
		p.pending = append(p.pending, p.group.Send(ctx, comm.Slice(head), to),
			p.group.Send(ctx, comm.Buffer{Type: t.Type, Data: slices.Clone(t.Data)}, to))
	}
	if n := len(p.pending) - comm.Window/4; n > 0 {
		err := comm.Wait(p.pending[:n]...)
		p.pending = slices.Delete(p.pending, 0, n)
		return err
	}
	return nil
}

// receive returns what another stage sends.
func (p *pipeline) receive(ctx context.Context, from, n int) ([]*tensor.Tensor, error) {
	list := make([]*tensor.Tensor, n)
	for i := range list {
		head := make([]int64, 2+maxRank)
		if err := p.group.Receive(ctx, comm.Slice(head), from).Wait(); err != nil {
			return nil, err
		}
		shape := make([]int, head[1])
		for axis := range shape {
			shape[axis] = int(head[2+axis])
		}
		list[i] = tensor.New(onnx.DataType(head[0]), shape...)
		if err := p.group.Receive(ctx, comm.Of(list[i]), from).Wait(); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// arrive returns what the stage before sends of a batch.
func (p *pipeline) arrive(ctx context.Context) ([]*tensor.Tensor, error) {
	if p.isFirst() {
		return nil, nil
	}
	return p.receive(ctx, p.rank-1, len(p.in))
}

// settle waits until the others have what was sent.
func (p *pipeline) settle() error {
	err := comm.Wait(p.pending...)
	p.pending = nil
	return err
}

// openPipeline prepares a stage, when its session is there.
func (t *Trainer) openPipeline(fixed map[string]*tensor.Tensor) (err error) {
	p := t.pipeline
	p.in = p.among(t.session)
	for _, name := range t.objective.back {
		p.back = append(p.back, slices.IndexFunc(t.session.Inputs(), func(x *onnx.ValueInfo) bool { return x.Name == name }))
	}
	if !p.isLast() {
		p.forward, err = newPassage(t.objective, p.stage, t.options.sessions(), fixed)
	}
	return err
}

// runStage computes the gradients of all batches as a stage.
func (t *Trainer) runStage(ctx context.Context, s *Step, batches []Batch, shares []float64) (out []*tensor.Tensor, err error) {
	p := t.pipeline
	kept := make([][]*tensor.Tensor, len(batches))
	forward := func(i int) error {
		in, err := p.arrive(ctx)
		if err != nil {
			return err
		}
		kept[i] = in
		if p.isLast() {
			return nil
		}
		out, err := p.forward.run(ctx, t.objective, batches[i], in)
		if err != nil {
			return err
		}
		return p.send(ctx, p.rank+1, out)
	}
	warm := min(p.size-1-p.rank, len(batches))
	for i := range warm {
		if err := forward(i); err != nil {
			return nil, err
		}
	}
	for i := range batches {
		if warm+i < len(batches) {
			if err := forward(warm + i); err != nil {
				return nil, err
			}
		}
		if out, err = t.runBack(ctx, s, batches[i], kept[i], shares[i]); err != nil {
			return nil, err
		}
		kept[i] = nil
		if len(batches) > 1 {
			if err := t.accumulate(out, i == 0); err != nil {
				return nil, err
			}
		}
	}
	return out, p.settle()
}

// runBack computes the gradients of a batch, and sends those of what the stage
// got.
func (t *Trainer) runBack(ctx context.Context, s *Step, batch Batch, in []*tensor.Tensor, share float64) ([]*tensor.Tensor, error) {
	p := t.pipeline
	if err := t.objective.supply(t.inputs, t.feeds, batch); err != nil {
		return nil, err
	}
	put(t.inputs, p.in, in)
	scale := share
	if !p.isLast() {
		back, err := p.receive(ctx, p.rank+1, len(p.back))
		if err != nil {
			return nil, err
		}
		put(t.inputs, p.back, back)
		scale = 1
		if p.share != nil {
			tensor.ConvertFloat(p.share, tensor.Scalar(share))
		}
	}
	tensor.ConvertFloat(t.scale, tensor.Scalar(scale))
	out, err := t.runner.Run(ctx, t.inputs)
	if err != nil {
		return nil, err
	}
	if err := t.objective.read(s, out, t.at, share); err != nil {
		return nil, err
	}
	if p.isFirst() {
		return out, nil
	}
	var gradients []*tensor.Tensor
	for _, name := range differentiable(p.stage.in) {
		at, ok := t.at[runtime.GradientName(name)]
		if !ok {
			return nil, fmt.Errorf("the loss does not depend on %q, which a pipeline stage sends", name)
		}
		gradients = append(gradients, out[at])
	}
	return out, p.send(ctx, p.rank-1, gradients)
}

// stageRecord is what a stage knows of a step. Numbers travel as bits, since
// they need not be finite.
type stageRecord struct {
	Loss            uint64
	Labels, Correct int64
	Names           []string
	Losses          [][2]uint64 // of balance and z
	Rows            [][]int64
	Slots           []int64
}

// merge completes what a stage knows of a step by what the others do.
func (p *pipeline) merge(ctx context.Context, s *Step) error {
	mine := stageRecord{Loss: math.Float64bits(float64(s.Loss)), Labels: s.Labels, Correct: s.Correct, Rows: s.rows, Slots: s.slots}
	for _, l := range s.Layers {
		mine.Names = append(mine.Names, l.Name)
		mine.Losses = append(mine.Losses, [2]uint64{math.Float64bits(float64(l.BalanceLoss)), math.Float64bits(float64(l.ZLoss))})
	}
	all, err := comm.Gather(ctx, p.group, mine)
	if err != nil {
		return err
	}
	s.Layers, s.rows, s.slots = nil, nil, nil
	for rank, r := range all {
		if rank == p.rank {
			p.before = len(s.Layers)
		}
		for i, name := range r.Names {
			l := report.Layer{Name: name, BalanceLoss: report.Number(math.Float64frombits(r.Losses[i][0])), ZLoss: report.Number(math.Float64frombits(r.Losses[i][1]))}
			s.Layers = append(s.Layers, l)
		}
		s.rows, s.slots = append(s.rows, r.Rows...), append(s.slots, r.Slots...)
	}
	last := all[len(all)-1]
	s.Loss, s.Labels, s.Correct = report.Number(math.Float64frombits(last.Loss)), last.Labels, last.Correct
	return nil
}

// sumShared sums the gradients of parameters that several stages have.
func (t *Trainer) sumShared(ctx context.Context) error {
	if t.pipeline == nil {
		return nil
	}
	for _, name := range t.pipeline.sharedNames() {
		at := slices.IndexFunc(t.parameters, func(p *parameter) bool { return p.Name == name && p.gradient >= 0 })
		// Stages that do not have it, or to whose part of the loss it is
		// nothing, add nothing.
		size := []int64{0, 0}
		if at >= 0 {
			size[0], size[1] = int64(t.parameters[at].summed.Len()), int64(t.parameters[at].summed.Type)
		}
		if err := t.pipeline.group.AllReduce(ctx, comm.Slice(size), comm.Max).Wait(); err != nil {
			return err
		}
		if size[0] == 0 {
			continue
		}
		sum := tensor.New(onnx.DataType(size[1]), int(size[0]))
		if at >= 0 {
			copy(sum.Data, t.parameters[at].summed.Data)
		}
		if err := t.pipeline.group.AllReduce(ctx, comm.Of(sum), comm.Sum).Wait(); err != nil {
			return err
		}
		if at >= 0 {
			copy(t.parameters[at].summed.Data, sum.Data)
		}
	}
	return nil
}

// counts reports whether a parameter's gradient counts in this stage, rather
// than in another one that has it too.
func (p *pipeline) counts(name string) bool {
	if p == nil {
		return true
	}
	first, shared := p.shared[name]
	return !shared || first == p.rank
}

// close frees the forward pass.
func (p *passage) close() error {
	if p == nil {
		return nil
	}
	return p.session.Close()
}

// checkPipeline fails where stages cannot do what options ask for.
func (t *Trainer) checkPipeline() error {
	if t.pipeline == nil || len(t.pipeline.shared) == 0 || !t.options.ShardOptimizer {
		return nil
	}
	return fmt.Errorf("pipeline stages share %q, whose optimizer state cannot be divided; leave out --shard-optimizer", t.pipeline.sharedNames())
}
