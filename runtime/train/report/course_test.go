package report

import (
	"math"
	"testing"
)

// TestCourse: whatever the number of records, points are few, are of equally
// many records, follow one another, and their means are those of their records.
func TestCourse(t *testing.T) {
	value := func(step int) float64 {
		if step%5 == 0 {
			return math.Inf(1)
		}
		return math.Sin(float64(step)) * float64(step)
	}
	for _, records := range []int{1, 7, 8, 9, 16, 17, 1000, 1023} {
		c := newCourse(8, true)
		for step := 1; step <= records; step++ {
			c.add(int64(step), []float64{value(step), math.NaN()})
		}
		if n := len(c.points); n > 8 || records >= 8 && n < 4 {
			t.Errorf("%d records: %d points", records, n)
		}
		step := 0
		for i, p := range c.points {
			if p.first != int64(step+1) || p.records != c.each && i+1 < len(c.points) || p.last != p.first+int64(p.records)-1 {
				t.Fatalf("%d records: point %d is of %d from %d to %d, %d each", records, i, p.records, p.first, p.last, c.each)
			}
			sum, n, low, high := 0.0, 0.0, math.Inf(1), math.Inf(-1)
			for range p.records {
				step++
				if x := value(step); !math.IsInf(x, 0) {
					sum, n, low, high = sum+x, n+1, min(low, x), max(high, x)
				}
			}
			if got := p.mean(0); math.Abs(got-sum/n) > 1e-12*float64(records) || p.low[0] != low || p.high[0] != high || !math.IsNaN(p.mean(1)) {
				t.Errorf("%d records, point %d: mean %v, least %v, largest %v, want %v, %v, %v", records, i, got, p.low[0], p.high[0], sum/n, low, high)
			}
		}
		if step != records {
			t.Errorf("the points are of %d records, want %d", step, records)
		}
	}
}

func TestSmooth(t *testing.T) {
	if got := smooth([]float64{3, 3, math.Inf(1), 3}, 10); math.Abs(got[0]-3) > 1e-15 || !math.IsNaN(got[2]) || math.Abs(got[3]-3) > 1e-15 {
		t.Errorf("what is even becomes %v", got)
	}
	// Half of what is new, and backwards half of what is new in that.
	last := (0.25*1 + 0.5*2) / 0.75
	if got := smooth([]float64{1, 2}, 3); math.Abs(got[0]-(0.25*last+0.5*1)/0.75) > 1e-15 || got[1] != last {
		t.Errorf("two numbers become %v", got)
	}
	line := make([]float64, 400)
	for i := range line {
		line[i] = float64(i)
	}
	if got := smooth(line, 10)[200]; math.Abs(got-200) > 1e-9 {
		t.Errorf("the middle of a straight line becomes %v", got)
	}
}
