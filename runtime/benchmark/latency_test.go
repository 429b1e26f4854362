package benchmark

import (
	"errors"
	"testing"
	"time"
)

func TestSummarize(t *testing.T) {
	hundred := make([]time.Duration, 100)
	for i := range hundred {
		hundred[i] = time.Duration(100 - i)
	}
	tests := []struct {
		name  string
		times []time.Duration
		want  Latency
	}{
		{"one", []time.Duration{7}, Latency{Runs: 1, Min: 7, P50: 7, P90: 7, P99: 7, Mean: 7}},
		{"two", []time.Duration{9, 1}, Latency{Runs: 2, Min: 1, P50: 1, P90: 9, P99: 9, Mean: 5}},
		{"hundred", hundred, Latency{Runs: 100, Min: 1, P50: 50, P90: 90, P99: 99, Mean: 50}},
	}
	for _, test := range tests {
		if got := Summarize(test.times); got != test.want {
			t.Errorf("%s: got %+v, want %+v", test.name, got, test.want)
		}
	}
}

func TestMeasure(t *testing.T) {
	calls := 0
	l, err := Measure(3, func() error { calls++; return nil })
	if err != nil || calls != 3 || l.Runs != 3 || l.Min < 0 || l.Min > l.P50 || l.P50 > l.P99 {
		t.Errorf("after %d calls: %+v, %v", calls, l, err)
	}
	stop := errors.New("stop")
	calls = 0
	if _, err := Measure(3, func() error { calls++; return stop }); !errors.Is(err, stop) || calls != 1 {
		t.Errorf("got %v after %d calls, want an end at the first error", err, calls)
	}
}
