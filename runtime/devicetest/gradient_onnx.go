package devicetest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// ErrNoGradient says that a case is not one of gradients.
var ErrNoGradient = errors.New("not a single node with a gradient that takes elements of float64")

// notLearned are inputs, tables and the weights of classes, that get no
// gradient, and grids, whose points are in the middle between elements.
var notLearned = map[string][]int{
	"GridSample":                {1},
	"NegativeLogLikelihoodLoss": {2},
	"RotaryEmbedding":           {1, 2},
	"SoftmaxCrossEntropyLoss":   {2},
}

// kinks are ONNX's cases whose inputs lie where there is no derivative, where
// differences are not precise enough, or with outputs that have no gradient.
var kinks = map[string]string{
	"test_attention_4d_softcap_neginf_mask":            "−∞",
	"test_attention_4d_softcap_neginf_mask_poison":     "−∞",
	"test_acosh_example":                               "the end of the domain",
	"test_batchnorm_epsilon_training_mode":             "running statistics have no gradient",
	"test_batchnorm_example_training_mode":             "running statistics have no gradient",
	"test_l2normalization_axis_0":                      "0",
	"test_elu_example":                                 "0",
	"test_floor_example":                               "a whole number",
	"test_hardmax_one_hot":                             "equal elements",
	"test_leakyrelu_example":                           "0",
	"test_logsoftmax_large_number":                     "steps are in proportion to elements of 10,000",
	"test_maxpool_3d_dilations":                        "equal elements",
	"test_maxpool_3d_dilations_use_ref_impl":           "equal elements",
	"test_onehot_with_axis":                            "indices are floating-point numbers",
	"test_onehot_with_negative_axis":                   "indices are floating-point numbers",
	"test_pow":                                         "the end of the domain",
	"test_reduce_min_default_axes_keepdims_example":    "equal elements",
	"test_resize_downsample_sizes_nearest_not_smaller": "refused: a length that is rounded",
	"test_round":                                       "halves",
	"test_selu_example":                                "0",
	"test_sign":                                        "0",
	"test_softmax_large_number":                        "steps are in proportion to elements of 10,000",
	"test_thresholdedrelu_example":                     "the threshold",
	"test_training_dropout_zero_ratio":                 "the end of the domain",
	"test_training_dropout_zero_ratio_mask":            "the end of the domain",
	"test_unique_not_sorted_without_axis":              "equal elements",
	"test_unique_sorted_with_axis":                     "equal elements",
	"test_unique_sorted_with_axis_3d":                  "equal elements",
	"test_unique_sorted_with_negative_axis":            "equal elements",
	"test_unique_sorted_without_axis":                  "equal elements",
}

// RunGradients compares the gradients of the node in one of ONNX's cases with
// central differences, in float64 for the float32 that the case has. It
// returns ErrNoGradient for cases without a node that can be compared.
func RunGradients(c Case, o runtime.Options) error {
	if kinks[c.Name] != "" || Exception(c) != "" {
		return ErrNoGradient
	}
	m, err := onnx.Decode(c.Model)
	if err != nil {
		return err
	}
	with, inputs, err := widenCase(m, c)
	if err != nil {
		return err
	}
	forward, err := runtime.New(m, runtime.Options{Device: o.Device, Threads: o.Threads})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoGradient, err)
	}
	out, err := forward.Run(context.Background(), inputs)
	forward.Close()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoGradient, err)
	}
	if !differentiable(out) {
		return ErrNoGradient
	}
	(&GradientCase{}).loss(m, out, rand.New(rand.NewPCG(1, 2)))
	o.Gradient = &runtime.Gradient{Of: "loss", With: with}
	s, err := runtime.New(m, o)
	if errors.Is(err, op.ErrNoGradient) {
		return fmt.Errorf("%w: %w", ErrNoGradient, err)
	}
	if err != nil {
		return err
	}
	defer s.Close()
	return CompareGradients(s, with, inputs, 0)
}

// differentiable reports whether there are outputs of floating-point numbers,
// all of which are finite and precise enough for differences.
func differentiable(out map[string]*tensor.Tensor) bool {
	any := false
	for _, y := range out {
		if !y.Type.IsFloat() {
			continue
		}
		if y.Type != onnx.Float64 {
			return false
		}
		any = true
		for _, v := range tensor.Of[float64](y) {
			if math.IsNaN(v) || math.IsInf(v, 0) {
				return false
			}
		}
	}
	return any
}

// widenCase turns the model of a case into one of float64, whose values have
// names that the loss does not use. Gradients are with respect to with.
func widenCase(m *onnx.Model, c Case) (with []string, inputs map[string]*tensor.Tensor, err error) {
	g := m.Graph
	if len(g.Nodes) != 1 || len(c.Data) == 0 || len(g.Initializers) > 0 {
		return nil, nil, ErrNoGradient
	}
	n := g.Nodes[0]
	version, _ := m.OpsetVersion(n.Domain)
	resolved, err := op.Resolve(n, version)
	if err != nil || resolved.Operator.Gradient == nil {
		return nil, nil, ErrNoGradient
	}
	rename := func(list []string) {
		for i, name := range list {
			if name != "" {
				list[i] = "case/" + name
			}
		}
	}
	rename(n.Inputs)
	rename(n.Outputs)
	n.Name, g.ValueInfo = n.OpType, nil
	inputs = map[string]*tensor.Tensor{}
	declared := g.Inputs
	g.Inputs = nil
	for i, v := range declared {
		v.Name = "case/" + v.Name
		at := slices.Index(n.Inputs, v.Name)
		if v.Type == nil || v.Type.Kind != onnx.KindTensor || at < 0 || i >= len(c.Data[0].Inputs) {
			return nil, nil, ErrNoGradient
		}
		t, err := decode(c.Data[0].Inputs[i])
		if err != nil {
			return nil, nil, err
		}
		if slices.Contains(resolved.Operator.Parameters, at) {
			g.Initializers = append(g.Initializers, t.ToONNX(v.Name))
			continue
		}
		if t.Type == onnx.Float32 {
			wide := tensor.New(onnx.Float64, t.Shape...)
			tensor.ConvertFloat(wide, t)
			t = wide
		}
		v.Type.ElemType, inputs[v.Name] = t.Type, t
		g.Inputs = append(g.Inputs, v)
		if t.Type == onnx.Float64 && !slices.Contains(notLearned[n.OpType], at) {
			with = append(with, v.Name)
		}
	}
	for _, v := range g.Outputs {
		*v = onnx.ValueInfo{Name: "case/" + v.Name}
	}
	if len(with) == 0 {
		return nil, nil, ErrNoGradient
	}
	return with, inputs, nil
}
