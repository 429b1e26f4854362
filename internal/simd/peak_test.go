package simd

import "testing"

func TestPeak(t *testing.T) {
	one := Peak(1)
	if one <= 0 || Peak(1000) != 1000*one || Peak(0) != 0 {
		t.Errorf("%d operations in a round, %d in 1000", one, Peak(1000))
	}
}

func BenchmarkPeak(b *testing.B) {
	operations := Peak(b.N)
	b.ReportMetric(float64(operations)/float64(b.Elapsed().Nanoseconds()), "GFLOP/s")
}
