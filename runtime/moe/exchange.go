package moe

import "iter"

// Exchange says which rows workers send one another that share the experts of
// a layer, as one of them sees it. Each has some of the batch's tokens and some
// of the experts. A row is a token's copy for one of its experts; its result
// goes the way back. Rows are sent in steps, so that experts compute those of
// one while others are under way. In step 0 a worker keeps what is for itself.
//
// Rows have places in memory: first those that are sent to others, then those
// for the own experts, then those that are received. Within each part they are
// in the order of steps, workers, experts and tokens, so that what goes to or
// comes from a worker is in one piece, and what a worker keeps lies both among
// what it sends and among what it receives.
type Exchange struct {
	workers, rank, steps int
	owned                []int // [workers+1] the first expert of each worker

	// Token [Sent+Own] is the own token, counted from the first one, of each
	// row that is sent or kept.
	Token []int32

	// Row [own slots] is the place of each slot's row, −1 for dropped ones.
	Row []int32

	// Sent, Own and Received count rows.
	Sent, Own, Received int

	// Offset [own experts+1] is where the rows of each own expert begin among
	// all that this worker computes. Within an expert they are in the order of
	// workers and tokens, which is that of one process.
	Offset []int

	// Place [Own+Received] is the place of each row that this worker computes.
	Place []int32

	counts   []int // [workers, experts] rows
	next     []int // [experts+1] the place or number of a row to come
	segments [][]Segment
	sends    [][]int // [steps, workers] rows
	receives [][]int
}

// Segment is rows of one own expert that came from one worker: consecutive ones
// in consecutive places.
type Segment struct {
	Expert int // counted from the first own one
	Row    int
	Rows   int
}

// NewExchange makes the exchange of one of several workers, whose experts begin
// with those that owned tells; behind them it has the number of all. There is
// at least one step, and more than the number of workers are not used.
func NewExchange(owned []int, rank, steps int) *Exchange {
	workers := len(owned) - 1
	steps = max(1, min(steps, workers))
	x := &Exchange{workers: workers, rank: rank, steps: steps, owned: owned}
	experts := owned[workers]
	own := owned[rank+1] - owned[rank]
	x.Offset, x.counts, x.next = make([]int, own+1), make([]int, workers*experts), make([]int, experts+1)
	x.segments, x.sends, x.receives = make([][]Segment, steps), make([][]int, steps), make([][]int, steps)
	for i := range steps {
		x.sends[i], x.receives[i] = make([]int, workers), make([]int, workers)
	}
	return x
}

// Steps is the number of steps.
func (x *Exchange) Steps() int { return x.steps }

// step returns the step in which a worker sends to another one, so that in each
// all send and receive about the same.
func (x *Exchange) step(from, to int) int {
	switch distance := (to - from + x.workers) % x.workers; {
	case distance == 0 || x.steps == 1:
		return 0
	default:
		return 1 + (distance-1)*(x.steps-1)/(x.workers-1)
	}
}

// Plan plans the exchange for what a gate chose: indices [N, slots] of the
// batch, in which each worker has the tokens lo … hi.
func (x *Exchange) Plan(indices []int32, slots int, tokens [][2]int) {
	experts := x.owned[x.workers]
	clear(x.counts)
	for w, t := range tokens {
		counts := x.counts[w*experts:][:experts]
		for _, e := range indices[t[0]*slots : t[1]*slots] {
			if e >= 0 {
				counts[e]++
			}
		}
	}
	x.placeSent()
	x.placeComputed()
	own := tokens[x.rank]
	x.Row, x.Token = resize(x.Row, (own[1]-own[0])*slots), resize(x.Token, x.Sent+x.Own)
	for s, e := range indices[own[0]*slots : own[1]*slots] {
		if e < 0 {
			x.Row[s] = -1
			continue
		}
		at := x.next[e]
		x.next[e]++
		x.Token[at], x.Row[s] = int32(s/slots), int32(at)
	}
}

// resize returns a list of n elements, in the memory of another one if it is
// large enough.
func resize(list []int32, n int) []int32 {
	if cap(list) < n {
		return make([]int32, n+n/4)[:n]
	}
	return list[:n]
}

// placeSent lets next be the places of the own tokens' rows for each expert.
func (x *Exchange) placeSent() {
	counts := x.counts[x.rank*x.owned[x.workers]:]
	at := 0
	place := func(worker int) (rows int) {
		for e := x.owned[worker]; e < x.owned[worker+1]; e++ {
			x.next[e] = at
			at += counts[e]
			rows += counts[e]
		}
		return rows
	}
	for step, sends := range x.sends {
		clear(sends)
		for w := range sends {
			if w != x.rank && x.step(x.rank, w) == step {
				sends[w] = place(w)
			}
		}
	}
	x.Sent = at
	x.Own = place(x.rank)
}

// placeComputed numbers the rows that this worker computes, and gives them
// places.
func (x *Exchange) placeComputed() {
	experts, first := x.owned[x.workers], x.owned[x.rank]
	rows := 0
	for e := range len(x.Offset) - 1 {
		x.Offset[e] = rows
		for w := range x.workers {
			rows += x.counts[w*experts+first+e]
		}
	}
	x.Offset[len(x.Offset)-1] = rows
	x.Received = rows - x.Own
	x.Place = resize(x.Place, rows)
	for step := range x.segments {
		x.segments[step] = x.segments[step][:0]
	}
	at := x.Sent
	x.receive(x.rank, 0, &at)
	for step, receives := range x.receives {
		clear(receives)
		for w := range receives {
			if w != x.rank && x.step(w, x.rank) == step {
				before := at
				x.receive(w, step, &at)
				receives[w] = at - before
			}
		}
	}
}

// receive gives the rows from a worker their places, from at on.
func (x *Exchange) receive(worker, step int, at *int) {
	experts, first := x.owned[x.workers], x.owned[x.rank]
	for e, row := range x.Offset[:len(x.Offset)-1] {
		for w := range worker {
			row += x.counts[w*experts+first+e]
		}
		n := x.counts[worker*experts+first+e]
		for i := range n {
			x.Place[row+i] = int32(*at + i)
		}
		if n > 0 {
			x.segments[step] = append(x.segments[step], Segment{e, row, n})
		}
		*at += n
	}
}

// Segments lists the rows that experts can compute when those of a step are
// there.
func (x *Exchange) Segments(step int) []Segment { return x.segments[step] }

// Rows returns how many rows this worker sends to each one in a step, and how
// many it receives from each. What it keeps does not count.
func (x *Exchange) Rows(step int) (sends, receives []int) { return x.sends[step], x.receives[step] }

// Places returns the places of the rows that are sent in a step, and of those
// that are received.
func (x *Exchange) Places(step int) (sendFrom, sendTo, receiveFrom, receiveTo int) {
	receiveTo = x.Sent + x.Own
	for i := range step + 1 {
		sendFrom, receiveFrom = sendTo, receiveTo
		for w := range x.workers {
			sendTo += x.sends[i][w]
			receiveTo += x.receives[i][w]
		}
	}
	return sendFrom, sendTo, receiveFrom, receiveTo
}

// Computed lists the slots of the batch that own experts compute, each with the
// number of its row, for the arguments of the last Plan.
func (x *Exchange) Computed(indices []int32, slots int, tokens [][2]int) iter.Seq2[int, int] {
	return func(yield func(slot, row int) bool) {
		first, end := int32(x.owned[x.rank]), int32(x.owned[x.rank+1])
		next := x.next[:len(x.Offset)]
		copy(next, x.Offset)
		for _, t := range tokens {
			for s := t[0] * slots; s < t[1]*slots; s++ {
				if e := indices[s]; e >= first && e < end {
					row := next[e-first]
					next[e-first]++
					if !yield(s, row) {
						return
					}
				}
			}
		}
	}
}
