package benchmark

import (
	"runtime"
	"time"
)

// How often something is run where the caller does not say.
const (
	steadyTime = 3 * time.Second
	leastRuns  = 5
	mostRuns   = 1000
)

// Steady calls run n times, or for some seconds where n is 0, one call after
// another, and returns how long each call took and how many heap allocations
// there were in a call.
func Steady(n int, run func() error) (times []time.Duration, allocations float64, err error) {
	times = make([]time.Duration, 0, max(n, mostRuns))
	more := func(total time.Duration) bool {
		if n > 0 {
			return len(times) < n
		}
		return len(times) < leastRuns || total < steadyTime && len(times) < mostRuns
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for begin := time.Now(); more(time.Since(begin)); {
		start := time.Now()
		if err := run(); err != nil {
			return nil, 0, err
		}
		times = append(times, time.Since(start))
	}
	runtime.ReadMemStats(&after)
	return times, float64(after.Mallocs-before.Mallocs) / float64(len(times)), nil
}
