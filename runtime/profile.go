package runtime

import (
	"slices"
	"sync"
	"time"

	"github.com/fmoe-go/fmoe/onnx"
)

// NodeTime is how long a node took in the runs so far.
type NodeTime struct {
	Domain, OpType string // Domain is "" for ONNX's own operators
	Name           string
	Calls          int
	Time           time.Duration // of all calls together
}

// profile adds up the times of nodes. Those with subgraphs are left out, as
// the nodes in their subgraphs are counted.
type profile struct {
	mu    sync.Mutex
	index map[*node]int
	times []NodeTime
}

func (p *profile) add(n *node, d time.Duration) {
	if n.control != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	i, ok := p.index[n]
	if !ok {
		i = len(p.times)
		p.index[n] = i
		p.times = append(p.times, NodeTime{Domain: onnx.CanonicalDomain(n.op.Domain), OpType: n.op.OpType, Name: n.op.Name})
	}
	p.times[i].Calls++
	p.times[i].Time += d
}

// Profile returns the times of the nodes that ran since the session was made
// or ResetProfile called, in the order of their first run; nil unless
// [Options].Profile is set.
func (s *Session) Profile() []NodeTime {
	if s.profile == nil {
		return nil
	}
	s.profile.mu.Lock()
	defer s.profile.mu.Unlock()
	return slices.Clone(s.profile.times)
}

// ResetProfile forgets the times so far, such as those of runs that warm up.
func (s *Session) ResetProfile() {
	if s.profile == nil {
		return
	}
	s.profile.mu.Lock()
	defer s.profile.mu.Unlock()
	clear(s.profile.index)
	s.profile.times = s.profile.times[:0]
}
