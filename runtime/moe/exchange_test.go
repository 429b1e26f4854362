package moe

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestExchange simulates workers that exchange rows: whatever the numbers of
// workers, experts and steps, and whichever experts are borrowed, each row is
// computed once, by a worker that has its expert, in the order of one process,
// and its result comes back to its slot.
func TestExchange(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for range 400 {
		workers := 1 + random.IntN(8)
		experts := workers + random.IntN(9)
		slots, steps := 1+random.IntN(3), 1+random.IntN(workers)
		owned := make([]int, workers+1)
		for w := range workers {
			owned[w+1] = owned[w] + experts/workers
			if w < experts%workers {
				owned[w+1]++
			}
		}
		tokens := make([][2]int, workers)
		at := 0
		for w := range tokens {
			n := random.IntN(12) * random.IntN(2)
			tokens[w] = [2]int{at, at + n}
			at += n
		}
		indices := make([]int32, at*slots)
		for s := range indices {
			indices[s] = int32(random.IntN(experts+1) - 1)
			if random.IntN(2) == 0 {
				indices[s] = int32(experts / 2)
			}
		}
		list := make([]*Exchange, workers)
		var borrowed []int
		for w := range list {
			list[w] = NewExchange(owned, w)
			for range 2 { // planned twice as well
				list[w].Count(indices, slots, tokens)
				chosen := list[w].Borrow(Costs{RowBytes: 4, ExpertBytes: 20, RowWork: 1, Bandwidth: 100, Speed: 100})
				if w > 0 && !slices.Equal(chosen, borrowed) {
					t.Fatalf("workers borrow %v and %v", borrowed, chosen)
				}
				borrowed = chosen
				list[w].Plan(indices, slots, tokens, steps, borrowed)
			}
		}
		if err := simulate(list, indices, slots, tokens); err != nil {
			t.Fatalf("%d workers, %d experts, %d slots, %d steps, tokens %v, borrowed %v: %v", workers, experts, slots, steps, tokens, borrowed, err)
		}
	}
}

func simulate(list []*Exchange, indices []int32, slots int, tokens [][2]int) error {
	memory, results := make([][]int, len(list)), make([][]int, len(list)) // [places] tokens, and expert·1000000 + token
	for w, x := range list {
		memory[w], results[w] = make([]int, x.Sent+x.Kept+x.Received), make([]int, x.Sent+x.Kept+x.Received)
		for place, token := range x.Token {
			memory[w][place] = tokens[w][0] + int(token)
		}
	}
	// move does the all-to-all of a step, there or back.
	move := func(step int, places [][]int, back bool) error {
		queue := map[[2]int][]int{}
		for pass := range 2 {
			for w, x := range list {
				sends, receives := x.Rows(step)
				from, to, into, end := x.Places(step)
				if back {
					sends, receives, from, to, into, end = receives, sends, into, end, from, to
				}
				if pass == 0 {
					for other, n := range sends {
						queue[[2]int{w, other}] = places[w][from : from+n]
						from += n
					}
					if from != to {
						return fmt.Errorf("worker %d sends %d places too many", w, to-from)
					}
					continue
				}
				for other, n := range receives {
					if sent := queue[[2]int{other, w}]; len(sent) != n {
						return fmt.Errorf("worker %d sends %d rows to %d, which expects %d", other, len(sent), w, n)
					}
					into += copy(places[w][into:], queue[[2]int{other, w}])
				}
				if into != end {
					return fmt.Errorf("worker %d receives %d places too many", w, end-into)
				}
			}
		}
		return nil
	}
	for step := range list[0].Steps() {
		if err := move(step, memory, false); err != nil {
			return err
		}
	}
	for w, x := range list {
		names := []int{}
		for _, e := range x.computed {
			names = append(names, e)
		}
		done := make([]bool, len(x.Place))
		for step := range x.Steps() + 1 {
			for _, s := range x.Segments(step) {
				for i := range s.Rows {
					row := s.Row + i
					if done[row] || row < x.Offset[s.Expert] || row >= x.Offset[s.Expert+1] || x.Place[row] != x.Place[s.Row]+int32(i) {
						return fmt.Errorf("worker %d: row %d of %+v is out of order", w, row, s)
					}
					done[row] = true
					results[w][x.Place[row]] = names[s.Expert]*1000000 + memory[w][x.Place[row]]
				}
			}
		}
		if slices.Contains(done, false) {
			return fmt.Errorf("worker %d does not compute all rows", w)
		}
		last := -1
		for slot, row := range x.Computed(indices, slots, tokens) {
			if want := int(indices[slot])*1000000 + slot/slots; results[w][x.Place[row]] != want || slot <= last {
				return fmt.Errorf("worker %d: slot %d has row %d, of %d", w, slot, row, results[w][x.Place[row]])
			}
			last = slot
		}
		rows := 0
		for i, p := range x.Parts {
			if p.Row != rows || i > 0 && x.Parts[i-1].Expert > p.Expert {
				return fmt.Errorf("worker %d has parts %+v", w, x.Parts)
			}
			rows += p.Rows
		}
		if rows != len(x.Place) {
			return fmt.Errorf("worker %d has parts of %d rows, not %d", w, rows, len(x.Place))
		}
	}
	for step := range list[0].Steps() {
		if err := move(step, results, true); err != nil {
			return err
		}
	}
	for w, x := range list {
		for i, place := range x.Row {
			slot := tokens[w][0]*slots + i
			switch e := int(indices[slot]); {
			case e < 0 && place != -1:
				return fmt.Errorf("dropped slot %d has place %d", slot, place)
			case e >= 0 && results[w][place] != e*1000000+slot/slots:
				return fmt.Errorf("slot %d gets the result %d", slot, results[w][place])
			}
		}
	}
	return nil
}

// TestBorrow: an expert is borrowed where sending its rows costs more than its
// weights.
func TestBorrow(t *testing.T) {
	for _, test := range []struct {
		name  string
		rows  func(worker, expert int) int
		costs Costs
		want  []int
	}{
		{"even", func(int, int) int { return 10 }, Costs{RowBytes: 1, ExpertBytes: 100, RowWork: 1, Bandwidth: 1, Speed: 1000}, nil},
		{"hot", func(_, e int) int { return 10 + 1000*(e/7) }, Costs{RowBytes: 1, ExpertBytes: 100, RowWork: 1, Bandwidth: 1, Speed: 1000}, []int{7}},
		{"heavy", func(_, e int) int { return 10 + 1000*(e/7) }, Costs{RowBytes: 1, ExpertBytes: 1e5, RowWork: 1, Bandwidth: 1, Speed: 1000}, nil},
		{"hot, slow processors", func(_, e int) int { return 10 + 1000*(e/7) }, Costs{RowBytes: 1, ExpertBytes: 100, RowWork: 1e6, Bandwidth: 1e6, Speed: 1}, []int{7}},
		{"not measured", func(_, e int) int { return 10 + 1000*(e/7) }, Costs{RowBytes: 1, ExpertBytes: 100, RowWork: 1}, nil},
	} {
		x := NewExchange([]int{0, 2, 4, 6, 8}, 1)
		for w := range 4 {
			for e := range 8 {
				x.row(w)[e] = test.rows(w, e)
			}
		}
		if got := x.Borrow(test.costs); !slices.Equal(got, test.want) {
			t.Errorf("%s: %v are borrowed, want %v", test.name, got, test.want)
		}
	}
}
