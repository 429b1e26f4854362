package moe

import (
	"iter"
	"slices"
)

// Exchange says which rows workers send one another that share the experts of
// a layer, as one of them sees it. Each has some of the batch's tokens and some
// of the experts. A row is a token's copy for one of its experts; its result
// goes the way back. Rows are sent in steps, so that experts compute those of
// one while others are under way.
//
// Where an expert has very many rows, its weights may travel instead (FasterMoE's
// expert shadowing, PPoPP 2022): each worker borrows it and computes its own
// tokens' rows.
//
// Rows have places in memory: first those that are sent to others, then those
// that are kept, then those that are received. Within each part they are in the
// order of steps, workers, experts and tokens, so that what goes to or comes
// from a worker is in one piece, and what is kept lies both among what is sent
// and among what is received.
type Exchange struct {
	workers, rank, steps int
	owned                []int // [workers+1] the first expert of each worker

	// Borrowed are the experts of others whose weights this worker borrows, and
	// Lent its own ones that all others borrow, both by their numbers among all.
	Borrowed, Lent []int

	// Token [Sent+Kept] is the own token, counted from the first one, of each
	// row that is sent or kept.
	Token []int32

	// Row [own slots] is the place of each slot's row, −1 for dropped ones.
	Row []int32

	// Sent, Kept and Received count rows.
	Sent, Kept, Received int

	// Offset [experts+1] is where the rows of each expert begin that this worker
	// computes: its own ones, then the borrowed ones. Within an expert they are
	// in the order of workers and tokens, which is that of one process.
	Offset []int

	// Place [Kept+Received] is the place of each row that this worker computes.
	Place []int32

	// Parts lists, by expert, the rows that came from one worker.
	Parts []Segment

	counts   []int // [workers, T] rows
	next     []int // [T] the place of a row to come
	borrowed []bool
	local    []int       // [T] number among those that this worker computes, −1 for others
	segments [][]Segment // [workers+1]
	sends    [][]int     // [workers, workers] rows
	receives [][]int
}

// Segment is rows of one expert that came from one worker: consecutive ones in
// consecutive places.
type Segment struct {
	Expert    int // counted among those that the worker computes
	Row, Rows int
}

// NewExchange makes the exchange of one of several workers, whose experts begin
// with those that owned tells; behind them it has the number of all.
func NewExchange(owned []int, rank int) *Exchange {
	workers := len(owned) - 1
	experts := owned[workers]
	x := &Exchange{workers: workers, rank: rank, owned: owned,
		counts: make([]int, workers*experts), next: make([]int, experts), borrowed: make([]bool, experts), local: make([]int, experts),
		segments: make([][]Segment, workers+1), sends: make([][]int, workers), receives: make([][]int, workers)}
	for i := range workers {
		x.sends[i], x.receives[i] = make([]int, workers), make([]int, workers)
	}
	return x
}

// Steps is the number of steps.
func (x *Exchange) Steps() int { return x.steps }

// Owner returns the worker that has an expert.
func (x *Exchange) Owner(expert int) int {
	return slices.IndexFunc(x.owned[1:], func(end int) bool { return expert < end })
}

// step returns the step in which a worker sends to another one, so that in each
// all send and receive about the same. In step 0 of several a worker has what
// it keeps.
func (x *Exchange) step(from, to int) int {
	if x.steps == 1 || from == to {
		return 0
	}
	distance := (to - from + x.workers) % x.workers
	return 1 + (distance-1)*(x.steps-1)/(x.workers-1)
}

// Count counts the rows of a gate's choices: indices [N, slots] of the batch,
// in which each worker has the tokens lo … hi.
func (x *Exchange) Count(indices []int32, slots int, tokens [][2]int) {
	clear(x.counts)
	for w, t := range tokens {
		counts := x.row(w)
		for _, e := range indices[t[0]*slots : t[1]*slots] {
			if e >= 0 {
				counts[e]++
			}
		}
	}
}

// row returns the rows of a worker's tokens for each expert.
func (x *Exchange) row(worker int) []int {
	experts := x.owned[x.workers]
	return x.counts[worker*experts:][:experts]
}

// Load returns the rows of an expert on average.
func (x *Exchange) Load() float64 {
	total := 0
	for _, n := range x.counts {
		total += n
	}
	return float64(total) / float64(x.owned[x.workers])
}

// Plan plans the exchange of what was counted in a number of steps, of which
// there is at least one and as many as workers at most. Workers borrow the
// experts that are given, in ascending order.
func (x *Exchange) Plan(indices []int32, slots int, tokens [][2]int, steps int, borrowed []int) {
	x.steps = max(1, min(steps, x.workers))
	x.borrow(borrowed)
	x.placeSent()
	x.placeComputed()
	own := tokens[x.rank]
	x.Row, x.Token = resize(x.Row, (own[1]-own[0])*slots), resize(x.Token, x.Sent+x.Kept)
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
		return make([]int32, n, n+n/4)
	}
	return list[:n]
}

// borrow settles which experts this worker computes.
func (x *Exchange) borrow(borrowed []int) {
	clear(x.borrowed)
	x.Borrowed, x.Lent = x.Borrowed[:0], x.Lent[:0]
	first, end := x.owned[x.rank], x.owned[x.rank+1]
	for e := range x.local {
		x.local[e] = -1
		if e >= first && e < end {
			x.local[e] = e - first
		}
	}
	for _, e := range borrowed {
		x.borrowed[e] = true
		if x.local[e] >= 0 {
			x.Lent = append(x.Lent, e)
			continue
		}
		x.local[e] = end - first + len(x.Borrowed)
		x.Borrowed = append(x.Borrowed, e)
	}
	x.Offset = append(x.Offset[:0], make([]int, end-first+len(x.Borrowed)+1)...)
}

// computes reports whether this worker computes an expert's rows of a worker's
// tokens.
func (x *Exchange) computes(expert, worker int) bool {
	return x.local[expert] >= 0 && (worker == x.rank || !x.borrowed[expert])
}

// computed lists the experts that this worker computes, by their numbers among
// all.
func (x *Exchange) computed(yield func(local, expert int) bool) {
	first, own := x.owned[x.rank], x.owned[x.rank+1]-x.owned[x.rank]
	for i := range own + len(x.Borrowed) {
		e := first + i
		if i >= own {
			e = x.Borrowed[i-own]
		}
		if !yield(i, e) {
			return
		}
	}
}

// placeSent lets next be the places of the own tokens' rows for each expert.
func (x *Exchange) placeSent() {
	counts, at := x.row(x.rank), 0
	place := func(e int) int {
		x.next[e] = at
		at += counts[e]
		return counts[e]
	}
	for step, sends := range x.sends[:x.steps] {
		clear(sends)
		for w := range sends {
			if w == x.rank || x.step(x.rank, w) != step {
				continue
			}
			for e := x.owned[w]; e < x.owned[w+1]; e++ {
				if !x.borrowed[e] {
					sends[w] += place(e)
				}
			}
		}
	}
	x.Sent = at
	for _, e := range x.computed {
		place(e)
	}
	x.Kept = at - x.Sent
}

// placeComputed numbers the rows that this worker computes, and gives them
// places.
func (x *Exchange) placeComputed() {
	rows := 0
	x.Parts = x.Parts[:0]
	for step := range x.segments {
		x.segments[step] = x.segments[step][:0]
	}
	own := x.owned[x.rank+1] - x.owned[x.rank]
	for i, e := range x.computed {
		x.Offset[i] = rows
		for w := range x.workers {
			n := x.row(w)[e]
			if n == 0 || !x.computes(e, w) {
				continue
			}
			step := x.step(w, x.rank)
			if i >= own {
				step = x.steps
			}
			part := Segment{i, rows, n}
			x.Parts = append(x.Parts, part)
			x.segments[step] = append(x.segments[step], part)
			rows += n
		}
	}
	x.Offset[len(x.Offset)-1] = rows
	x.Received = rows - x.Kept
	x.Place = resize(x.Place, rows)
	at := x.Sent
	x.receive(x.rank, &at)
	for step, receives := range x.receives[:x.steps] {
		clear(receives)
		for w := range receives {
			if w != x.rank && x.step(w, x.rank) == step {
				before := at
				x.receive(w, &at)
				receives[w] = at - before
			}
		}
	}
}

// receive gives the rows from a worker their places, from at on.
func (x *Exchange) receive(worker int, at *int) {
	for i, e := range x.computed {
		n := x.row(worker)[e]
		if n == 0 || !x.computes(e, worker) {
			continue
		}
		row := x.Offset[i]
		for w := range worker {
			if x.computes(e, w) {
				row += x.row(w)[e]
			}
		}
		for j := range n {
			x.Place[row+j] = int32(*at + j)
		}
		*at += n
	}
}

// Segments lists the rows that experts can compute when those of a step are
// there. Behind the steps it lists those of borrowed experts.
func (x *Exchange) Segments(step int) []Segment { return x.segments[step] }

// Rows returns how many rows this worker sends to each one in a step, and how
// many it receives from each. What it keeps does not count.
func (x *Exchange) Rows(step int) (sends, receives []int) { return x.sends[step], x.receives[step] }

// Places returns the places of the rows that are sent in a step, and of those
// that are received.
func (x *Exchange) Places(step int) (sendFrom, sendTo, receiveFrom, receiveTo int) {
	receiveTo = x.Sent + x.Kept
	for i := range step + 1 {
		sendFrom, receiveFrom = sendTo, receiveTo
		for w := range x.workers {
			sendTo += x.sends[i][w]
			receiveTo += x.receives[i][w]
		}
	}
	return sendFrom, sendTo, receiveFrom, receiveTo
}

// Computed lists the slots of the batch that this worker computes, each with
// the number of its row, for the arguments of the last Plan.
func (x *Exchange) Computed(indices []int32, slots int, tokens [][2]int) iter.Seq2[int, int] {
	return func(yield func(slot, row int) bool) {
		next := slices.Clone(x.Offset)
		for w, t := range tokens {
			for s := t[0] * slots; s < t[1]*slots; s++ {
				e := int(indices[s])
				if e < 0 || !x.computes(e, w) {
					continue
				}
				row := next[x.local[e]]
				next[x.local[e]]++
				if !yield(s, row) {
					return
				}
			}
		}
	}
}
