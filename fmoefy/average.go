package fmoefy

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// averageRest replaces the floating-point initializers that are left of the
// dense model by their means over the experts' models; experts without a model
// count as this one. The initializers of a model are found by graph and name.
func (r *rewriter) averageRest() error {
	others := map[int]map[string]*onnx.Tensor{}
	for e, m := range r.others {
		others[e] = map[string]*onnx.Tensor{}
		for _, s := range scopes(m) {
			for _, t := range s.graph.Initializers {
				others[e][s.path+" "+t.Name] = t
			}
		}
	}
	for _, s := range scopes(r.model) {
		for i, t := range s.graph.Initializers {
			if !r.dense[t] {
				continue
			}
			mean := &average{base: t, experts: r.options.NumExperts}
			for _, e := range slices.Sorted(maps.Keys(others)) {
				other := others[e][s.path+" "+t.Name]
				if err := averageable(t, other); err != nil {
					return fmt.Errorf("the model for expert %d, %s: initializer %q: %w", e, r.options.Models[e].Name, t.Name, err)
				}
				mean.others = append(mean.others, other)
			}
			if computable(t.DataType) {
				averaged := &onnx.Tensor{Name: t.Name, DataType: t.DataType, Dims: t.Dims, DocString: t.DocString, Metadata: t.Metadata}
				averaged.SetSource(mean)
				s.graph.Initializers[i] = averaged
			}
		}
	}
	return nil
}

// averageable fails unless a tensor of another model has a mean with that of
// the base.
func averageable(base, other *onnx.Tensor) error {
	switch {
	case other == nil:
		return fmt.Errorf("it is missing, so that there is no average (--rest base takes it from the base)")
	case other.DataType != base.DataType || !slices.Equal(other.Dims, base.Dims):
		return fmt.Errorf("it is %s%v, the base's is %s%v", other.DataType, other.Dims, base.DataType, base.Dims)
	case computable(base.DataType) || base.DataType == onnx.String:
		return nil
	}
	a, err := base.Bytes()
	if err != nil {
		return err
	}
	b, err := other.Bytes()
	if err != nil {
		return err
	}
	if !bytes.Equal(a, b) {
		return fmt.Errorf("it is %s and differs from the base's, and only floating-point numbers have an average (--rest base takes it from the base)", base.DataType)
	}
	return nil
}

// average is the source of the mean over experts' models of a tensor that some
// of them have as the base has it.
type average struct {
	base    *onnx.Tensor
	others  []*onnx.Tensor
	experts int
}

func (s *average) Size() int64 {
	n, _ := s.base.ByteSize()
	return n
}

// WriteTo implements [onnx.Source]. What all models have is kept to the bit.
func (s *average) WriteTo(w io.Writer) (int64, error) {
	width := s.base.DataType.Bits() / 8
	read := func(t *onnx.Tensor) ([]byte, error) {
		x, err := tensor.FromONNX(t)
		if err != nil {
			return nil, err
		}
		return x.Data, nil
	}
	base, err := read(s.base)
	if err != nil {
		return 0, err
	}
	others := make([][]byte, len(s.others))
	for i, t := range s.others {
		if others[i], err = read(t); err != nil {
			return 0, err
		}
	}
	written := int64(0)
	for start := 0; start < len(base); start += chunk * width {
		end := min(start+chunk*width, len(base))
		values := widen(s.base.DataType, base[start:end])
		sums := make([]float64, len(values))
		for _, other := range others {
			for i, x := range widen(s.base.DataType, other[start:end]) {
				if x != values[i] { // infinities of masks have no difference
					sums[i] += x - values[i]
				}
			}
		}
		for i, sum := range sums {
			if sum != 0 {
				values[i] += sum / float64(s.experts)
			}
		}
		n, err := w.Write(narrow(s.base.DataType, values))
		if written += int64(n); err != nil {
			return written, err
		}
	}
	return written, nil
}
