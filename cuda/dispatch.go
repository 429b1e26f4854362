//go:build fmoecuda

package cuda

// sortParameters are those of the dispatch's kernels, laid out as in dispatch.cu.
type sortParameters struct {
	indices, counts, offsets, tiles, row, token, slot, outCounts uintptr
	slots, experts, k, tile                                      int32
}

// dispatch orders the slots of tokens by expert, as moe.Dispatch does. Row i is
// the i-th slot in that order; dropped slots have none.
type dispatch struct {
	steps  [3]*launch[sortParameters]
	counts place

	offsets place // int32 [T+1]: the first row of each expert, and the number of rows
	tiles   place // int32 [T+1]: likewise of tiles of rows, each of one expert
	row     place // int32 [N·slots]: the row of each slot, or −1
	token   place // int32 [rows]: the token of each row
	slot    place // int32 [rows]: the slot of each row
}

// newDispatch plans the dispatch of what a routing decides, in tiles of so many
// rows.
func newDispatch(r *routing, m *layout, tile int) (*dispatch, error) {
	d, slots := &dispatch{}, r.tokens*r.slots
	chunks, threads := ceilDiv(slots, rankChunk), min(1024, ceilDiv(r.experts, 32)*32)
	for i, step := range []struct {
		name          string
		threads, grid int
	}{{"count", threads, chunks}, {"offsets", threads, 1}, {"place", 256, chunks}} {
		l, err := newLaunch[sortParameters](r.device, step.name, step.threads, step.grid)
		if err != nil {
			return nil, err
		}
		*l.p = sortParameters{slots: int32(slots), experts: int32(r.experts), k: int32(r.slots), tile: int32(tile)}
		d.steps[i] = l
	}
	d.counts = m.take(4 * chunks * r.experts)
	d.offsets, d.tiles = m.take(4*(r.experts+1)), m.take(4*(r.experts+1))
	d.row, d.token, d.slot = m.take(4*slots), m.take(4*r.rows), m.take(4*r.rows)
	return d, nil
}

// run sorts slots by their experts, −1 for none. outCounts, where it is not 0,
// is where an int64 for each expert gets the number of its rows.
func (d *dispatch) run(scratch, indices, outCounts uintptr) error {
	for _, l := range d.steps {
		p := l.p
		p.indices, p.counts, p.outCounts = indices, d.counts.in(scratch), outCounts
		p.offsets, p.tiles = d.offsets.in(scratch), d.tiles.in(scratch)
		p.row, p.token, p.slot = d.row.in(scratch), d.token.in(scratch), d.slot.in(scratch)
		if err := l.run(); err != nil {
			return err
		}
	}
	return nil
}
