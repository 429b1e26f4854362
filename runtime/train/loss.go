package train

import (
	"fmt"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// The kinds of losses.
const (
	NextToken      = "next-token"     // cross-entropy of each token after those before it
	Masked         = "masked"         // cross-entropy of the tokens that were masked
	Classification = "classification" // cross-entropy of a class for each row
	MSE            = "mse"            // mean squared error
	Output         = "output"         // an output of the model is the loss
)

// LossKinds lists the kinds of losses.
var LossKinds = []string{NextToken, Masked, Classification, MSE, Output}

// Loss is what training makes small.
type Loss struct {
	// Kind is one of LossKinds.
	Kind string `json:"kind" yaml:"kind"`
	// Output is the output of the model that is compared with the labels, or
	// is the loss; "" stands for "logits" where there is one, else for the
	// first.
	Output string `json:"output,omitempty" yaml:"output,omitempty"`
	// IgnoreIndex is the label of what does not count.
	IgnoreIndex int64 `json:"ignore_index" yaml:"ignore_index"`
	// LabelSmoothing ε takes ε of the probability wanted of the label and
	// gives it to all classes in equal parts.
	LabelSmoothing float64 `json:"label_smoothing" yaml:"label_smoothing"`
	// ZLoss is the weight of the mean of log²Σexp of the logits (PaLM, arXiv
	// 2204.02311).
	ZLoss float64 `json:"z_loss" yaml:"z_loss"`

	// Balance is the weight of the gates' balance losses, where they have one,
	// and RouterZ that of the router z-losses, each summed over layers.
	Balance float64 `json:"balance" yaml:"balance"`
	RouterZ float64 `json:"router_z" yaml:"router_z"`
}

// DefaultLoss is cross-entropy of the next token, with the weights for
// balance and z-loss of Switch Transformers (arXiv 2101.03961) and ST-MoE
// (arXiv 2202.08906).
func DefaultLoss() Loss {
	return Loss{Kind: NextToken, IgnoreIndex: -100, Balance: 0.01, RouterZ: 0.001}
}

func (l *Loss) check() error {
	if !slices.Contains(LossKinds, l.Kind) {
		return fmt.Errorf("loss kind %q is not known; there are %q", l.Kind, LossKinds)
	}
	if l.LabelSmoothing < 0 || l.LabelSmoothing >= 1 {
		return fmt.Errorf("label_smoothing %g must be from 0 to below 1", l.LabelSmoothing)
	}
	for name, w := range map[string]float64{"z_loss": l.ZLoss, "balance": l.Balance, "router_z": l.RouterZ} {
		if !(w >= 0) {
			return fmt.Errorf("%s %g must be 0 or more", name, w)
		}
	}
	return nil
}

// layer is an FMoE node, with the outputs that tell of its balance.
type layer struct {
	name         string
	expertChoice bool // slots are no measure of what is dropped
	// Outputs of the model.
	balance, z, count, indices string
	selection                  string // the selection bias that balances it, "" without
}

// objective is a model that computes a loss. Its parameters are inputs.
type objective struct {
	model      *onnx.Model
	parameters []Parameter
	inputs     []*onnx.ValueInfo // of the original model
	labels     string            // "" where the loss needs none
	step       string            // input with the number of the step, "" in evaluation
	task       string            // output: the loss without those of the routers
	total      string            // output: the loss with them
	count      string            // output: how many labels counted; "" unless labelled
	correct    string            // output: of how many the model thought most of; likewise
	layers     []layer

	// Of a pipeline stage that is not the last one:
	forward *onnx.Model // what it sends on
	back    []string    // inputs: the gradients of that
	share   string      // input: that of the labels that the batch has, "" where nothing needs it
}

// newObjective adds a loss to a copy of a model without function calls.
func newObjective(m *onnx.Model, l Loss, parameters []Parameter, training bool, options *Options, s *stage) (*objective, error) {
	m = m.Clone()
	o := &objective{model: m, parameters: parameters}
	g := m.Graph
	initialized := map[string]bool{}
	for _, t := range g.Initializers {
		initialized[t.Name] = true
	}
	for _, v := range g.Inputs {
		if !initialized[v.Name] && !s.has(v.Name) {
			o.inputs = append(o.inputs, v)
		}
	}
	g.Inputs = slices.Clone(o.inputs)
	var output *onnx.ValueInfo
	if s.isLast() {
		var err error
		if output, err = l.find(g); err != nil {
			return nil, err
		}
	}
	if s != nil {
		g.Inputs = append(g.Inputs, s.in...)
	}
	names := map[string]bool{}
	for _, p := range parameters {
		names[p.Name] = true
		shape := make([]int64, len(p.Shape))
		for i, d := range p.Shape {
			shape[i] = int64(d)
		}
		g.Inputs = append(g.Inputs, &onnx.ValueInfo{Name: p.Name, Type: tensorType(p.Type, shape)})
	}
	g.Initializers = slices.DeleteFunc(g.Initializers, func(t *onnx.Tensor) bool { return names[t.Name] })
	g.Outputs = nil
	b := newBuilder(m)
	if training {
		o.step = b.input("step", onnx.Int64, []int64{})
		if err := o.enterTraining(b, options, s); err != nil {
			return nil, err
		}
	} else {
		leaveTraining(g)
	}
	if !s.isLast() {
		o.forward = m.Clone()
		o.forward.Graph.Outputs = s.out
	}
	if err := o.watchLayers(b); err != nil {
		return nil, err
	}
	if !s.isLast() {
		o.addStage(b, l, s)
		return o, nil
	}
	o.addTask(b, l, output)
	o.addTotal(b, l, wide(output))
	b.output(o.task)
	if o.total != o.task {
		b.output(o.total)
	}
	return o, nil
}

// wide returns the type of a loss that is computed from an output: float64 of
// that, else float32.
func wide(output *onnx.ValueInfo) onnx.DataType {
	if output.Type != nil && output.Type.ElemType == onnx.Float64 {
		return onnx.Float64
	}
	return onnx.Float32
}

// find returns the output that the loss is computed from.
func (l *Loss) find(g *onnx.Graph) (*onnx.ValueInfo, error) {
	if len(g.Outputs) == 0 {
		return nil, fmt.Errorf("the model has no output")
	}
	name := l.Output
	if name == "" {
		name = g.Outputs[0].Name
		if slices.ContainsFunc(g.Outputs, func(v *onnx.ValueInfo) bool { return v.Name == "logits" }) {
			name = "logits"
		}
	}
	names := make([]string, len(g.Outputs))
	for i, v := range g.Outputs {
		if v.Name == name {
			return v, nil
		}
		names[i] = v.Name
	}
	return nil, fmt.Errorf("the model has no output %q; it has %q", name, names)
}

// enterTraining connects what behaves differently in training with the step:
// gates and dropout.
func (o *objective) enterTraining(b *builder, options *Options, s *stage) error {
	number := int64(0)
	if s != nil {
		number = int64(s.layers)
	}
	dropout := options.Seed // another one for other tokens; gates know the number of a token
	if !options.Workers.Alone() {
		dropout += int64(options.Workers.Tokens.Rank())
	}
	for _, n := range b.graph.Nodes {
		switch {
		case n.OpType == moe.OpType && n.Domain == moe.Domain:
			for len(n.Inputs) <= moe.InputStep {
				n.Inputs = append(n.Inputs, "")
			}
			n.Inputs[moe.InputStep] = o.step
			setInt(n, moe.AttributeSeed, options.Seed)
			setInt(n, moe.AttributeLayer, number)
			number++
		case n.Is("Dropout"):
			if mask := n.Output(1); mask != "" && len(b.names.Consumers(mask)) > 0 {
				return fmt.Errorf("node %q (Dropout): its mask is used, which training does not support", n.Name)
			}
			o.dropOut(b, n)
			setInt(n, moe.AttributeSeed, dropout)
			setInt(n, moe.AttributeLayer, number)
			number++
		}
	}
	return nil
}

// leaveTraining lets Dropout nodes that the model has in training mode drop
// nothing.
func leaveTraining(g *onnx.Graph) {
	for _, n := range g.Nodes {
		if n.Is("Dropout") && len(n.Inputs) > 2 {
			n.Inputs = n.Inputs[:2]
		}
	}
}

// dropOut lets a Dropout node drop elements, with random numbers that follow
// from the step.
func (o *objective) dropOut(b *builder, n *onnx.Node) {
	ratio := n.Input(1)
	if ratio == "" {
		r := float32(0.5)
		if a := n.Attribute("ratio"); a != nil {
			r = a.Float
		}
		ratio = b.constant(tensor.Scalar(r))
	}
	n.Domain, n.Attributes = moe.Domain, nil
	n.Inputs, n.Outputs = []string{n.Inputs[0], ratio, o.step}, n.Outputs[:1]
}

func setInt(n *onnx.Node, name string, x int64) {
	n.Attributes = slices.DeleteFunc(slices.Clone(n.Attributes), func(a *onnx.Attribute) bool { return a.Name == name })
	n.Attributes = append(n.Attributes, onnx.IntAttribute(name, x))
}

// watchLayers lets FMoE nodes give away their losses and loads.
func (o *objective) watchLayers(b *builder) error {
	for i, n := range b.graph.Nodes {
		if n.OpType != moe.OpType || n.Domain != moe.Domain {
			continue
		}
		c, err := moe.ParseConfig(n)
		if err != nil {
			return fmt.Errorf("FMoE node %q: %w", n.Name, err)
		}
		l := layer{name: n.Name, expertChoice: c.Gate == moe.GateExpertChoice}
		if l.name == "" {
			l.name = fmt.Sprintf("FMoE %d", i)
		}
		if l.selection = n.Input(moe.InputSelectionBias); l.selection != "" && b.graph.Initializer(l.selection) == nil {
			l.selection = ""
		}
		ask := func(slot int) string {
			for len(n.Outputs) <= slot {
				n.Outputs = append(n.Outputs, "")
			}
			if n.Outputs[slot] == "" {
				n.Outputs[slot] = b.names.NewName(l.name + "/" + moe.OutputNames[slot])
			}
			b.output(n.Outputs[slot])
			return n.Outputs[slot]
		}
		l.balance, l.count, l.z, l.indices = ask(moe.OutputAuxLoss), ask(moe.OutputExpertCount), ask(moe.OutputZLoss), ask(moe.OutputExpertIndices)
		o.layers = append(o.layers, l)
	}
	return nil
}

// addTask adds the loss between an output and the labels.
func (o *objective) addTask(b *builder, l Loss, output *onnx.ValueInfo) {
	value := output.Name
	switch l.Kind {
	case NextToken, Masked, Classification:
		o.labels = b.input("labels", onnx.Int64, nil)
		n := &onnx.Node{Domain: moe.Domain, OpType: "CrossEntropy", Attributes: []*onnx.Attribute{
			onnx.IntAttribute("ignore_index", l.IgnoreIndex),
			onnx.FloatAttribute("label_smoothing", float32(l.LabelSmoothing)),
			onnx.FloatAttribute("z_loss", float32(l.ZLoss))}}
		made := b.add(n, 3, value, o.labels)
		o.task, o.count, o.correct = made[0], made[1], made[2]
		b.output(o.count)
		b.output(o.correct)
	case MSE:
		t := wide(output)
		o.labels = b.input("labels", t, rankOf(output))
		same := &onnx.Node{OpType: "Cast", Attributes: []*onnx.Attribute{onnx.IntAttribute("to", int64(t))}}
		difference := b.op("Sub", b.add(same, 1, value)[0], o.labels)
		mean := &onnx.Node{OpType: "ReduceMean", Attributes: []*onnx.Attribute{onnx.IntAttribute("keepdims", 0)}}
		o.task = b.add(mean, 1, b.op("Mul", difference, difference))[0]
	default:
		o.task = b.op("Identity", value)
	}
}

// rankOf returns open dimensions, as many as an output has, nil where that is
// not known.
func rankOf(output *onnx.ValueInfo) []int64 {
	if output.Type == nil || output.Type.Shape == nil {
		return nil
	}
	return slices.Repeat([]int64{-1}, len(output.Type.Shape.Dims))
}

// addTotal adds the routers' losses.
func (o *objective) addTotal(b *builder, l Loss, t onnx.DataType) {
	cast := func(v string) string {
		return b.add(&onnx.Node{OpType: "Cast", Attributes: []*onnx.Attribute{onnx.IntAttribute("to", int64(t))}}, 1, v)[0]
	}
	o.task = cast(o.task)
	o.total = o.task
	weigh := func(weight float64, of func(layer) string) {
		for _, x := range o.layers {
			if weight > 0 {
				o.total = b.op("Add", o.total, b.op("Mul", cast(of(x)), b.number(t, weight)))
			}
		}
	}
	weigh(l.Balance, func(x layer) string { return x.balance })
	weigh(l.RouterZ, func(x layer) string { return x.z })
}
