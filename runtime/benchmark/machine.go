package benchmark

import (
	"sync"
	"time"
	"unsafe"

	"github.com/fmoe-go/fmoe/internal/memory"
	"github.com/fmoe-go/fmoe/internal/simd"
)

// Machine is what the processor can do at most with some number of threads.
type Machine struct {
	// Peak is the floating-point operations a second, float32, of a loop of
	// multiply-adds that stays in registers.
	Peak float64
	// Bandwidth is the bytes a second at which a buffer larger than the caches
	// is read.
	Bandwidth float64
}

const (
	peakRounds = 1 << 22  // some milliseconds
	readLength = 64 << 20 // float32 elements: 256 MiB
	trials     = 10
)

// MeasureMachine takes the best of several trials, which last about a third of
// a second in all.
func MeasureMachine(threads int) Machine {
	m := Machine{Peak: MeasurePeak(threads)}
	buffer := newBuffer()
	share := readLength / threads
	parallel(threads, func(thread int) { // real pages instead of the one of zeros
		for i := range share {
			buffer[thread*share+i] = 1
		}
	})
	for range trials {
		took := parallel(threads, func(thread int) { simd.Sum(buffer[thread*share:][:share]) })
		m.Bandwidth = max(m.Bandwidth, float64(4*share*threads)/took.Seconds())
	}
	return m
}

// newBuffer returns memory of the kind that weights are in.
func newBuffer() []float32 {
	bytes := memory.Aligned(4 * readLength)
	return unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(bytes))), readLength)
}

// MeasurePeak returns a Machine's Peak.
func MeasurePeak(threads int) float64 {
	operations := make([]int, threads)
	peak := 0.0
	for range trials {
		took := parallel(threads, func(thread int) { operations[thread] = simd.Peak(peakRounds) })
		peak = max(peak, float64(threads*operations[0])/took.Seconds())
	}
	return peak
}

// parallel runs f on so many threads at a time and returns how long that took.
func parallel(threads int, f func(thread int)) time.Duration {
	var all sync.WaitGroup
	start := time.Now()
	for thread := range threads - 1 {
		all.Go(func() { f(thread + 1) })
	}
	f(0)
	all.Wait()
	return time.Since(start)
}
