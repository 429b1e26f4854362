package train

import (
	"errors"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/tensor"
	"github.com/fmoe-go/fmoe/runtime/train/safetensors"
)

// Named is a tensor with its name.
type Named = safetensors.Named

// Progress is how far a trainer is.
type Progress struct {
	Step    int64 `json:"step"`    // steps made
	Skipped int64 `json:"skipped"` // of them, those that changed nothing
}

// Progress returns how far the trainer is.
func (t *Trainer) Progress() Progress { return Progress{t.step, t.skipped} }

// Size returns the number of elements of the parameters that are trained, by
// all workers.
func (t *Trainer) Size() int64 { return t.size }

// Weights returns what training changes of the model: parameters and selection
// biases, by the names of initializers. The tensors are the trainer's own, or
// copies of those on a device with memory of its own.
func (t *Trainer) Weights() ([]Named, error) {
	var list []Named
	for _, p := range t.parameters {
		w, err := t.hosted(p.weight)
		if err != nil {
			return nil, err
		}
		list = append(list, p.named(p.Name, w))
	}
	for _, b := range t.biases {
		list = append(list, Named{Name: b.name, Tensor: b.value})
	}
	return list, nil
}

// OptimizerState returns what the optimizers keep of parameters, by names such
// as "fc1.weight/first_moment"; of a parameter in half precision, its "master"
// in float32 too. For the tensors see Weights.
func (t *Trainer) OptimizerState() ([]Named, error) {
	var list []Named
	for _, p := range t.parameters {
		if p.master != nil {
			list = append(list, p.named(p.Name+"/master", p.master))
		}
		for i, s := range p.states {
			s, err := t.hosted(s)
			if err != nil {
				return nil, err
			}
			list = append(list, p.named(p.Name+"/"+p.names[i], s))
		}
	}
	return list, nil
}

// named returns a tensor of a parameter, or of its state, with the part that it
// is of that of all workers. States are as long as the parameter along an axis,
// or of length 1.
func (p *parameter) named(name string, t *tensor.Tensor) Named {
	n := Named{Name: name, Tensor: t}
	if p.part != nil {
		n.Part = &safetensors.Part{Shape: slices.Clone(t.Shape), From: make([]int, len(t.Shape))}
		for i, size := range t.Shape {
			if size == p.Shape[i] {
				n.Part.Shape[i], n.Part.From[i] = p.part.Shape[i], p.part.From[i]
			}
		}
	}
	return n
}

// Restore lets the trainer go on from what Weights, OptimizerState and Progress
// returned of another trainer of the same model and options. The functions copy
// what was saved into the tensors of the names.
func (t *Trainer) Restore(p Progress, weights, state func(into []Named) error) error {
	w, err := t.Weights()
	if err != nil {
		return err
	}
	o, err := t.OptimizerState()
	if err != nil {
		return err
	}
	if err := weights(w); err != nil {
		return err
	}
	if err := state(o); err != nil {
		return err
	}
	t.step, t.skipped = p.Step, p.Skipped
	if !t.session.Remote() {
		return nil
	}
	for i, p := range t.parameters { // in the order of both lists
		err = errors.Join(err, t.session.Upload(p.weight, w[i].Tensor))
		for _, s := range p.states {
			err = errors.Join(err, t.session.Upload(s, o[0].Tensor))
			o = o[1:]
		}
	}
	return err
}

// Graph returns the graph of a step, but for the update: the model with the
// loss and the gradients, to look at.
func (t *Trainer) Graph() (*onnx.Model, error) {
	return runtime.Graph(t.objective.model, t.gradientOptions())
}

// Session returns the session that computes gradients.
func (t *Trainer) Session() *runtime.Session { return t.session }

// Inputs returns what the model itself is given of a batch, by name.
func (t *Trainer) Inputs(batch Batch) (map[string]*tensor.Tensor, error) {
	inputs := map[string]*tensor.Tensor{}
	for _, v := range t.objective.inputs {
		x, err := t.objective.feed(v, batch)
		if err != nil {
			return nil, err
		}
		inputs[v.Name] = x
	}
	return inputs, nil
}
