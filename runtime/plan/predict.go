package plan

import (
	"fmt"
	"math"

	"github.com/fmoe-go/fmoe/runtime/comm"
)

// Options are what a run is made of beside the model and the cluster.
type Options struct {
	Batch          int  // sequences of a step, of all workers together
	MicroBatches   int  // of a step, which pipeline stages take in turns; 0: four for each stage, as far as there are sequences
	ShardOptimizer bool // divide the optimizer's state (ZeRO stage 1)
	HalfWidth      bool // products in bfloat16: what passes between nodes and workers is half as wide
}

// Memory is bytes of a worker.
type Memory struct {
	Weights     float64 `json:"weights"`
	Gradients   float64 `json:"gradients"`
	Optimizer   float64 `json:"optimizer"`
	Activations float64 `json:"activations"`
	Buffers     float64 `json:"buffers"` // of exchanges and sums
}

// Total is the sum.
func (m Memory) Total() float64 {
	return m.Weights + m.Gradients + m.Optimizer + m.Activations + m.Buffers
}

// Collective is all calls of one kind that a worker makes in a step.
type Collective struct {
	Name    string  `json:"name"`
	Workers int     `json:"workers"` // of a group
	Bytes   float64 `json:"bytes"`   // that the busiest worker sends or gets
	Seconds float64 `json:"seconds"`
	Hidden  float64 `json:"hidden"` // of these seconds, behind computation
}

// Prediction is what a layout is expected to take. Seconds are of a step.
type Prediction struct {
	Layout      comm.Layout  `json:"layout"`
	Workers     int          `json:"workers"`
	Memory      Memory       `json:"memory"`
	Total       float64      `json:"memory_total"`
	Collectives []Collective `json:"collectives"`

	Dense     float64 `json:"dense_seconds"`     // products outside experts
	Experts   float64 `json:"expert_seconds"`    // products of the busiest worker's experts
	Values    float64 `json:"value_seconds"`     // reading and writing values between products
	Gates     float64 `json:"gate_seconds"`      // each worker decides about all tokens
	Optimizer float64 `json:"optimizer_seconds"` // updates of weights
	Bubble    float64 `json:"bubble_seconds"`    // pipeline stages that wait for others
	Wire      float64 `json:"communication_seconds"`
	Step      float64 `json:"step_seconds"`

	Tokens     float64 `json:"tokens_per_second"`
	Efficiency float64 `json:"efficiency"` // the part of the step in which all products could be computed
	Limit      string  `json:"limit"`      // what takes most of the time
}

const (
	float32Bytes = 4
	// products of a training step for one of the forward pass: a product has two
	// gradients.
	trainingProducts = 3
	// updateTraffic is how often AdamW reads or writes a number: gradient,
	// weight and two moments are read, and all but the gradient written.
	updateTraffic = 7
	// valueTraffic is how often a value between nodes is read or written in a
	// step: written and read forward, read backward, its gradient written and read.
	valueTraffic = 5
	// gateTraffic is the same of a router's logit of one expert.
	gateTraffic = 8
	// stepRows are the rows of an expert that a part of an exchange has at least.
	stepRows = 64
)

// Predict returns what a layout takes. It fails for a layout that the model
// or the options do not allow; it does not compare memory with the cluster's.
func (m *Model) Predict(cluster *Cluster, layout comm.Layout, o Options) (*Prediction, error) {
	for _, n := range []*int{&layout.Data, &layout.Expert, &layout.Slice, &layout.Tensor, &layout.Pipeline} {
		*n = max(*n, 1)
	}
	if err := m.check(layout, o); err != nil {
		return nil, err
	}
	workers := layout.Size()
	c := cluster.worker(workers)
	p := &Prediction{Layout: layout, Workers: workers}
	e := estimate{m: m, c: &c, l: layout, o: o, p: p, width: float32Bytes}
	if o.HalfWidth {
		e.width = 2
	}
	e.sequences = float64(ceil(o.Batch, layout.Data*layout.Expert))
	e.stages = float64(layout.Pipeline)
	e.batches = 1
	if layout.Pipeline > 1 {
		e.batches = float64(o.MicroBatches)
		if o.MicroBatches == 0 {
			e.batches = min(4*e.stages, e.sequences)
		}
		e.batches = min(e.batches, e.sequences)
	}
	e.compute()
	e.exchange()
	e.sums()
	e.memory()
	e.finish()
	return p, nil
}

// check refuses layouts that cannot be.
func (m *Model) check(l comm.Layout, o Options) error {
	if o.Batch < l.Data*l.Expert {
		return fmt.Errorf("the layout %s needs at least %d sequences in a step, there are %d", l, l.Data*l.Expert, o.Batch)
	}
	if l.Pipeline > m.Depth {
		return fmt.Errorf("the layout %s has %d stages, the model can be cut into %d", l, l.Pipeline, m.Depth)
	}
	if len(m.Layers) == 0 && l.Expert*l.Slice*l.Tensor > 1 {
		return fmt.Errorf("the model has no mixture of experts that the layout %s would divide", l)
	}
	for _, layer := range m.Layers {
		if l.Expert > layer.Experts {
			return fmt.Errorf("the layout %s: layer %q has %d experts; use more data workers instead", l, layer.Name, layer.Experts)
		}
		if l.Tensor > layer.DHidden {
			return fmt.Errorf("the layout %s: experts of layer %q have a hidden width of %d", l, layer.Name, layer.DHidden)
		}
	}
	return nil
}

func ceil(n, by int) int { return (n + by - 1) / by }

// estimate is a prediction that is being made.
type estimate struct {
	m *Model
	c *Cluster
	l comm.Layout
	o Options
	p *Prediction

	width     float64 // bytes of a number that passes between workers
	sequences float64 // of a worker in a step
	stages    float64
	batches   float64 // that take turns in a pipeline
	expert    []float64
}

// tokens are those of a worker in a step.
func (e *estimate) tokens() float64 { return e.sequences * float64(e.m.Length) }

// again is how many products of a forward pass a step takes: stages but the
// last compute theirs twice.
func (e *estimate) again() float64 {
	if e.stages > 1 {
		return trainingProducts + 1
	}
	return trainingProducts
}

// busiest is the part of a layer's rows that the worker with the most has, of
// those along Expert.
func (e *estimate) busiest(l *Layer) float64 {
	most := 0.0
	for w := range e.l.Expert {
		lo, hi := comm.Share(l.Experts, e.l.Expert, w)
		sum := 0.0
		for _, x := range l.Load[lo:hi] {
			sum += x
		}
		most = max(most, sum)
	}
	return most
}

// rows are those of the busiest worker in a layer and step.
func (e *estimate) rows(l *Layer) float64 {
	return e.tokens() * float64(l.TopK) * float64(e.l.Expert) * e.busiest(l) / float64(e.l.Slice)
}

// compute adds what workers do without others.
func (e *estimate) compute() {
	experts := 0.0 // operations of a sequence
	values := e.m.Activations * e.sequences
	for i := range e.m.Layers {
		l := &e.m.Layers[i]
		experts += float64(e.m.Length) * float64(l.TopK) * l.work()
		seconds := e.again() * e.rows(l) * l.work() / float64(e.l.Tensor) / e.c.FLOPS
		e.expert = append(e.expert, seconds)
		e.p.Experts += seconds / e.stages
		values += e.rows(l) * e.rowBytes(l)
		all := float64(e.o.Batch) * float64(e.m.Length) * float64(l.Experts)
		e.p.Gates += gateTraffic * all * float32Bytes / e.c.MemoryBandwidth / e.stages
	}
	e.p.Dense = e.again() * (e.m.Operations - experts) * e.sequences / e.c.FLOPS / e.stages
	e.p.Values = valueTraffic * values * e.width / float32Bytes / e.c.MemoryBandwidth / e.stages
	e.p.Optimizer = updateTraffic * e.updated() * float32Bytes / e.c.MemoryBandwidth
}

// rowBytes is what an expert keeps of a row, float32.
func (e *estimate) rowBytes(l *Layer) float64 {
	return float32Bytes * (2*float64(l.DModel) + float64(l.Products-1)*float64(l.DHidden)/float64(e.l.Tensor))
}

// dense and experts are the parameters of a worker.
func (e *estimate) dense() float64 { return e.m.Dense / e.stages }
func (e *estimate) experts() float64 {
	return e.m.Experts / float64(e.l.Expert*e.l.Tensor) / e.stages
}

// updated are the parameters that a worker updates.
func (e *estimate) updated() float64 {
	if !e.o.ShardOptimizer {
		return e.dense() + e.experts()
	}
	return e.dense()/float64(e.l.Data*e.l.Expert) + e.experts()/float64(e.l.Data*e.l.Slice)
}

// group is workers at a distance in rank from one another.
type group struct{ size, stride int }

func (e *estimate) tensorGroup() group { return group{e.l.Tensor, 1} }
func (e *estimate) sliceGroup() group  { return group{e.l.Slice, e.l.Tensor} }
func (e *estimate) expertGroup() group { return group{e.l.Expert, e.l.Tensor * e.l.Slice} }
func (e *estimate) tokensGroup() group {
	return group{e.l.Data * e.l.Expert, e.l.Tensor * e.l.Slice}
}

// replicasGroup has gaps where experts are between slice and data; its widest
// stride says whether it leaves a node.
func (e *estimate) replicasGroup() group {
	stride := e.l.Tensor
	if e.l.Data > 1 {
		stride *= e.l.Expert
	}
	if e.l.Slice > 1 && e.l.Data > 1 {
		stride = e.l.Tensor // the neighbours are slices
	}
	return group{e.l.Data * e.l.Slice, stride}
}

// near is how many of a group are on a node.
func (e *estimate) near(g group) int {
	return min(g.size, max(1, e.c.Workers/g.stride))
}

// exchanged returns the seconds of an all-to-all of bytes, those that a worker
// keeps included.
func (e *estimate) exchanged(g group, bytes float64) float64 {
	near, size := float64(e.near(g)), float64(g.size)
	inside, between := bytes*(near-1)/size, bytes*(size-near)/size
	seconds := 0.0
	if inside > 0 {
		seconds = inside / e.c.Inside.Bandwidth
	}
	if between > 0 {
		seconds = max(seconds, between/e.c.Between.Bandwidth)
	}
	return seconds + (near-1)*e.c.Inside.Latency + (size-near)*e.c.Between.Latency
}

// gathered returns the seconds in which all of a group get bytes, of which
// each has its part. A sum takes this twice.
func (e *estimate) gathered(g group, bytes float64) float64 {
	if g.size == 1 {
		return 0
	}
	link := e.c.Inside
	if e.near(g) < g.size {
		link = e.c.Between
	}
	n := float64(g.size)
	return bytes*(n-1)/n/link.Bandwidth + math.Ceil(math.Log2(n))*link.Latency
}

// add notes a collective if there is more than one worker in its group.
func (e *estimate) add(name string, g group, bytes, seconds, hidden float64) {
	if g.size > 1 {
		e.p.Collectives = append(e.p.Collectives, Collective{name, g.size, bytes, seconds, hidden})
	}
}

// exchange adds what mixtures of experts send.
func (e *estimate) exchange() {
	var logits, scores, rows, outputs, partial Collective
	for i := range e.m.Layers {
		l := &e.m.Layers[i]
		d := float64(l.DModel)
		all := float64(e.o.Batch) * float64(e.m.Length)
		b := all * float64(l.Experts) * float32Bytes
		logits.Bytes += b
		logits.Seconds += e.batches * e.gathered(e.tokensGroup(), b/e.batches)
		b = all * float64(l.TopK) * float32Bytes
		scores.Bytes += b
		scores.Seconds += e.batches * e.gathered(e.tokensGroup(), b/e.batches)

		if g := e.expertGroup(); g.size > 1 {
			b = e.rows(l) * d * e.width // there, back, and both again for gradients
			seconds := 4 * e.batches * e.exchanged(g, b/e.batches)
			rows.Bytes += 4 * b * (1 - 1/float64(g.size))
			rows.Seconds += seconds
			local := max(1, float64(l.Experts)/float64(g.size))
			steps := min(float64(g.size), max(1, math.Floor(e.rows(l)/e.batches/local/stepRows)))
			rows.Hidden += e.c.Overlap * (1 - 1/steps) * min(seconds, e.expert[i])
		}
		b = 2 * e.tokens() * d * e.width
		outputs.Bytes += b
		outputs.Seconds += e.batches * e.gathered(e.sliceGroup(), b/e.batches)
		b = 2 * e.tokens() / float64(e.l.Slice) * d * e.width
		partial.Bytes += 2 * b
		partial.Seconds += 2 * e.batches * e.gathered(e.tensorGroup(), b/e.batches)
	}
	for _, x := range []struct {
		name string
		g    group
		c    Collective
	}{
		{"all-gather of logits", e.tokensGroup(), logits},
		{"all-gather of scores' gradients", e.tokensGroup(), scores},
		{"all-to-all of rows", e.expertGroup(), rows},
		{"all-gather of slices", e.sliceGroup(), outputs},
		{"all-reduce of partial results", e.tensorGroup(), partial},
	} {
		if x.c.Bytes > 0 {
			e.add(x.name, x.g, x.c.Bytes/e.stages, x.c.Seconds/e.stages, x.c.Hidden/e.stages)
		}
	}
}

// sums adds what gradients and stages send. A sum divided among workers, and
// weights that come back, take the time of a sum that all get.
func (e *estimate) sums() {
	for _, x := range []struct {
		name       string
		g          group
		parameters float64
	}{
		{"gradients", e.tokensGroup(), e.dense()},
		{"experts' gradients", e.replicasGroup(), e.experts()},
	} {
		if x.parameters == 0 {
			continue
		}
		b := x.parameters * float32Bytes
		seconds := e.gathered(x.g, b)
		if e.o.ShardOptimizer {
			e.add("reduce-scatter of "+x.name, x.g, b, seconds, 0)
			e.add("all-gather of weights after "+x.name, x.g, b, seconds, 0)
		} else {
			e.add("all-reduce of "+x.name, x.g, 2*b, 2*seconds, 0)
		}
	}
	if e.stages > 1 {
		stride := e.l.Size() / e.l.Pipeline
		link := e.c.Between
		if stride*e.l.Pipeline <= e.c.Workers {
			link = e.c.Inside
		}
		b := 2 * e.tokens() * float64(e.m.Width) * e.width
		e.add("sends between stages", group{e.l.Pipeline, stride}, b, b/link.Bandwidth+2*e.batches*link.Latency, 0)
	}
}

// memory adds up what a worker holds.
func (e *estimate) memory() {
	parameters := float32Bytes * (e.dense() + e.experts())
	sequences := e.sequences / e.batches // whose activations are there at a time
	activations := e.m.Activations * sequences
	buffers := 0.0
	for i := range e.m.Layers {
		l := &e.m.Layers[i]
		activations += e.rows(l) / e.batches * e.rowBytes(l)
		if e.l.Size() > 1 {
			all := float64(e.o.Batch) * float64(e.m.Length) * float64(l.Experts) * float32Bytes
			buffers = max(buffers, all+2*e.rows(l)/e.batches*float64(l.DModel)*e.width)
		}
	}
	e.p.Memory = Memory{Weights: parameters, Gradients: parameters, Optimizer: 2 * float32Bytes * e.updated(),
		Activations: activations * e.width / float32Bytes / e.stages, Buffers: buffers}
	if e.stages > 1 { // what the batches under way came with
		e.p.Memory.Activations += min(e.stages, e.batches) * sequences * float64(e.m.Length*e.m.Width) * e.width
	}
	for _, x := range []struct {
		g          group
		parameters float64
	}{{e.tokensGroup(), e.dense()}, {e.replicasGroup(), e.experts()}} {
		if x.g.size > 1 { // gradients lie together to be summed
			e.p.Memory.Buffers += x.parameters * float32Bytes
			if e.o.ShardOptimizer {
				e.p.Memory.Buffers += x.parameters * float32Bytes / float64(x.g.size)
			}
		}
	}
	e.p.Total = e.p.Memory.Total()
}

// finish adds up the time.
func (e *estimate) finish() {
	p := e.p
	turns := p.Dense + p.Experts + p.Values + p.Gates
	for _, c := range p.Collectives {
		p.Wire += c.Seconds - c.Hidden
	}
	if e.stages > 1 { // the last stage needs no forward pass of its own
		spared := (p.Dense + p.Experts) / e.again()
		p.Bubble = (turns*(e.stages-1) - spared) / e.batches
	}
	p.Step = turns + p.Bubble + p.Optimizer + p.Wire
	p.Tokens = float64(e.o.Batch) * float64(e.m.Length) / p.Step
	ideal := trainingProducts * e.m.Operations * float64(e.o.Batch) / e.c.FLOPS / float64(p.Workers)
	p.Efficiency = min(1, ideal/p.Step)
	p.Limit = p.limit()
}

// limit names what takes most of the time.
func (p *Prediction) limit() string {
	name, most := "products", p.Dense
	for _, x := range []struct {
		name    string
		seconds float64
	}{{"experts", p.Experts}, {"memory bandwidth", p.Values}, {"gates over all tokens", p.Gates}, {"updates of weights", p.Optimizer}, {"pipeline bubble", p.Bubble}} {
		if x.seconds > most {
			name, most = x.name, x.seconds
		}
	}
	for _, c := range p.Collectives {
		if seconds := c.Seconds - c.Hidden; seconds > most {
			name, most = c.Name, seconds
		}
	}
	return name
}
