package train

import (
	"fmt"
	"math"
	"slices"
)

// The kinds of schedules.
const (
	Constant = "constant"
	Linear   = "linear" // to the minimum at the last step
	Cosine   = "cosine" // likewise, along half a wave (SGDR, arXiv 1608.03983)
	WSD      = "wsd"    // warm-up, stable, decay: constant, at the end linear (MiniCPM, arXiv 2404.06395)
)

// ScheduleKinds lists the kinds of schedules.
var ScheduleKinds = []string{Constant, Linear, Cosine, WSD}

// Schedule says by what the learning rate is multiplied at each step.
type Schedule struct {
	// Kind is one of ScheduleKinds.
	Kind string `json:"kind" yaml:"kind"`
	// Warmup is the number of steps over which the rate grows linearly from
	// nearly 0 to its full size.
	Warmup int64 `json:"warmup" yaml:"warmup"`
	// Decay is the number of steps at the end over which WSD decreases the
	// rate; 0 stands for a tenth of all.
	Decay int64 `json:"decay,omitempty" yaml:"decay,omitempty"`
	// Minimum is the factor at the end.
	Minimum float64 `json:"minimum" yaml:"minimum"`
}

func (s *Schedule) check() error {
	switch {
	case !slices.Contains(ScheduleKinds, s.Kind):
		return fmt.Errorf("schedule kind %q is not known; there are %q", s.Kind, ScheduleKinds)
	case s.Warmup < 0 || s.Decay < 0:
		return fmt.Errorf("warmup %d and decay %d must be 0 or more", s.Warmup, s.Decay)
	case !(s.Minimum >= 0 && s.Minimum <= 1):
		return fmt.Errorf("minimum %g must be from 0 to 1", s.Minimum)
	}
	return nil
}

// Factor returns the factor of a step, counted from 0, of a training of total
// steps. The last step before total has nearly the minimum, and all from total
// on have it.
func (s *Schedule) Factor(step, total int64) float64 {
	if step < s.Warmup {
		return float64(step+1) / float64(s.Warmup)
	}
	from := s.Warmup
	switch s.Kind {
	case Constant:
		return 1
	case WSD:
		decay := s.Decay
		if decay == 0 {
			decay = total / 10
		}
		if from = max(from, total-decay); step < from {
			return 1
		}
	}
	progress := 1.0
	if total > from {
		progress = min(1, float64(step-from)/float64(total-from))
	}
	if s.Kind == Cosine {
		progress = (1 - math.Cos(math.Pi*progress)) / 2
	}
	return 1 - (1-s.Minimum)*progress
}
