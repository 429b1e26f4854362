package fmoefy

import (
	"errors"
	"fmt"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// readPrompts computes the columns of prompted routers, each as mergekit-moe
// does: the mean of the block's input over all tokens of the expert's prompts,
// in the dense model, normalised. With PromptsContrast the mean over all
// experts is taken off before, which what all prompts have in common hides
// otherwise.
func (r *rewriter) readPrompts(blocks []*Block) error {
	o := r.options
	if o.GateInit != GatePrompts {
		return nil
	}
	if o.Run == nil {
		return errors.New("prompts need something that runs the model")
	}
	r.prompts = map[*Block][][]float64{}
	var values []string
	for _, b := range blocks {
		if b.scope.parent != nil {
			return fmt.Errorf("block %s is in %s, where prompts cannot be followed; exclude it, or use another gate init", b.Name, b.Graph)
		}
		values = append(values, b.Input)
	}
	dense := r.showing(values)
	means := map[string][][]float64{}
	for e, prompts := range o.Prompts {
		sums, tokens := map[string][]float64{}, map[string]float64{}
		for _, inputs := range prompts {
			err := r.watch(dense, inputs, func(value string, x *tensor.Tensor) error {
				states, err := tensor.Float64s(x)
				if err != nil {
					return err
				}
				d := x.Shape[len(x.Shape)-1]
				if sums[value] == nil {
					sums[value] = make([]float64, d)
				}
				for i, state := range states {
					sums[value][i%d] += state
				}
				tokens[value] += float64(len(states) / d)
				return nil
			})
			if err != nil {
				return fmt.Errorf("a prompt of expert %d: %w", e, err)
			}
		}
		for _, value := range values {
			if tokens[value] == 0 {
				return fmt.Errorf("the prompts of expert %d have no tokens", e)
			}
		}
		for value, sum := range sums {
			for i := range sum {
				sum[i] /= tokens[value]
			}
			means[value] = append(means[value], sum)
		}
	}
	for _, b := range blocks {
		columns := make([][]float64, len(means[b.Input]))
		for e, mean := range means[b.Input] {
			columns[e] = slices.Clone(mean)
		}
		if o.PromptsContrast {
			contrast(columns)
		}
		for _, column := range columns {
			normalize(column, o.GateScale)
		}
		r.prompts[b] = columns
	}
	return nil
}

// contrast takes their mean off vectors.
func contrast(vectors [][]float64) {
	for i := range vectors[0] {
		mean := 0.0
		for _, v := range vectors {
			mean += v[i] / float64(len(vectors))
		}
		for _, v := range vectors {
			v[i] -= mean
		}
	}
}

// showing returns the dense model with values of its main graph as outputs.
func (r *rewriter) showing(values []string) *onnx.Model {
	m := r.model.Clone()
	m.Graph.Outputs = nil
	for _, value := range slices.Compact(slices.Sorted(slices.Values(values))) {
		m.Graph.Outputs = append(m.Graph.Outputs, &onnx.ValueInfo{Name: value})
	}
	return m
}

// watch runs a model and shows its outputs, each of which has tokens in its
// last dimension.
func (r *rewriter) watch(m *onnx.Model, inputs map[string]*tensor.Tensor, see func(value string, x *tensor.Tensor) error) error {
	outputs, err := r.options.Run(m, inputs)
	if err != nil {
		return err
	}
	for _, v := range m.Graph.Outputs {
		x := outputs[v.Name]
		if x == nil || x.Rank() == 0 || x.Shape[x.Rank()-1] == 0 {
			return fmt.Errorf("value %q is not a tensor of tokens", v.Name)
		}
		if err := see(v.Name, x); err != nil {
			return err
		}
	}
	return nil
}
