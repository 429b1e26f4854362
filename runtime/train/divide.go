package train

import (
	"fmt"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/comm"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
	"github.com/fmoe-go/fmoe/runtime/train/safetensors"
)

// experts are the initializers of FMoE nodes that experts have: by their names,
// the slot of the input.
type experts map[string]int

// findExperts finds the experts of a model without function calls, and the
// least number that a layer has, 0 where there is none.
func findExperts(m *onnx.Model) (found experts, least int) {
	found = experts{}
	for _, n := range m.Graph.Nodes {
		if n.OpType != moe.OpType || n.Domain != moe.Domain {
			continue
		}
		for slot := moe.InputFC1Weight; slot <= moe.InputFC3Bias; slot++ {
			if t := m.Graph.Initializer(n.Input(slot)); t != nil {
				found[t.Name] = slot
			}
		}
		for _, slot := range []int{moe.InputFC1Weight, moe.InputFC2Weight, moe.InputFC3Weight} {
			if t := m.Graph.Initializer(n.Input(moe.Scales(slot))); t != nil {
				found[t.Name] = moe.Scales(slot)
			}
		}
		if t := m.Graph.Initializer(n.Input(moe.InputFC1Weight)); t != nil && len(t.Dims) > 0 && (least == 0 || int(t.Dims[0]) < least) {
			least = int(t.Dims[0])
		}
	}
	return found, least
}

// LimitLayout returns the layout for a model, whose layers may have fewer
// experts than there are workers to share them; see [comm.Layout.Limit].
func LimitLayout(m *onnx.Model, l comm.Layout) (comm.Layout, error) {
	m, err := inlined(m)
	if err != nil {
		return l, err
	}
	found, least := findExperts(m)
	l, err = l.Limit(least)
	if err == nil && len(found) == 0 && (l.Expert > 1 || l.Slice > 1 || l.Tensor > 1) {
		err = fmt.Errorf("the model has no mixture of experts that the layout %s would divide; use data=%d", l, l.Size())
	}
	return l, err
}

// hiddenAxis is the axis of an expert's tensor [T, …] along which its hidden
// width lies, 0 where it does not.
var hiddenAxis = map[int]int{moe.InputFC1Weight: 1, moe.InputFC1Bias: 1, moe.InputFC3Weight: 1, moe.InputFC3Bias: 1, moe.InputFC2Weight: 2}

// divide leaves a model, whose graph is the caller's own, with the part of its
// experts that one worker has, and returns which part of each initializer that
// is. Nothing is copied where experts are whole.
func divide(m *onnx.Model, found experts, g *comm.Groups) (map[string]*safetensors.Part, error) {
	parts := map[string]*safetensors.Part{}
	for _, n := range m.Graph.Nodes {
		if n.OpType != moe.OpType || n.Domain != moe.Domain {
			if in := slices.IndexFunc(n.Inputs, func(name string) bool { _, ok := found[name]; return ok }); in >= 0 && g.Layout.Expert*g.Layout.Tensor > 1 {
				return nil, fmt.Errorf("node %q (%s) reads %q, which experts have that workers divide; use data workers only", n.Name, n.OpType, n.Inputs[in])
			}
			continue
		}
		w := m.Graph.Initializer(n.Input(moe.InputFC1Weight))
		first := 0
		if w != nil && len(w.Dims) > 0 {
			first, _ = comm.Share(int(w.Dims[0]), g.Layout.Expert, g.Expert.Rank())
		} else if g.Layout.Expert*g.Layout.Tensor > 1 {
			return nil, fmt.Errorf("node %q (FMoE): its experts are computed by other nodes; workers divide initializers only", n.Name)
		}
		setInt(n, moe.AttributeFirstExpert, int64(first))
	}
	if g.Layout.Expert*g.Layout.Tensor == 1 {
		return parts, nil
	}
	m.Graph.Initializers = slices.Clone(m.Graph.Initializers)
	for i, t := range m.Graph.Initializers {
		slot, ok := found[t.Name]
		if !ok {
			continue
		}
		whole, err := tensor.FromONNX(t)
		if err != nil {
			return nil, fmt.Errorf("experts %q: %w", t.Name, err)
		}
		part, n, err := partOf(whole, t.Name, slot, g)
		if err != nil {
			return nil, err
		}
		parts[t.Name] = part
		m.Graph.Initializers[i] = n.ToONNX(t.Name)
	}
	return parts, nil
}

// partOf returns the part of an expert's tensor that one worker has. It shares
// the memory of the whole where its elements lie together.
func partOf(whole *tensor.Tensor, name string, slot int, g *comm.Groups) (*safetensors.Part, *tensor.Tensor, error) {
	if len(whole.Shape) == 0 || whole.Type.Bits()%8 != 0 {
		return nil, nil, fmt.Errorf("experts %q: %s cannot be divided", name, whole)
	}
	from, size := make([]int, len(whole.Shape)), slices.Clone(whole.Shape)
	lo, hi := comm.Share(size[0], g.Layout.Expert, g.Expert.Rank())
	from[0], size[0] = lo, hi-lo
	if n := g.Layout.Tensor; n > 1 {
		axis := hiddenAxis[slot]
		if axis >= len(size) || whole.Type == onnx.Uint8 {
			return nil, nil, fmt.Errorf("experts %q: %s cannot be divided along the hidden width; use tensor=1", name, whole)
		}
		if axis > 0 {
			if size[axis] < n {
				return nil, nil, fmt.Errorf("experts %q of hidden width %d cannot be divided among tensor=%d workers", name, size[axis], n)
			}
			lo, hi := comm.Share(size[axis], n, g.Tensor.Rank())
			from[axis], size[axis] = lo, hi-lo
		}
	}
	part := &safetensors.Part{Shape: whole.Shape, From: from}
	n := safetensors.Named{Name: name, Tensor: &tensor.Tensor{Type: whole.Type, Shape: size}, Part: part}
	bytes := tensor.ByteSize(whole.Type, tensor.Count(size))
	err := n.Ranges(func(at, _ int64, run int) error {
		if run == bytes {
			n.Data = whole.Data[at : at+int64(run) : at+int64(run)]
		}
		return nil
	})
	if err == nil && n.Data == nil {
		n.Tensor = tensor.New(whole.Type, size...)
		err = n.TakeFrom(whole)
	}
	return part, n.Tensor, err
}
