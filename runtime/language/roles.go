package language

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/fmoe-go/fmoe/onnx"
)

// roles says what the inputs and outputs of a model are for.
type roles struct {
	tokens, mask, positions string // inputs; mask and positions may be ""
	caches                  []cache
	logits                  string
	vocabulary              int // 0 where the model does not state it
	types                   map[string]onnx.DataType
}

// cache is an input that holds a layer's keys or values, and the output that
// has those of the new tokens too.
type cache struct {
	past, present string
	shape         []int // with 0 for the dimension that grows
}

const (
	pastPrefix    = "past_key_values."
	presentPrefix = "present."
)

func findRoles(ins, outs []*onnx.ValueInfo) (roles, error) {
	r := roles{types: map[string]onnx.DataType{}}
	outputs := map[string]*onnx.ValueInfo{}
	for _, v := range outs {
		outputs[v.Name] = v
	}
	for _, v := range ins {
		if v.Type == nil || v.Type.Kind != onnx.KindTensor {
			return r, fmt.Errorf("input %q is %s, not a tensor", v.Name, v.Type)
		}
		r.types[v.Name] = v.Type.ElemType
		suffix, isPast := strings.CutPrefix(v.Name, pastPrefix)
		switch {
		case v.Name == "attention_mask":
			r.mask = v.Name
		case v.Name == "position_ids":
			r.positions = v.Name
		case isPast:
			c, err := newCache(v, presentPrefix+suffix)
			if err != nil {
				return r, err
			}
			if outputs[c.present] == nil {
				return r, fmt.Errorf("input %q has no output %q", c.past, c.present)
			}
			r.caches = append(r.caches, c)
		case v.Name == "input_ids" || r.tokens == "" && isInteger(v.Type.ElemType):
			r.tokens = v.Name
		default:
			return r, fmt.Errorf("input %q of type %s is none that a decoder language model has; it reads tokens, attention_mask, position_ids and %s*", v.Name, v.Type, pastPrefix)
		}
	}
	for _, name := range []string{r.tokens, r.mask, r.positions} {
		if t := r.types[name]; name != "" && !isInteger(t) {
			return r, fmt.Errorf("input %q is %s, needs int32 or int64", name, t)
		}
	}
	if r.tokens == "" {
		return r, errors.New("the model has no input for tokens; a decoder language model reads input_ids, int64 [batch, sequence]")
	}
	return r, r.findLogits(outs)
}

func isInteger(t onnx.DataType) bool { return t == onnx.Int64 || t == onnx.Int32 }

func newCache(v *onnx.ValueInfo, present string) (cache, error) {
	c := cache{past: v.Name, present: present}
	shape := v.Type.Shape
	if shape == nil || len(shape.Dims) != 4 {
		return c, fmt.Errorf("input %q is %s, needs 4 dimensions [batch, heads, past, size]", v.Name, v.Type)
	}
	c.shape = []int{1, int(shape.Dims[1].Value), 0, int(shape.Dims[3].Value)}
	if !shape.Dims[1].Known || !shape.Dims[3].Known || shape.Dims[2].Known {
		return c, fmt.Errorf("input %q is %s, needs [batch, heads, past, size] with fixed heads and size and an open past", v.Name, v.Type)
	}
	return c, nil
}

func (r *roles) findLogits(outputs []*onnx.ValueInfo) error {
	i := slices.IndexFunc(outputs, func(v *onnx.ValueInfo) bool { return v.Name == "logits" })
	if i < 0 {
		i = 0
	}
	if len(outputs) == 0 {
		return errors.New("the model has no output")
	}
	v := outputs[i]
	r.logits = v.Name
	if v.Type == nil || v.Type.Shape == nil {
		return nil
	}
	dims := v.Type.Shape.Dims
	if len(dims) != 3 {
		return fmt.Errorf("output %q is %s, not the logits [batch, sequence, vocabulary] of a decoder language model", v.Name, v.Type)
	}
	if dims[2].Known {
		r.vocabulary = int(dims[2].Value)
	}
	return nil
}
