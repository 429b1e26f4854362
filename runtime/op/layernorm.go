package op

import (
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
)

func init() {
	attributes := []string{"axis", "epsilon", "stash_type"}
	Register(
		// LayerNormalization, ONNX 17; ONNX Runtime has it as version 1 for
		// older models.
		Operator{Name: "LayerNormalization", Since: []int{1, 17}, Inputs: Between(2, 3), Outputs: Between(1, 3),
			Attributes: attributes, Infer: inferLayerNormalization},
		// RMSNormalization, ONNX 23.
		Operator{Name: "RMSNormalization", Since: []int{23}, Inputs: Exactly(2), Outputs: Exactly(1),
			Attributes: attributes, Infer: inferLayerNormalization},
		// SimplifiedLayerNormalization is ONNX Runtime's name for
		// RMSNormalization; output 1 is the inverse root mean square.
		Operator{Name: "SimplifiedLayerNormalization", Since: []int{1}, Inputs: Exactly(2), Outputs: Between(1, 2),
			Attributes: attributes, Infer: inferLayerNormalization},
		Operator{Domain: "com.microsoft", Name: "SimplifiedLayerNormalization", Since: []int{1}, Inputs: Exactly(2), Outputs: Between(1, 2),
			Attributes: attributes, Infer: inferLayerNormalization},
		// SkipLayerNormalization and SkipSimplifiedLayerNormalization of ONNX
		// Runtime normalise the sum of input, skip and an optional bias.
		Operator{Domain: "com.microsoft", Name: "SkipLayerNormalization", Since: []int{1}, Inputs: Between(3, 5), Outputs: Between(1, 4),
			Attributes: []string{"epsilon"}, Infer: inferSkipLayerNormalization},
		Operator{Domain: "com.microsoft", Name: "SkipSimplifiedLayerNormalization", Since: []int{1}, Inputs: Between(3, 4), Outputs: Between(1, 4),
			Attributes: []string{"epsilon"}, Infer: inferSkipLayerNormalization},
		// EmbedLayerNormalization of ONNX Runtime: the sum of BERT's
		// embeddings, normalised.
		Operator{Domain: "com.microsoft", Name: "EmbedLayerNormalization", Since: []int{1}, Inputs: Between(1, 9), Outputs: Between(1, 3),
			Attributes: []string{"epsilon", "mask_index_type"}, Infer: inferEmbedLayerNormalization},
	)
}

func inferLayerNormalization(c *Inference) error {
	if _, err := c.typeAmong(floatTypes, 0); err != nil {
		return err
	}
	same := []int{1, 2}
	if c.Node.Is("LayerNormalization") && c.Node.Since >= 17 {
		same = []int{0, 1, 2}
	}
	t, err := c.typeAmong(floatTypes, same...)
	if err != nil {
		return err
	}
	stash := onnx.DataType(c.Node.Int("stash_type", int64(onnx.Float32)))
	if stash != onnx.Float32 && stash != onnx.Float16 && stash != onnx.BFloat16 && stash != onnx.Float64 {
		return fmt.Errorf("stash_type %d is not a floating-point type that is supported", stash)
	}
	shape := c.Shape(0)
	c.Set(0, t, shape)
	if shape == nil {
		c.Set(1, stash, nil)
		c.Set(2, stash, nil)
		return nil
	}
	axis, err := Axis(c.Node.Int("axis", -1), len(shape))
	if err != nil {
		return err
	}
	for i := 1; i <= 2; i++ {
		if err := c.wantBroadcast(i, shape); err != nil {
			return err
		}
	}
	statistics := make([]Dim, len(shape))
	for i := range statistics {
		statistics[i] = 1
		if i < axis {
			statistics[i] = shape[i]
		}
	}
	c.Set(1, stash, statistics)
	c.Set(2, stash, statistics)
	return nil
}

func inferSkipLayerNormalization(c *Inference) error {
	t, err := c.typeAmong(floatTypes, 0, 1, 2, 3, 4)
	if err != nil {
		return err
	}
	shape := c.Shape(0)
	statistics := []Dim(nil)
	if shape != nil {
		if len(shape) != 2 && len(shape) != 3 {
			return fmt.Errorf("input 0 has shape %s, needs rank 2 or 3", FormatDims(shape))
		}
		if err := c.wantBroadcast(1, shape); err != nil {
			return err
		}
		hidden := shape[len(shape)-1]
		for i := 2; i <= 4; i++ {
			if err := c.wantShape(i, hidden); err != nil {
				return err
			}
		}
		statistics = append(append(statistics, shape[:len(shape)-1]...), 1)
	}
	c.Set(0, t, shape)
	c.Set(1, onnx.Float32, statistics)
	c.Set(2, onnx.Float32, statistics)
	c.Set(3, t, shape)
	return nil
}

func inferEmbedLayerNormalization(c *Inference) error {
	if err := c.wantInputs(0, 2, 3, 5, 6); err != nil {
		return err
	}
	ids := []onnx.DataType{onnx.Int32}
	if _, err := c.typeAmong(ids, 0, 1, 7, 8); err != nil {
		return err
	}
	t, err := c.typeAmong(floatTypes, 2, 3, 4, 5, 6)
	if err != nil {
		return err
	}
	if c.Has(1) != c.Has(4) {
		return fmt.Errorf("needs segment_ids and segment_embedding together")
	}
	batch, sequence, hidden := c.Fresh(), c.Fresh(), c.Fresh()
	if s := c.Shape(0); s != nil {
		if err := c.wantRank(0, 2); err != nil {
			return err
		}
		batch, sequence = s[0], s[1]
	}
	for _, i := range []int{2, 3, 4} {
		if err := c.wantRank(i, 2); err != nil {
			return err
		}
		if s := c.Shape(i); s != nil {
			if hidden, err = Unify(hidden, s[1]); err != nil {
				return fmt.Errorf("input %d: %w", i, err)
			}
		}
	}
	for _, i := range []int{5, 6} {
		if err := c.wantShape(i, hidden); err != nil {
			return err
		}
	}
	for _, i := range []int{1, 7} {
		if err := c.wantShape(i, batch, sequence); err != nil {
			return err
		}
	}
	if err := c.wantRank(8, 2); err != nil {
		return err
	}
	if err := c.wantBroadcast(8, []Dim{batch, sequence}); err != nil {
		return err
	}
	c.Set(0, t, []Dim{batch, sequence, hidden})
	c.Set(1, onnx.Int32, []Dim{batch})
	c.Set(2, t, []Dim{batch, sequence, hidden})
	return nil
}
