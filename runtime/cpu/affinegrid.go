package cpu

import (
	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	register("", "AffineGrid", floatKernel(bindAffineGrid[float32], bindAffineGrid[float64], 0))
}

// bindAffineGrid maps the places of an output, from −1 to 1 along each axis,
// to those of an input.
func bindAffineGrid[T simd.Float](d *Device, c *device.Call, n *op.Node) (func() error, error) {
	shape := c.Out[0].Shape
	axes := len(shape) - 2
	lengths := shape[1 : axes+1]
	points := tensor.Count(lengths)
	corners := n.Int("align_corners", 0) != 0
	coordinate := func(i, length int) float64 {
		switch {
		case !corners:
			return (2*float64(i)+1)/float64(length) - 1
		case length == 1:
			return -1
		}
		return 2*float64(i)/float64(length-1) - 1
	}
	body := func(lo, hi int) {
		theta, y := tensor.Of[T](c.In[0]), tensor.Of[T](c.Out[0])
		for i := lo; i < hi; i++ {
			rows := theta[i/points*axes*(axes+1):]
			var at [3]float64 // x first, which is the last axis
			rest := i % points
			for a := range axes {
				length := lengths[axes-1-a]
				at[a] = coordinate(rest%length, length)
				rest /= length
			}
			for a := range axes {
				row := rows[a*(axes+1):][:axes+1]
				sum := float64(row[axes])
				for b := range axes {
					sum += float64(row[b]) * at[b]
				}
				y[i*axes+a] = T(sum)
			}
		}
	}
	return func() error {
		d.pool.run(shape[0]*points, 1024, body)
		return nil
	}, nil
}
