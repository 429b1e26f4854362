// Package checkpoint saves and loads all that a training run is made of, and
// loses none of it.
//
// A run directory holds a directory for each checkpoint, such as
// step-00001000, which is whole in itself:
//
//	model.onnx                              the graph; its weights refer into the shards beside it
//	weights-00001-of-00003.safetensors …    the weights, in shards
//	optimizer-00001-of-00002.safetensors …  the state of the optimizer, in shards
//	state.json                              what the training loop wants to find again
//	manifest.json                           the step, and all other files with sizes and checksums
//
// As model.onnx refers into the shards, every checkpoint is a model that any
// ONNX runtime opens. It appears under its name at once and complete: it is
// written into a hidden directory, synced and renamed. The newest one is found
// by looking, there is no pointer to it that could be wrong.
package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
	"github.com/fmoe-go/fmoe/runtime/train/safetensors"
)

// Named is a tensor with its name.
type Named = safetensors.Named

// Snapshot is what a checkpoint holds.
type Snapshot struct {
	Step int64
	// Model is the model that is trained. Its initializers keep the values
	// that it has, but for those in Weights.
	Model *onnx.Model
	// Weights are the trained values of initializers of the model's graph, of
	// the same types and shapes.
	Weights []Named
	// Optimizer are the tensors of the optimizer's state, by names of its own.
	Optimizer []Named
	// State is written as JSON: random state, position in the data,
	// configuration.
	State any
}

// embeddedBytes is the size below which an initializer that is not trained
// stays in model.onnx: shape arithmetic needs it there.
const embeddedBytes = 1024

// Weights returns all weights that a checkpoint of a model stores in shards,
// in the order of the model's initializers: those that were trained and, of
// the others, all that are not small. It fails where one that was trained is
// not an initializer of the model of the same type and shape.
func Weights(m *onnx.Model, trained []Named) ([]Named, error) {
	if m == nil || m.Graph == nil {
		return nil, errors.New("there is no model")
	}
	values := make(map[string]Named, len(trained))
	for _, w := range trained {
		if w.Tensor == nil || values[w.Name].Tensor != nil {
			return nil, fmt.Errorf("the weight %q has no value, or two", w.Name)
		}
		values[w.Name] = w
	}
	var all []Named
	for _, t := range m.Graph.Initializers {
		if w := values[t.Name]; w.Tensor != nil {
			if err := fits(w.Type, w.Whole(), t); err != nil {
				return nil, err
			}
			all = append(all, w)
			delete(values, t.Name)
			continue
		}
		size, err := t.ByteSize()
		if err != nil || size < embeddedBytes || !safetensors.Supports(t.DataType) {
			continue
		}
		data, err := t.Bytes()
		if err != nil {
			return nil, err
		}
		all = append(all, Named{Name: t.Name, Tensor: &tensor.Tensor{Type: t.DataType, Shape: shapeOf(t), Data: data}})
	}
	for _, w := range trained {
		if values[w.Name].Tensor != nil {
			return nil, fmt.Errorf("the model's graph has no initializer %q", w.Name)
		}
	}
	return all, nil
}

// fits reports where a weight of that type and shape is not one for an initializer.
func fits(kind onnx.DataType, shape []int, t *onnx.Tensor) error {
	if kind != t.DataType || !slices.Equal(shape, shapeOf(t)) {
		return fmt.Errorf("the weight %q is %s%s, the model's initializer is %s%s", t.Name, kind, tensor.FormatShape(shape), t.DataType, tensor.FormatShape(shapeOf(t)))
	}
	return nil
}

func shapeOf(t *onnx.Tensor) []int {
	shape := make([]int, len(t.Dims))
	for i, d := range t.Dims {
		shape[i] = int(d)
	}
	return shape
}

// Save writes a checkpoint into a run directory and returns its path, for a
// program that saves once; see [OpenRun].
func Save(dir string, s Snapshot, o Options) (path string, err error) {
	run, err := OpenRun(dir, o)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, run.Close()) }()
	return run.Save(s)
}

// encodeState returns state.json.
func encodeState(state any) ([]byte, error) {
	b, err := json.MarshalIndent(state, "", " ")
	if err != nil {
		return nil, fmt.Errorf("the state is not JSON: %w", err)
	}
	return append(b, '\n'), nil
}
