package moe

// Dispatch orders the slots of a batch by expert. Slot s = token·k + j is the
// j-th choice of a token. The order is that of a stable counting sort: within
// an expert rows keep the order of their slots, so that equal inputs give
// equal bits however many threads there are.
type Dispatch struct {
	// Count [T] is the number of rows of each expert.
	Count []int64

	// Offset [T+1] is where each expert's rows begin in the sorted order; the
	// last entry is the number of rows in all.
	Offset []int

	// Token [rows] is the token behind each sorted row.
	Token []int32

	// Row [slots] is the inverse: the sorted row of each slot, −1 where the
	// slot was dropped.
	Row []int32
}

// NewDispatch makes a Dispatch for up to the given number of slots, so that
// Sort need not allocate.
func NewDispatch(experts, slots int) *Dispatch {
	return &Dispatch{Count: make([]int64, experts), Offset: make([]int, experts+1),
		Token: make([]int32, slots), Row: make([]int32, slots)}
}

// Sort orders the slots by the experts chosen for them: indices [N, k], −1
// for a dropped slot, as a [Gate] gives them.
func (d *Dispatch) Sort(indices []int32, k int) {
	clear(d.Count)
	for _, e := range indices {
		if e >= 0 {
			d.Count[e]++
		}
	}
	rows := 0
	for e, n := range d.Count {
		d.Offset[e] = rows
		rows += int(n)
	}
	d.Token, d.Row = d.Token[:rows], d.Row[:len(indices)]
	// Offset moves on as rows are placed and is set back afterwards.
	for s, e := range indices {
		if e < 0 {
			d.Row[s] = -1
			continue
		}
		at := d.Offset[e]
		d.Offset[e]++
		d.Token[at], d.Row[s] = int32(s/k), int32(at)
	}
	for e := len(d.Count); e > 0; e-- {
		d.Offset[e] = d.Offset[e-1]
	}
	d.Offset[0] = 0
}
