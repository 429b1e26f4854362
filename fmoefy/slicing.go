package fmoefy

import (
	"fmt"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
)

// part selects every step-th row from start, count in all.
type part struct{ start, step, count int64 }

// slicing is a piece of the last axis of source. within says which, once the
// axis's length is known.
type slicing struct {
	source string
	within func(length int64) (part, bool)
}

// section is the index-th of equal sections of a given size.
func section(index, size int64) func(int64) (part, bool) {
	return func(length int64) (part, bool) {
		ok := size > 0 && index >= 0 && length%size == 0 && index < length/size
		return part{index * size, 1, size}, ok
	}
}

// sectionOf is the index-th of count equal sections.
func sectionOf(index, count int64) func(int64) (part, bool) {
	return func(length int64) (part, bool) {
		return part{index * (length / count), 1, length / count}, length%count == 0
	}
}

// sectionAmong is the index-th of sections of the given sizes.
func sectionAmong(index int64, sizes []int64) func(int64) (part, bool) {
	return func(length int64) (part, bool) {
		p, total := part{step: 1}, int64(0)
		for i, size := range sizes {
			if size < 0 || size > length {
				return part{}, false
			}
			if int64(i) == index {
				p.start, p.count = total, size
			}
			total += size
		}
		return p, total == length && index >= 0 && index < int64(len(sizes))
	}
}

// takesPart reports whether n takes a piece of its input.
func takesPart(n *onnx.Node) bool {
	return n.Is("Split") || n.Is("Slice") || n.Is("SequenceAt") || n.Is("SplitToSequence")
}

// slicingOf reads the node that gives value: a Split, a Slice, or a SequenceAt
// of a SplitToSequence. It returns nil where the pieces are not constant.
func (s *scope) slicingOf(n *onnx.Node, value string) *slicing {
	index := int64(slices.Index(n.Outputs, value))
	switch n.OpType {
	case "Slice":
		return &slicing{n.Input(0), func(length int64) (part, bool) { return s.sliceOf(n, length) }}
	case "SequenceAt":
		at, ok := s.scalar(n.Input(1))
		split := s.producer(n.Input(0))
		if !ok || split == nil || !split.Is("SplitToSequence") || split.Input(1) == "" {
			return nil
		}
		n, index = split, int64(at)
	case "SplitToSequence":
		return nil
	}
	sizes := n.Ints("split")
	if n.Input(1) != "" {
		c, err := s.constant(n.Input(1))
		if err != nil {
			return nil
		}
		list, ok := c.integers()
		if !ok {
			return nil
		}
		if len(c.dims) == 0 {
			return &slicing{n.Input(0), section(index, list[0])}
		}
		sizes = list
	}
	if len(sizes) == 0 {
		return &slicing{n.Input(0), sectionOf(index, int64(len(n.Outputs)))}
	}
	return &slicing{n.Input(0), sectionAmong(index, sizes)}
}

// sliceOf returns what a Slice node with one constant axis takes of an axis of
// length n.
func (s *scope) sliceOf(n *onnx.Node, length int64) (part, bool) {
	read := func(slot int, name string, fallback int64) (int64, bool) {
		list := n.Ints(name)
		if n.Input(slot) != "" {
			dims, ok := s.dimsOf(n.Input(slot), maxDepth)
			if !ok || len(dims) != 1 || !dims[0].known() {
				return 0, false
			}
			return dims[0].factor, true
		}
		if len(list) == 1 {
			return list[0], true
		}
		return fallback, len(list) == 0 && name != "starts" && name != "ends"
	}
	start, okStart := read(1, "starts", 0)
	end, okEnd := read(2, "ends", 0)
	step, okStep := read(4, "steps", 1)
	if !okStart || !okEnd || !okStep || step < 1 {
		return part{}, false
	}
	clamp := func(i int64) int64 {
		if i < 0 {
			i += length
		}
		return max(0, min(i, length))
	}
	start, end = clamp(start), clamp(end)
	if end <= start {
		return part{}, false
	}
	return part{start, step, (end - start + step - 1) / step}, true
}

// partOf returns the rows of a linear layer that make a piece of its result.
// That the piece is one of the last axis, not of another, is settled by the
// caller: the second projection fits only then. A reshape between the layer
// and the piece would have to keep the last axis.
func (s *scope) partOf(l *linear, taken *slicing) *linear {
	for value := taken.source; ; {
		n := s.producer(value)
		input, ok := s.keepsElements(n)
		if !ok {
			break
		}
		if changesShape(n) {
			shape := s.shapeOf(value)
			if len(shape) == 0 || !shape[len(shape)-1].is(l.out()) {
				l.fail(fmt.Errorf("%s between the projection and its halves may change the last axis", nodeName(n)))
				return l
			}
		}
		value = input
	}
	rows, ok := taken.within(l.out())
	if !ok {
		l.fail(fmt.Errorf("the parts of %q are not constant", taken.source))
		return l
	}
	l.weight = l.weight.part(rows)
	if l.bias != nil {
		l.bias = l.bias.part(rows)
	}
	return l
}
