package train

import (
	"fmt"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// The kinds of optimizers.
const (
	SGD       = "sgd"
	Adam      = "adam"
	AdamW     = "adamw"
	Adafactor = "adafactor"
	Muon      = "muon" // of matrices, AdamW of everything else
)

// OptimizerKinds lists the kinds of optimizers.
var OptimizerKinds = []string{SGD, Adam, AdamW, Adafactor, Muon}

// Optimizer says how gradients change weights. Fields that a kind does not
// have are not used.
type Optimizer struct {
	// Kind is one of OptimizerKinds.
	Kind string `json:"kind" yaml:"kind"`
	// LearningRate is the greatest one; the schedule multiplies it.
	LearningRate float64 `json:"learning_rate" yaml:"learning_rate"`
	// WeightDecay is decoupled from the gradients (AdamW, arXiv 1711.05101),
	// but for SGD and Adam, where it is a part of them.
	WeightDecay float64 `json:"weight_decay" yaml:"weight_decay"`
	// Beta1 and Beta2 are the decay rates of the gradients' first and second
	// moments, Epsilon what is added to the root of the second.
	Beta1   float64 `json:"beta1" yaml:"beta1"`
	Beta2   float64 `json:"beta2" yaml:"beta2"`
	Epsilon float64 `json:"epsilon" yaml:"epsilon"`
	// Momentum of SGD and Muon, of Nesterov's form if Nesterov is true.
	Momentum float64 `json:"momentum" yaml:"momentum"`
	Nesterov bool    `json:"nesterov" yaml:"nesterov"`
	// Beta2Decay: the second moments of Adafactor have the decay rate 1 −
	// step^Beta2Decay. Clip bounds the root mean square of its updates.
	Beta2Decay float64 `json:"beta2_decay" yaml:"beta2_decay"`
	Clip       float64 `json:"clip" yaml:"clip"`
}

// DefaultOptimizer returns what a kind usually has.
func DefaultOptimizer(kind string) Optimizer {
	o := Optimizer{Kind: kind, LearningRate: 3e-4, WeightDecay: 0.1, Beta1: 0.9, Beta2: 0.95, Epsilon: 1e-8,
		Momentum: 0.95, Nesterov: true, Beta2Decay: -0.8, Clip: 1}
	switch kind {
	case SGD:
		o.LearningRate, o.WeightDecay, o.Momentum, o.Nesterov = 0.1, 0, 0.9, false
	case Adam:
		o.WeightDecay, o.Beta2 = 0, 0.999
	case Adafactor:
		o.LearningRate, o.WeightDecay = 1e-2, 0
	case Muon:
		o.LearningRate = 3e-4
	}
	return o
}

func (o *Optimizer) check() error {
	if !slices.Contains(OptimizerKinds, o.Kind) {
		return fmt.Errorf("optimizer kind %q is not known; there are %q", o.Kind, OptimizerKinds)
	}
	for name, x := range map[string]float64{"beta1": o.Beta1, "beta2": o.Beta2, "momentum": o.Momentum} {
		if !(x >= 0 && x < 1) {
			return fmt.Errorf("%s %g must be from 0 to below 1", name, x)
		}
	}
	for name, x := range map[string]float64{"learning_rate": o.LearningRate, "weight_decay": o.WeightDecay, "epsilon": o.Epsilon, "clip": o.Clip} {
		if !(x >= 0) {
			return fmt.Errorf("%s %g must be 0 or more", name, x)
		}
	}
	return nil
}

// rule is an optimizer's mathematics: the graph of one update.
type rule interface {
	// states returns the shapes of what is kept of a parameter from step to
	// step, zero at first, by name.
	states(shape []int) []state
	// whole: an element's update depends on others, so that a parameter is
	// updated in one piece.
	whole() bool
	// numbers returns the scalars of an update, by the names under which
	// update asks for them. Steps are counted from 1.
	numbers(u hyper) map[string]float64
	// update adds the nodes that compute the new weight and states.
	update(g *updateGraph) (weight string, states []string)
}

type state struct {
	name  string
	shape []int
}

// hyper is what may be another at each step.
type hyper struct {
	step          int64 // from 1
	rate          float64
	weightDecay   float64
	rows, columns int // of the matrices that a parameter is, or 0
}

// updateGraph is the graph of an update in the making.
type updateGraph struct {
	*builder
	t                onnx.DataType
	rank             int // of the weight
	weight, gradient string
	states           []string
	scalars          []string // names of numbers, in the order of the inputs
	inputs           map[string]string
}

// number returns an input that has one element.
func (g *updateGraph) number(name string) string {
	if in, ok := g.inputs[name]; ok {
		return in
	}
	in := g.input(name, g.t, []int64{1})
	g.scalars, g.inputs[name] = append(g.scalars, name), in
	return in
}

// lerp returns a + (b − a)·w.
func (g *updateGraph) lerp(a, b, w string) string {
	return g.op("Add", a, g.op("Mul", g.op("Sub", b, a), w))
}

// updater applies a rule to parameters of one type and rank.
type updater struct {
	rule rule
	t    onnx.DataType
	*besideSession
	scalars []string

	// On a device with memory of its own: the numbers of this step, of which
	// many parameters have the same.
	sets []numberSet
	used int // of them
	step int64
}

func newUpdater(r rule, t onnx.DataType, rank int, beside *Trainer) (*updater, error) {
	if !r.whole() {
		rank = 1
	}
	m, b := newGraph("update")
	g := &updateGraph{builder: b, t: t, rank: rank, inputs: map[string]string{}}
	open := func(n int) []int64 { return slices.Repeat([]int64{-1}, n) }
	g.weight, g.gradient = g.input("weight", t, open(rank)), g.input("gradient", t, open(rank))
	one := slices.Repeat([]int{1}, rank)
	for _, s := range r.states(one) {
		g.states = append(g.states, g.input(s.name, t, open(len(s.shape))))
	}
	weight, states := r.update(g)
	g.output(weight)
	for _, s := range states {
		g.output(s)
	}
	resident := append([]string{g.weight, g.gradient}, g.states...)
	for _, name := range g.scalars {
		resident = append(resident, g.inputs[name])
	}
	for _, v := range m.Graph.Outputs {
		resident = append(resident, v.Name)
	}
	s, err := beside.beside(m, resident)
	if err != nil {
		return nil, err
	}
	return &updater{rule: r, t: t, besideSession: s, scalars: g.scalars}, nil
}

// numberSet is the numbers of an update, in the device's memory.
type numberSet struct {
	of      hyper
	scale   float64
	tensors []*tensor.Tensor
}

// inputs returns the numbers of an update in the order of the inputs.
func (u *updater) inputs(h hyper, scale float64) ([]*tensor.Tensor, error) {
	if u.session.Remote() {
		if u.step != h.step || u.used > 64 {
			u.step, u.used = h.step, 0
		}
		for _, s := range u.sets[:u.used] {
			if s.of == h && s.scale == scale {
				return s.tensors, nil
			}
		}
	}
	numbers := u.rule.numbers(h)
	numbers["scale"] = scale
	list := make([]*tensor.Tensor, len(u.scalars))
	for i, name := range u.scalars {
		list[i] = tensor.New(u.t, 1)
		tensor.ConvertFloat(list[i], tensor.FromSlice([]float64{numbers[name]}, 1))
	}
	if !u.session.Remote() {
		return list, nil
	}
	if u.used == len(u.sets) {
		s := numberSet{}
		for range list {
			x, err := u.session.NewTensor(u.t, 1)
			if err != nil {
				return nil, err
			}
			s.tensors = append(s.tensors, x)
		}
		u.sets = append(u.sets, s)
	}
	s := &u.sets[u.used]
	s.of, s.scale = h, scale
	u.used++
	for i, x := range list {
		if err := u.session.Upload(s.tensors[i], x); err != nil {
			return nil, err
		}
	}
	return s.tensors, nil
}

// pieceLength is the number of elements that are updated at a time where each
// is updated alone, so that what is computed on the way stays in cache.
const pieceLength = 1 << 18

// apply changes a weight and its states, all of which stay where they are.
// scale multiplies the gradient.
func (u *updater) apply(weight, gradient *tensor.Tensor, states []*tensor.Tensor, scale float64, h hyper) error {
	if n := len(weight.Shape); n >= 2 && u.rule.whole() {
		h.rows, h.columns = weight.Shape[n-2], weight.Shape[n-1]
	}
	numbers, err := u.inputs(h, scale)
	if err != nil {
		return err
	}
	whole := append([]*tensor.Tensor{weight, gradient}, states...)
	in := append(slices.Clone(whole), numbers...)
	if u.rule.whole() {
		return u.run(in, states)
	}
	length, width := weight.Len(), u.t.Bits()/8
	piece := pieceLength
	if u.session.Remote() {
		piece = length
	}
	for lo := 0; lo < length; lo += piece {
		hi := min(lo+piece, length)
		for i, t := range whole {
			in[i] = &tensor.Tensor{Type: t.Type, Shape: []int{hi - lo}, Data: t.Data[lo*width : hi*width]}
		}
		if err := u.run(in, in[2:2+len(states)]); err != nil {
			return err
		}
	}
	return nil
}

// run computes an update into the weight and the states, whose elements are
// read before they are written.
func (u *updater) run(in, states []*tensor.Tensor) error {
	return u.runner.RunInto(ctxOfUpdates, in, append([]*tensor.Tensor{in[0]}, states...))
}

// newRule returns the rule by which an optimizer updates a parameter.
func newRule(o Optimizer, p *Parameter) rule {
	switch o.Kind {
	case SGD:
		return sgd{o}
	case Adam:
		return adam{o, false}
	case Adafactor:
		return adafactor{o, p.Kind == Expert}
	case Muon:
		if n := len(p.Shape); n >= 2 && (p.Kind == Matrix || p.Kind == Expert) {
			return muon{o, p.Shape[n-2] > p.Shape[n-1]}
		}
	}
	return adam{o, true}
}
