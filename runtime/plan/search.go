package plan

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/fmoe-go/fmoe/runtime/comm"
)

// Layouts returns all layouts of so many workers that the model and the
// options allow, by predicted time of a step, then by memory. The first fit of
// them fit into the memory of a worker.
func (m *Model) Layouts(c *Cluster, workers int, o Options) (list []*Prediction, fit int, err error) {
	if workers < 1 || workers > MaxWorkers {
		return nil, 0, fmt.Errorf("%d workers: plans are for 1 to %d", workers, MaxWorkers)
	}
	memory := c.worker(workers).Memory
	eachDivisor(workers, func(tensor, rest int) {
		eachDivisor(rest, func(slice, rest int) {
			eachDivisor(rest, func(expert, rest int) {
				eachDivisor(rest, func(pipeline, data int) {
					l := comm.Layout{Data: data, Expert: expert, Slice: slice, Tensor: tensor, Pipeline: pipeline}
					p, err := m.Predict(c, l, o)
					if err == nil {
						list = append(list, p)
						if p.Total <= memory {
							fit++
						}
					}
				})
			})
		})
	})
	if len(list) == 0 {
		return nil, 0, fmt.Errorf("no layout of %d workers is possible with %d sequences in a step; use more sequences or fewer workers", workers, o.Batch)
	}
	over := func(p *Prediction) int {
		if p.Total > memory {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(list, func(a, b *Prediction) int {
		return cmp.Or(cmp.Compare(over(a), over(b)), cmp.Compare(a.Step, b.Step), cmp.Compare(a.Total, b.Total))
	})
	return list, fit, nil
}

// eachDivisor calls f with each way to write n as a product of two.
func eachDivisor(n int, f func(divisor, rest int)) {
	for d := 1; d <= n; d++ {
		if n%d == 0 {
			f(d, n/d)
		}
	}
}

// Scaling returns the best layout that fits into memory for 1, 2, 4, … workers,
// up to [MaxWorkers], each with as many sequences as so many workers have in
// the options for workers. A cluster is continued with more nodes of its kind.
// What has no layout that fits is left out.
func (m *Model) Scaling(c *Cluster, workers int, o Options) []*Prediction {
	var curve []*Prediction
	each := float64(o.Batch) / float64(workers)
	for n := 1; n <= MaxWorkers; n *= 2 {
		of := o
		of.Batch = max(1, int(each*float64(n)))
		list, fit, err := m.Layouts(c, n, of)
		if err == nil && fit > 0 {
			curve = append(curve, list[0])
		}
	}
	return curve
}
