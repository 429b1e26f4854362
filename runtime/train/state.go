package train

import (
	"fmt"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// Named is a tensor with its name.
type Named struct {
	Name   string
	Tensor *tensor.Tensor
}

// Progress is how far a trainer is.
type Progress struct {
	Step    int64 `json:"step"`    // steps made
	Skipped int64 `json:"skipped"` // of them, those that changed nothing
}

// Progress returns how far the trainer is.
func (t *Trainer) Progress() Progress { return Progress{t.step, t.skipped} }

// Weights returns what training changes of the model: parameters and selection
// biases, by the names of initializers. The tensors are the trainer's own.
func (t *Trainer) Weights() []Named {
	var list []Named
	for _, p := range t.parameters {
		list = append(list, Named{p.Name, p.weight})
	}
	for _, b := range t.biases {
		list = append(list, Named{b.name, b.value})
	}
	return list
}

// OptimizerState returns what the optimizers keep of parameters, by names such
// as "fc1.weight/first_moment". The tensors are the trainer's own.
func (t *Trainer) OptimizerState() []Named {
	var list []Named
	for _, p := range t.parameters {
		for i, s := range p.states {
			list = append(list, Named{p.Name + "/" + p.names[i], s})
		}
	}
	return list
}

// Restore lets the trainer go on from what Weights, OptimizerState and Progress
// returned of another trainer of the same model and options. The functions
// find a tensor by its name.
func (t *Trainer) Restore(p Progress, weight, state func(name string) (*tensor.Tensor, error)) error {
	restore := func(list []Named, find func(string) (*tensor.Tensor, error)) error {
		for _, n := range list {
			from, err := find(n.Name)
			if err != nil {
				return err
			}
			if from.Type != n.Tensor.Type || !slices.Equal(from.Shape, n.Tensor.Shape) {
				return fmt.Errorf("%q is %s, the model needs %s; it is of another model or optimizer", n.Name, from, n.Tensor)
			}
			copy(n.Tensor.Data, from.Data)
		}
		return nil
	}
	if err := restore(t.Weights(), weight); err != nil {
		return err
	}
	if err := restore(t.OptimizerState(), state); err != nil {
		return err
	}
	t.step, t.skipped = p.Step, p.Skipped
	return nil
}

// SetWeights returns a copy of a model, as it was before training, with weights
// in place of the initializers of their names. Both share what is not replaced.
func SetWeights(m *onnx.Model, weights []Named) (*onnx.Model, error) {
	m = m.Clone()
	for _, w := range weights {
		i := slices.IndexFunc(m.Graph.Initializers, func(t *onnx.Tensor) bool { return t.Name == w.Name })
		if i < 0 {
			return nil, fmt.Errorf("the model has no initializer %q", w.Name)
		}
		m.Graph.Initializers[i] = w.Tensor.ToONNX(w.Name)
	}
	return m, nil
}
