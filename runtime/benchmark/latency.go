// Package benchmark measures how long models take to run.
package benchmark

import (
	"slices"
	"time"
)

// Latency sums up how long repeated runs took.
type Latency struct {
	Runs               int
	Min, P50, P90, P99 time.Duration
	Mean               time.Duration
}

// Measure calls run n times, at least once, one call after another. It stops
// at the first error.
func Measure(n int, run func() error) (Latency, error) {
	times := make([]time.Duration, max(n, 1))
	for i := range times {
		start := time.Now()
		if err := run(); err != nil {
			return Latency{}, err
		}
		times[i] = time.Since(start)
	}
	return Summarize(times), nil
}

// Summarize sorts the times, of which there must be at least one. A percentile
// p is the shortest time that p percent of the runs did not exceed.
func Summarize(times []time.Duration) Latency {
	slices.Sort(times)
	percentile := func(p int) time.Duration {
		return times[max(0, (p*len(times)+99)/100-1)]
	}
	sum := time.Duration(0)
	for _, t := range times {
		sum += t
	}
	return Latency{
		Runs: len(times), Min: times[0], P50: percentile(50), P90: percentile(90), P99: percentile(99),
		Mean: sum / time.Duration(len(times)),
	}
}
