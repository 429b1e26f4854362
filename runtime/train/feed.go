package train

import (
	"fmt"
	"strings"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// Batch is what one pass through the model reads, by the names of inputs. The
// labels of the loss are "labels".
type Batch map[string]*tensor.Tensor

// labelsName is the name of labels in a Batch.
const labelsName = "labels"

// feed finds the value of a model's input in a batch. What a batch of tokens
// does not have follows from them: attention to all, positions from 0 on, one
// segment, and empty caches.
func (o *objective) feed(v *onnx.ValueInfo, batch Batch) (*tensor.Tensor, error) {
	if t := batch[v.Name]; t != nil {
		return converted(t, v)
	}
	tokens := batch["input_ids"]
	switch {
	case tokens == nil || len(tokens.Shape) != 2:
	case v.Name == "attention_mask":
		return filled(v, tokens.Shape, func(int) int64 { return 1 })
	case v.Name == "position_ids":
		return filled(v, tokens.Shape, func(i int) int64 { return int64(i % tokens.Shape[1]) })
	case v.Name == "token_type_ids":
		return filled(v, tokens.Shape, func(int) int64 { return 0 })
	case strings.HasPrefix(v.Name, "past_key_values."):
		if t := emptyCache(v, tokens.Shape[0]); t != nil {
			return t, nil
		}
	case o.only(v):
		return converted(tokens, v)
	}
	return nil, fmt.Errorf("the data has nothing for the model's input %q of type %s", v.Name, v.Type)
}

// only reports whether v is the only input of integers, which has the tokens
// whatever its name.
func (o *objective) only(v *onnx.ValueInfo) bool {
	for _, other := range o.inputs {
		if t := other.Type; t != nil && (t.ElemType == onnx.Int64 || t.ElemType == onnx.Int32) && other.Name != v.Name {
			return false
		}
	}
	return v.Type != nil && (v.Type.ElemType == onnx.Int64 || v.Type.ElemType == onnx.Int32)
}

// converted returns integers in the type that an input has.
func converted(t *tensor.Tensor, v *onnx.ValueInfo) (*tensor.Tensor, error) {
	if v.Type == nil || v.Type.ElemType == t.Type {
		return t, nil
	}
	x, err := t.Ints()
	if err != nil || v.Type.ElemType != onnx.Int32 && v.Type.ElemType != onnx.Int64 {
		return nil, fmt.Errorf("the data has %s for the model's input %q of type %s", t, v.Name, v.Type)
	}
	return filled(v, t.Shape, func(i int) int64 { return x[i] })
}

func filled(v *onnx.ValueInfo, shape []int, at func(i int) int64) (*tensor.Tensor, error) {
	if v.Type == nil {
		return nil, fmt.Errorf("the model's input %q has no type", v.Name)
	}
	t := tensor.New(v.Type.ElemType, shape...)
	for i := range t.Len() {
		switch t.Type {
		case onnx.Int64:
			tensor.Of[int64](t)[i] = at(i)
		case onnx.Int32:
			tensor.Of[int32](t)[i] = int32(at(i))
		case onnx.Float32:
			tensor.Of[float32](t)[i] = float32(at(i))
		case onnx.Bool:
			tensor.Of[bool](t)[i] = at(i) != 0
		default:
			return nil, fmt.Errorf("the model's input %q has the type %s, of which it cannot be filled", v.Name, v.Type)
		}
	}
	return t, nil
}

// emptyCache returns a cache [batch, heads, 0, size], nil where the input is
// none.
func emptyCache(v *onnx.ValueInfo, batch int) *tensor.Tensor {
	if v.Type == nil || v.Type.Shape == nil || len(v.Type.Shape.Dims) != 4 {
		return nil
	}
	d := v.Type.Shape.Dims
	if !d[1].Known || d[2].Known || !d[3].Known {
		return nil
	}
	return tensor.New(v.Type.ElemType, batch, int(d[1].Value), 0, int(d[3].Value))
}
