package cpu

import (
	"sync"
	"time"

	"github.com/fmoe-go/fmoe/runtime/comm"
)

// meter measures, while layers run, how fast rows travel and experts compute.
type meter struct {
	mu               sync.Mutex
	bandwidth, speed float64 // bytes and floating-point operations a second, 0 until there are some
}

// What is measured in less than this many bytes or operations is latency.
const (
	enoughBytes = 1 << 15
	enoughWork  = 1 << 20
)

// read returns what was measured.
func (m *meter) read() (bandwidth, speed float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.bandwidth, m.speed
}

// watch waits for calls that began at a time, each of which moves bytes. A
// measurement is too low when others are late, so that one that is lower counts
// little.
func (m *meter) watch(calls []*comm.Handle, bytes []int, start time.Time) {
	total, best := 0, 0.0
	for i, call := range calls {
		if call.Wait() != nil {
			return
		}
		if total += bytes[i]; total >= enoughBytes {
			best = max(best, float64(total)/time.Since(start).Seconds())
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if best > 0 {
		m.bandwidth = max(best, m.bandwidth-(m.bandwidth-best)/16)
	}
}

// computed counts operations and the time that they took.
func (m *meter) computed(work int, took time.Duration) {
	if work < enoughWork || took <= 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	speed := float64(work) / took.Seconds()
	if m.speed > 0 {
		speed = m.speed + (speed-m.speed)/4
	}
	m.speed = speed
}
