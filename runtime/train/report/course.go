package report

import (
	"math"
	"slices"
)

// course keeps how numbers went over any number of records in bounded memory:
// as points, each the mean of equally many records, but for the last one. When
// there are too many points, each two become one.
type course struct {
	most    int  // points; even
	each    int  // records of a point
	extreme bool // the least and the largest number of each point are kept
	points  []point
}

// point is what is known of some records that follow one another.
type point struct {
	records     int
	first, last int64     // steps
	sums        []float64 // of what is finite
	counts      []int32   // how much that is
	low, high   []float64 // the least and the largest; nil where they are not kept
}

// newCourse makes a course of at most so many points. With extremes, it keeps
// the least and the largest number of each point.
func newCourse(most int, extremes bool) *course {
	return &course{most: most &^ 1, each: 1, extreme: extremes}
}

// add adds the numbers of a record; there are as many in each.
func (c *course) add(step int64, numbers []float64) {
	n := len(c.points)
	if n == 0 || c.points[n-1].records == c.each {
		if n == c.most {
			c.halve()
			n /= 2
		}
		if n == 0 || c.points[n-1].records == c.each {
			c.points = append(c.points, c.newPoint(step, len(numbers)))
			n++
		}
	}
	c.points[n-1].add(step, numbers)
}

func (c *course) newPoint(step int64, numbers int) point {
	p := point{first: step, sums: make([]float64, numbers), counts: make([]int32, numbers)}
	if c.extreme {
		p.low, p.high = make([]float64, numbers), make([]float64, numbers)
		for i := range p.low {
			p.low[i], p.high[i] = math.Inf(1), math.Inf(-1)
		}
	}
	return p
}

func (p *point) add(step int64, numbers []float64) {
	p.records++
	p.last = step
	for i, x := range numbers[:min(len(numbers), len(p.sums))] {
		if math.IsNaN(x) || math.IsInf(x, 0) {
			continue
		}
		p.sums[i] += x
		p.counts[i]++
		if p.low != nil {
			p.low[i], p.high[i] = min(p.low[i], x), max(p.high[i], x)
		}
	}
}

// halve joins each two points.
func (c *course) halve() {
	for i := range len(c.points) / 2 {
		a, b := c.points[2*i], c.points[2*i+1]
		a.join(b)
		c.points[i] = a
	}
	clear(c.points[len(c.points)/2:])
	c.points = c.points[:len(c.points)/2]
	c.each *= 2
}

func (p *point) join(q point) {
	p.records += q.records
	p.last = q.last
	for i := range p.sums {
		p.sums[i] += q.sums[i]
		p.counts[i] += q.counts[i]
		if p.low != nil {
			p.low[i], p.high[i] = min(p.low[i], q.low[i]), max(p.high[i], q.high[i])
		}
	}
}

// mean returns the mean of a number, not a number where there is none.
func (p *point) mean(i int) float64 { return p.sums[i] / float64(p.counts[i]) }

// steps returns where the points are.
func (c *course) steps() []float64 {
	steps := make([]float64, len(c.points))
	for i, p := range c.points {
		steps[i] = float64(p.first)/2 + float64(p.last)/2
	}
	return steps
}

// means returns the means of a number.
func (c *course) means(i int) []float64 {
	means := make([]float64, len(c.points))
	for j := range c.points {
		means[j] = c.points[j].mean(i)
	}
	return means
}

// extremes returns the least and the largest of a number.
func (c *course) extremes(i int) (low, high []float64) {
	for _, p := range c.points {
		low, high = append(low, p.low[i]), append(high, p.high[i])
	}
	return low, high
}

// smooth returns numbers without their noise: the exponential moving average
// over about so many of them, forwards, and that of the averages, backwards, so
// that nothing lags behind. What is not finite is left out.
func smooth(numbers []float64, over float64) []float64 {
	smoothed := slices.Clone(numbers)
	average(smoothed, over)
	slices.Reverse(smoothed)
	average(smoothed, over)
	slices.Reverse(smoothed)
	return smoothed
}

func average(numbers []float64, over float64) {
	keep := 1 - 2/(over+1)
	sum, weight := 0.0, 0.0
	for i, x := range numbers {
		if math.IsNaN(x) || math.IsInf(x, 0) {
			numbers[i] = math.NaN()
			continue
		}
		sum, weight = keep*sum+(1-keep)*x, keep*weight+(1-keep)
		numbers[i] = sum / weight
	}
}
