package moe

import "slices"

// Costs are what it takes to let rows or weights travel between workers, in a
// forward pass. A backward pass costs about twice as much of each.
type Costs struct {
	RowBytes    float64 // of a row, one way
	ExpertBytes float64 // of an expert's weights
	RowWork     float64 // floating-point operations of an expert for a row

	Bandwidth float64 // bytes a second of a worker's connection, each way
	Speed     float64 // floating-point operations a second of a worker
}

// Borrow returns, in ascending order, the experts that workers borrow: those of
// the most rows from others, one after the other, as long as the slowest
// worker, by an estimate, is done clearly sooner. It follows from what was counted and
// the costs, which must be the same on all workers. Without a measured bandwidth
// nothing is borrowed.
func (x *Exchange) Borrow(c Costs) []int {
	if !(c.Bandwidth > 0 && c.Speed > 0) {
		return nil
	}
	experts := make([]int, x.owned[x.workers])
	foreign := make([]int, len(experts)) // rows from others
	for w := range x.workers {
		for e, n := range x.row(w) {
			if e < x.owned[w] || e >= x.owned[w+1] {
				foreign[e] += n
			}
		}
	}
	for e := range experts {
		experts[e] = e
	}
	slices.SortStableFunc(experts, func(a, b int) int { return foreign[b] - foreign[a] })
	borrowed := make([]bool, len(experts))
	time := x.estimate(c, borrowed)
	var list []int
	for _, e := range experts {
		borrowed[e] = true
		with := x.estimate(c, borrowed)
		if with > worthwhile*time {
			break
		}
		time = with
		list = append(list, e)
	}
	slices.Sort(list)
	return list
}

// worthwhile is the share of a time that is left where something saves enough
// of it.
const worthwhile = 0.95

// estimate returns the seconds until the slowest worker is done if nothing
// overlaps.
func (x *Exchange) estimate(c Costs, borrowed []bool) float64 {
	var out, in, rows = make([]int, x.workers), make([]int, x.workers), make([]int, x.workers)
	lent := 0
	for owner := range x.workers {
		for e := x.owned[owner]; e < x.owned[owner+1]; e++ {
			if borrowed[e] {
				lent++
			}
			for w := range x.workers {
				n := x.row(w)[e]
				switch {
				case borrowed[e] || w == owner:
					rows[w] += n
				default:
					rows[owner] += n
					out[w] += n
					in[owner] += n
				}
			}
		}
	}
	// A row's result goes back where it came from. A broadcast sends each part
	// of the weights twice.
	traffic := 2*c.RowBytes*float64(max(slices.Max(out), slices.Max(in))) + 2*c.ExpertBytes*float64(lent)
	return traffic/c.Bandwidth + c.RowWork*float64(slices.Max(rows))/c.Speed
}
