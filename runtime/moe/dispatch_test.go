package moe

import (
	"slices"
	"testing"
)

func TestDispatch(t *testing.T) {
	for _, c := range []struct {
		name       string
		experts, k int
		indices    []int32
		count      []int64
		offset     []int
		token, row []int32
	}{
		{"stable", 3, 1, []int32{2, 0, 2, 0}, []int64{2, 0, 2}, []int{0, 2, 2, 4}, []int32{1, 3, 0, 2}, []int32{2, 0, 3, 1}},
		{"two choices", 3, 2, []int32{2, 0, 1, 2}, []int64{1, 1, 2}, []int{0, 1, 2, 4}, []int32{0, 1, 0, 1}, []int32{2, 0, 1, 3}},
		{"dropped", 2, 2, []int32{-1, 1, 0, -1}, []int64{1, 1}, []int{0, 1, 2}, []int32{1, 0}, []int32{-1, 1, 0, -1}},
		{"all dropped", 2, 1, []int32{-1, -1}, []int64{0, 0}, []int{0, 0, 0}, nil, []int32{-1, -1}},
		{"no tokens", 2, 2, nil, []int64{0, 0}, []int{0, 0, 0}, nil, nil},
		{"one expert", 1, 1, []int32{0, 0}, []int64{2}, []int{0, 2}, []int32{0, 1}, []int32{0, 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := NewDispatch(c.experts, 8)
			for range 2 { // a second batch finds no trace of the first
				d.Sort(c.indices, c.k)
				if !slices.Equal(d.Count, c.count) {
					t.Errorf("counts %v, want %v", d.Count, c.count)
				}
				if !slices.Equal(d.Offset, c.offset) {
					t.Errorf("offsets %v, want %v", d.Offset, c.offset)
				}
				if !slices.Equal(d.Token, c.token) {
					t.Errorf("tokens %v, want %v", d.Token, c.token)
				}
				if !slices.Equal(d.Row, c.row) {
					t.Errorf("rows %v, want %v", d.Row, c.row)
				}
			}
			if n := testing.AllocsPerRun(1, func() { d.Sort(c.indices, c.k) }); n != 0 {
				t.Errorf("%v allocations", n)
			}
		})
	}
}
