package comm

import (
	"context"
	"fmt"
	"slices"
)

// twoLevel is a communicator whose all-to-all goes through nodes: a rank hands
// what is for another node to the rank of its own node that has the same
// number as the receiver there. So ranks send fewer, larger messages between
// nodes: one to each other node (Tutel's 2D algorithm, arXiv 2206.03382).
type twoLevel struct {
	Communicator
	counts, node Communicator // the ranks of this node, for counts and for elements
	across       Communicator // the ranks of the same number in all nodes
	before       *stages      // of the call before
}

// stages tells when the stages of an all-to-all have begun, so that those of
// the next one begin behind them on all ranks.
type stages struct{ counts, node, across chan struct{} }

func newStages() *stages {
	return &stages{make(chan struct{}), make(chan struct{}), make(chan struct{})}
}

// begin lets all stages have begun.
func (s *stages) begin() *stages {
	close(s.counts)
	close(s.node)
	close(s.across)
	return s
}

// TwoLevel returns a communicator of the same ranks whose AllToAll goes through
// nodes. Node is any number that the ranks of a node have in common. It returns
// c itself where that would not help, and where not all nodes have the same
// number of ranks, one after the other. It is a collective call; only one
// goroutine may call AllToAll.
func TwoLevel(ctx context.Context, c Communicator, node int) (Communicator, error) {
	nodes := make([]int64, c.Size())
	if err := c.AllGather(ctx, Slice([]int64{int64(node)}), Slice(nodes), nil).Wait(); err != nil {
		return nil, fmt.Errorf("two levels: %w", err)
	}
	each := slices.IndexFunc(nodes, func(n int64) bool { return n != nodes[0] })
	if each < 2 || len(nodes)%each != 0 {
		return c, nil
	}
	seen := map[int64]bool{}
	for first := 0; first < len(nodes); first += each {
		same := slices.Repeat(nodes[first:first+1], each)
		if seen[nodes[first]] || !slices.Equal(nodes[first:first+each], same) {
			return c, nil
		}
		seen[nodes[first]] = true
	}
	t := &twoLevel{Communicator: c, before: newStages().begin()}
	for _, s := range []struct {
		group *Communicator
		color int
	}{{&t.counts, c.Rank() / each}, {&t.node, c.Rank() / each}, {&t.across, c.Rank() % each}} {
		var err error
		if *s.group, err = c.Split(ctx, s.color, c.Rank()); err != nil {
			return nil, fmt.Errorf("two levels: %w", err)
		}
	}
	return t, nil
}

// AllToAll tells the ranks of the node how much it has for everyone, sends each
// of them what it has for the ranks of its number, and gathers what those have
// for it. Elements arrive in the order of ranks.
func (t *twoLevel) AllToAll(ctx context.Context, send Buffer, sendCounts []int, receive Buffer, receiveCounts []int) *Handle {
	if !fits(send, sendCounts, t.Size()) || !fits(receive, receiveCounts, t.Size()) || send.Type != receive.Type ||
		sendCounts[t.Rank()] != receiveCounts[t.Rank()] {
		return t.Communicator.AllToAll(ctx, send, sendCounts, receive, receiveCounts) // which says what is wrong
	}
	h := &Handle{done: make(chan struct{})}
	before, own := t.before, newStages()
	t.before = own
	x := &twoLevelCall{twoLevel: t, ctx: ctx, size: send.size(), send: send, receive: receive, sendCounts: sendCounts, receiveCounts: receiveCounts}
	go func() {
		defer close(h.done)
		var begun int
		begins := []chan struct{}{own.counts, own.node, own.across}
		defer func() {
			for _, c := range begins[begun:] {
				close(c)
			}
		}()
		waits := []chan struct{}{before.counts, before.node, before.across}
		for stage, start := range []func() *Handle{x.exchangeCounts, x.withinNode, x.acrossNodes} {
			<-waits[stage]
			call := start()
			close(begins[stage])
			begun++
			if err := call.Wait(); err != nil {
				h.err = fmt.Errorf("two levels: %w", err)
				return
			}
		}
	}()
	return h
}

// fits reports whether counts are those of a buffer.
func fits(b Buffer, counts []int, ranks int) bool {
	total := 0
	for _, n := range counts {
		if n < 0 || n > len(b.Data) {
			return false
		}
		total += n
	}
	return len(counts) == ranks && b.size() > 0 && total*b.size() == len(b.Data)
}

// twoLevelCall is an all-to-all under way.
type twoLevelCall struct {
	*twoLevel
	ctx                       context.Context
	size                      int // of an element
	send, receive             Buffer
	sendCounts, receiveCounts []int

	all    []int64 // [ranks of the node, ranks] what they send
	within []byte  // what they have for the ranks of this number: of each, for each node
}

func (x *twoLevelCall) exchangeCounts() *Handle {
	own := make([]int64, len(x.sendCounts))
	for i, n := range x.sendCounts {
		own[i] = int64(n)
	}
	x.all = make([]int64, x.node.Size()*len(own))
	return x.counts.AllGather(x.ctx, Slice(own), Slice(x.all), nil)
}

// count returns the elements that a rank of this node has for a rank of this
// number in another one.
func (x *twoLevelCall) count(from, node int) int {
	return int(x.all[from*x.Size()+node*x.node.Size()+x.node.Rank()])
}

func (x *twoLevelCall) withinNode() *Handle {
	each, nodes := x.node.Size(), x.across.Size()
	sorted := make([]byte, 0, len(x.send.Data))
	sends, receives := make([]int, each), make([]int, each)
	ends := make([]int, len(x.sendCounts)+1)
	for i, n := range x.sendCounts {
		ends[i+1] = ends[i] + n*x.size
	}
	total := 0
	for local := range each {
		for node := range nodes {
			rank := node*each + local
			sorted = append(sorted, x.send.Data[ends[rank]:ends[rank+1]]...)
			sends[local] += x.sendCounts[rank]
			receives[local] += x.count(local, node)
		}
		total += receives[local]
	}
	x.within = make([]byte, total*x.size)
	return x.node.AllToAll(x.ctx, Buffer{x.send.Type, sorted}, sends, Buffer{x.send.Type, x.within}, receives)
}

func (x *twoLevelCall) acrossNodes() *Handle {
	each, nodes := x.node.Size(), x.across.Size()
	sorted := make([]byte, 0, len(x.within))
	sends, receives := make([]int, nodes), make([]int, nodes)
	for node := range nodes {
		at := 0
		for from := range each {
			for other := range nodes {
				n := x.count(from, other) * x.size
				if other == node {
					sorted = append(sorted, x.within[at:at+n]...)
				}
				at += n
			}
			sends[node] += x.count(from, node)
			receives[node] += x.receiveCounts[node*each+from]
		}
	}
	return x.across.AllToAll(x.ctx, Buffer{x.send.Type, sorted}, sends, x.receive, receives)
}
