package cpu

import (
	"math"

	"github.com/fmoe-go/fmoe/internal/simd"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	register("", "Det", floatKernel(bindDet[float32], bindDet[float64], 0))
	register(moe.Domain, "DetGradient", floatKernel(bindDetGradient[float32], bindDetGradient[float64], 0, 1))
}

// bindDet eliminates below the largest element of each column.
func bindDet[T simd.Float](d *Device, c *device.Call, _ *op.Node) (func() error, error) {
	n := c.In[0].Shape[c.In[0].Rank()-1]
	spares := newSpares(d, func() *[]float64 {
		m := make([]float64, n*n)
		return &m
	})
	body := func(lo, hi int) {
		work := spares.take()
		defer spares.give(work)
		m := *work
		for i := lo; i < hi; i++ {
			for j, v := range tensor.Of[T](c.In[0])[i*n*n:][:n*n] {
				m[j] = float64(v)
			}
			tensor.Of[T](c.Out[0])[i] = T(determinant(m, n))
		}
	}
	return func() error {
		d.pool.run(c.Out[0].Len(), max(1, 4096/max(n*n*n, 1)), body)
		return nil
	}, nil
}

// bindDetGradient computes cofactors from their definition, so that matrices
// without an inverse have them too.
func bindDetGradient[T simd.Float](d *Device, c *device.Call, _ *op.Node) (func() error, error) {
	n := c.In[1].Shape[c.In[1].Rank()-1]
	minors := newSpares(d, func() *[]float64 {
		m := make([]float64, max(n-1, 0)*max(n-1, 0))
		return &m
	})
	body := func(lo, hi int) {
		work := minors.take()
		defer minors.give(work)
		g, x, y := tensor.Of[T](c.In[0]), tensor.Of[T](c.In[1]), tensor.Of[T](c.Out[0])
		for i := lo; i < hi; i++ {
			matrix, row, column := i/(n*n), i/n%n, i%n
			m := (*work)[:0]
			for r := range n {
				for k, v := range x[(matrix*n+r)*n:][:n] {
					if r != row && k != column {
						m = append(m, float64(v))
					}
				}
			}
			cofactor := determinant(m, n-1)
			if (row+column)%2 == 1 {
				cofactor = -cofactor
			}
			y[i] = T(float64(g[matrix]) * cofactor)
		}
	}
	return func() error {
		d.pool.run(c.Out[0].Len(), max(1, 4096/max(n*n*n, 1)), body)
		return nil
	}, nil
}

// determinant destroys m, a matrix of n × n.
func determinant(m []float64, n int) float64 {
	product := 1.0
	for k := range n {
		pivot := k
		for i := k + 1; i < n; i++ {
			if math.Abs(m[i*n+k]) > math.Abs(m[pivot*n+k]) {
				pivot = i
			}
		}
		if pivot != k {
			product = -product
			for j := range n {
				m[k*n+j], m[pivot*n+j] = m[pivot*n+j], m[k*n+j]
			}
		}
		product *= m[k*n+k]
		if m[k*n+k] == 0 {
			return 0
		}
		for i := k + 1; i < n; i++ {
			factor := m[i*n+k] / m[k*n+k]
			for j := k; j < n; j++ {
				m[i*n+j] -= factor * m[k*n+j]
			}
		}
	}
	return product
}
