package cpu

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	register("", "NonZero", newElementwise)
	register("", "Unique", newElementwise)
}

func bindNonZero[T tensor.Element](_ *Device, _ *op.Node, c *device.Call) (func() error, error) {
	in, out := c.In[0], c.Out[0]
	if in.Rank() > maxLoops {
		return nil, fmt.Errorf("%d dimensions are not supported", in.Rank())
	}
	loops := make([]loop, in.Rank())
	for i, dim := range in.Shape {
		loops[i].length = dim
	}
	open := openOutputs(c)
	return func() error {
		var zero T
		x, count := tensor.Of[T](in), 0
		for _, v := range x {
			if v != zero {
				count++
			}
		}
		open.shape(0, in.Rank(), count)
		y, column := tensor.Of[int64](out), 0
		o := odometer{loops: loops}
		for _, v := range x {
			if v != zero {
				for i := range loops {
					y[i*count+column] = int64(o.at[i])
				}
				column++
			}
			o.next()
		}
		return nil
	}, nil
}

// bindUnique is for elements that view finds in a tensor.
func bindUnique[T cmp.Ordered](view func(*tensor.Tensor) []T) binder {
	return func(_ *Device, n *op.Node, c *device.Call) (func() error, error) {
		in, flat := c.In[0], n.Attribute("axis") == nil
		outer, length, inner, axis := 1, in.Len(), 1, 0
		if !flat {
			var err error
			if axis, err = op.Axis(n.Int("axis", 0), in.Rank()); err != nil {
				return nil, err
			}
			outer, length, inner = splitAt(in.Shape, axis)
		}
		sorted, open := n.Int("sorted", 1) != 0, openOutputs(c)
		return func() error {
			x := view(in)
			compare := func(a, b int) int {
				for o := range outer {
					left, right := x[(o*length+a)*inner:][:inner], x[(o*length+b)*inner:][:inner]
					for i := range left {
						if order := compareNaNLast(left[i], right[i]); order != 0 {
							return order
						}
					}
				}
				return 0
			}
			groups, inverse := equalGroups(length, compare, sorted)
			shape := []int{len(groups)}
			if !flat {
				shape = slices.Concat(in.Shape[:axis], shape, in.Shape[axis+1:])
			}
			if c.Out[0] != nil {
				open.shape(0, shape...)
				y := view(c.Out[0])
				for o := range outer {
					for i, g := range groups {
						copy(y[(o*len(groups)+i)*inner:][:inner], x[(o*length+g.first)*inner:])
					}
				}
			}
			lists := [3][]int64{make([]int64, len(groups)), inverse, make([]int64, len(groups))}
			for i, g := range groups {
				lists[0][i], lists[2][i] = int64(g.first), g.count
			}
			for i, list := range lists {
				if at(c.Out, i+1) != nil {
					open.shape(i+1, len(list))
					copy(tensor.Of[int64](c.Out[i+1]), list)
				}
			}
			return nil
		}, nil
	}
}

// compareNaNLast is cmp.Compare with NaN, all of which are equal, at the end.
func compareNaNLast[T cmp.Ordered](a, b T) int {
	switch {
	case a != a && b == b:
		return 1
	case a == a && b != b:
		return -1
	}
	return cmp.Compare(a, b)
}

// group is a set of equal items: the first of them and how many there are.
type group struct {
	first int
	count int64
}

// equalGroups groups items 0 … n−1 that compare equal, and says for each item
// in which group it is. The groups are sorted, or in the order of their first
// items.
func equalGroups(n int, compare func(a, b int) int, sorted bool) (groups []group, membership []int64) {
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, compare)
	membership = make([]int64, n)
	for i, item := range order {
		if i == 0 || compare(order[i-1], item) != 0 {
			groups = append(groups, group{first: item})
		}
		groups[len(groups)-1].count++
		membership[item] = int64(len(groups) - 1)
	}
	if sorted {
		return groups, membership
	}
	rank := make([]int, len(groups)) // the groups by their first items
	for i := range rank {
		rank[i] = i
	}
	slices.SortFunc(rank, func(a, b int) int { return groups[a].first - groups[b].first })
	place, ordered := make([]int64, len(groups)), make([]group, len(groups))
	for i, g := range rank {
		place[g], ordered[i] = int64(i), groups[g]
	}
	for i, g := range membership {
		membership[i] = place[g]
	}
	return ordered, membership
}
