// Package commtest is the conformance suite of communicators.
package commtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/comm"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// Case is one test. Every rank runs it.
type Case struct {
	Name string
	// Final cases leave a communicator that cannot be used.
	Final bool
	// Timeout is what the communicator needs; 0 is any.
	Timeout time.Duration
	Run     func(ctx context.Context, c comm.Communicator) error
}

// Cases returns the suite, for any number of ranks.
func Cases() []Case {
	return []Case{
		{Name: "all-to-all", Run: allToAll},
		{Name: "arithmetic", Run: arithmetic},
		{Name: "large", Run: large},
		{Name: "broadcast", Run: broadcast},
		{Name: "point to point", Run: ring},
		{Name: "many handles", Run: manyHandles},
		{Name: "groups", Run: groups},
		{Name: "nothing", Run: nothing},
		{Name: "closed", Final: true, Run: closed},
		{Name: "aborted", Final: true, Run: aborted},
		{Name: "cancelled", Final: true, Run: cancelled},
		{Name: "silent", Final: true, Timeout: time.Second, Run: silent},
		{Name: "size mismatch", Final: true, Run: sizeMismatch},
	}
}

// Unordered is the suite for communicators that add in an order of their own:
// sums of more than two ranks may be rounded otherwise.
func Unordered() []Case {
	list := Cases()
	at := slices.IndexFunc(list, func(c Case) bool { return c.Name == "arithmetic" })
	list[at].Run = func(ctx context.Context, c comm.Communicator) error {
		if c.Size() <= 2 {
			return arithmeticWith(ctx, c, equal)
		}
		return arithmeticWith(ctx, c, near)
	}
	return list
}

// near fails where elements are not those wanted but for rounding, of sums whose
// terms are up to 4096.
func near(what string, got, want comm.Buffer) error {
	tolerance := map[onnx.DataType]float64{onnx.Float64: 1e-11, onnx.Float32: 1e-2, onnx.Float16: 32, onnx.BFloat16: 256}[got.Type]
	if tolerance == 0 || got.Type != want.Type || len(got.Data) != len(want.Data) {
		return equal(what, got, want)
	}
	var numbers [2]*tensor.Tensor
	for i, b := range []comm.Buffer{got, want} {
		n := len(b.Data) / tensor.ByteSize(b.Type, 1)
		numbers[i] = tensor.New(onnx.Float64, n)
		tensor.ConvertFloat(numbers[i], &tensor.Tensor{Type: b.Type, Shape: []int{n}, Data: b.Data})
	}
	for i, x := range tensor.Of[float64](numbers[0]) {
		if y := tensor.Of[float64](numbers[1])[i]; !(math.Abs(x-y) <= tolerance) {
			return fmt.Errorf("%s: element %d is %g, want %g", what, i, x, y)
		}
	}
	return nil
}

// random returns a generator that gives the same numbers wherever it is made
// with the same keys.
func random(keys ...int) *rand.Rand {
	seed := uint64(0)
	for _, k := range keys {
		seed = seed*1_000_003 + uint64(k) + 1
	}
	return rand.New(rand.NewPCG(seed, 0))
}

// equal fails where the elements are not those wanted, bit by bit.
func equal(what string, got, want comm.Buffer) error {
	if got.Type != want.Type || !bytes.Equal(got.Data, want.Data) {
		return fmt.Errorf("%s: got %s %.64x, want %s %.64x", what, got.Type, got.Data, want.Type, want.Data)
	}
	return nil
}

// allToAll exchanges counts first, then the rows, as an FMoE layer does.
func allToAll(ctx context.Context, c comm.Communicator) error {
	n, rank := c.Size(), c.Rank()
	for round := range 4 {
		count := func(from, to int) int { return (from*7 + to*3 + round) % 5 * (round * 40) }
		value := func(from, to, i int) float32 { return float32(from*1_000_000 + to*10_000 + i) }
		sent, received := make([]int64, n), make([]int64, n)
		for r := range n {
			sent[r] = int64(count(rank, r))
		}
		ones := slices.Repeat([]int{1}, n)
		if err := c.AllToAll(ctx, comm.Slice(sent), ones, comm.Slice(received), ones).Wait(); err != nil {
			return err
		}
		var send, want []float32
		sendCounts, receiveCounts := make([]int, n), make([]int, n)
		for r := range n {
			sendCounts[r], receiveCounts[r] = int(sent[r]), int(received[r])
			for i := range count(rank, r) {
				send = append(send, value(rank, r, i))
			}
			for i := range count(r, rank) {
				want = append(want, value(r, rank, i))
			}
		}
		got := make([]float32, len(want))
		if err := c.AllToAll(ctx, comm.Slice(send), sendCounts, comm.Slice(got), receiveCounts).Wait(); err != nil {
			return err
		}
		if err := equal(fmt.Sprintf("round %d", round), comm.Slice(got), comm.Slice(want)); err != nil {
			return err
		}
	}
	return nil
}

// arithmetic compares reductions of random sizes, types and numbers with
// additions in the order of ranks.
func arithmetic(ctx context.Context, c comm.Communicator) error { return arithmeticWith(ctx, c, equal) }

// comparison compares buffers.
type comparison func(what string, got, want comm.Buffer) error

func arithmeticWith(ctx context.Context, c comm.Communicator, equal comparison) error {
	for round := range 60 {
		r := random(round)
		t := []onnx.DataType{onnx.Float32, onnx.Float64, onnx.BFloat16, onnx.Float16, onnx.Int64}[r.IntN(5)]
		reduction := []comm.Reduction{comm.Sum, comm.Max}[r.IntN(2)]
		counts := make([]int, c.Size())
		total := 0
		for i := range counts {
			counts[i] = r.IntN(3) * r.IntN(3000)
			total += counts[i]
		}
		inputs := make([]*tensor.Tensor, c.Size())
		for i := range inputs {
			inputs[i] = numbers(random(round, i), t, total)
		}
		want := reduced(inputs, reduction)
		if err := compare(ctx, c, inputs[c.Rank()], want, counts, reduction, equal); err != nil {
			return fmt.Errorf("round %d, %s, counts %v: %w", round, t, counts, err)
		}
	}
	return nil
}

// numbers returns random ones, of sizes whose sums are rounded.
func numbers(r *rand.Rand, t onnx.DataType, n int) *tensor.Tensor {
	if t == onnx.Int64 {
		x := make([]int64, n)
		for i := range x {
			x[i] = int64(r.Uint64()) >> 8
		}
		return tensor.FromSlice(x, n)
	}
	x := make([]float64, n)
	for i := range x {
		x[i] = r.NormFloat64() * float64(int(1)<<r.IntN(10))
	}
	out := tensor.New(t, n)
	tensor.ConvertFloat(out, tensor.FromSlice(x, n))
	return out
}

// reduced computes a reduction element by element.
func reduced(inputs []*tensor.Tensor, r comm.Reduction) *tensor.Tensor {
	out := inputs[0].Clone()
	switch out.Type {
	case onnx.Int64:
		fold[int64](out, inputs, r)
	case onnx.Float64:
		fold[float64](out, inputs, r)
	case onnx.Float32:
		fold[float32](out, inputs, r)
	default: // in float32, rounded at the end
		wide := make([]*tensor.Tensor, len(inputs))
		for i, x := range inputs {
			wide[i] = tensor.New(onnx.Float32, x.Len())
			tensor.ConvertFloat(wide[i], x)
		}
		tensor.ConvertFloat(out, reduced(wide, r))
	}
	return out
}

func fold[T int64 | float64 | float32](out *tensor.Tensor, inputs []*tensor.Tensor, r comm.Reduction) {
	sum := tensor.Of[T](out)
	for i := range sum {
		for _, x := range inputs[1:] {
			if v := tensor.Of[T](x)[i]; r == comm.Sum {
				sum[i] += v
			} else {
				sum[i] = max(sum[i], v)
			}
		}
	}
}

// compare makes the three calls that a reduction can be made with.
func compare(ctx context.Context, c comm.Communicator, x, want *tensor.Tensor, counts []int, r comm.Reduction, equal comparison) error {
	size := tensor.ByteSize(x.Type, 1)
	begin := 0
	for _, n := range counts[:c.Rank()] {
		begin += n * size
	}
	part := func(data []byte) comm.Buffer {
		return comm.Buffer{Type: x.Type, Data: data[begin : begin+counts[c.Rank()]*size]}
	}
	all, own, gathered := x.Clone(), tensor.New(x.Type, counts[c.Rank()]), tensor.New(x.Type, x.Len())
	if err := comm.Wait(c.AllReduce(ctx, comm.Of(all), r), c.ReduceScatter(ctx, comm.Of(x), comm.Of(own), counts, r)); err != nil {
		return err
	}
	if err := c.AllGather(ctx, comm.Of(own), comm.Of(gathered), counts).Wait(); err != nil {
		return err
	}
	return errors.Join(equal("all-reduce", comm.Of(all), comm.Of(want)), equal("reduce-scatter", comm.Of(own), part(want.Data)),
		equal("all-gather", comm.Of(gathered), comm.Of(want)))
}

// large moves messages of many megabytes.
func large(ctx context.Context, c comm.Communicator) error {
	const n = 1 << 18
	x := make([]float64, n*c.Size())
	for i := range x {
		x[i] = float64(i % 1000 * (c.Rank() + 1))
	}
	part := make([]float64, n)
	if err := comm.Wait(c.ReduceScatter(ctx, comm.Slice(x), comm.Slice(part), nil, comm.Sum), c.AllReduce(ctx, comm.Slice(slices.Clone(x)), comm.Max)); err != nil {
		return err
	}
	if err := c.AllGather(ctx, comm.Slice(part), comm.Slice(x), nil).Wait(); err != nil {
		return err
	}
	factor := c.Size() * (c.Size() + 1) / 2
	for i, v := range x {
		if v != float64(i%1000*factor) {
			return fmt.Errorf("element %d: got %g, want %d", i, v, i%1000*factor)
		}
	}
	return nil
}

func broadcast(ctx context.Context, c comm.Communicator) error {
	for root := range c.Size() {
		for _, n := range []int{0, 1, 1000, 100_003} {
			want := numbers(random(root, n), onnx.BFloat16, n)
			x := tensor.New(onnx.BFloat16, n)
			if c.Rank() == root {
				copy(x.Data, want.Data)
			}
			if err := c.Broadcast(ctx, comm.Of(x), root).Wait(); err != nil {
				return err
			}
			if err := equal(fmt.Sprintf("%d elements from rank %d", n, root), comm.Of(x), comm.Of(want)); err != nil {
				return err
			}
		}
	}
	return c.Barrier(ctx).Wait()
}

// ring sends messages to the next rank, which gets them in order.
func ring(ctx context.Context, c comm.Communicator) error {
	n := c.Size()
	if n == 1 {
		return nil
	}
	const messages = 50
	var handles []*comm.Handle
	got := make([][]int64, messages)
	for i := range got {
		got[i] = make([]int64, 1+i)
		handles = append(handles, c.Receive(ctx, comm.Slice(got[i]), (c.Rank()+n-1)%n))
	}
	for i := range got {
		handles = append(handles, c.Send(ctx, comm.Slice(slices.Repeat([]int64{int64(c.Rank()*1000 + i)}, 1+i)), (c.Rank()+1)%n))
	}
	if err := comm.Wait(handles...); err != nil {
		return err
	}
	for i, x := range got {
		if want := slices.Repeat([]int64{int64((c.Rank()+n-1)%n*1000 + i)}, 1+i); !slices.Equal(x, want) {
			return fmt.Errorf("message %d: got %v, want %v", i, x, want)
		}
	}
	return nil
}

// manyHandles waits for as many calls as may be under way, in any order.
func manyHandles(ctx context.Context, c comm.Communicator) error {
	for range 2 { // numbers of calls are used again
		handles := make([]*comm.Handle, comm.Window)
		sums := make([][]int64, len(handles))
		for i := range handles {
			sums[i] = []int64{int64(i), int64(c.Rank())}
			handles[i] = c.AllReduce(ctx, comm.Slice(sums[i]), comm.Sum)
		}
		for _, i := range random(c.Rank()).Perm(len(handles)) {
			if err := handles[i].Wait(); err != nil {
				return err
			}
			if n := c.Size(); sums[i][0] != int64(i*n) || sums[i][1] != int64(n*(n-1)/2) {
				return fmt.Errorf("call %d: got %v", i, sums[i])
			}
		}
	}
	return nil
}

// groups divides ranks in two ways at once, as layouts with several kinds of
// parallelism do, and groups again.
func groups(ctx context.Context, c comm.Communicator) error {
	n, rank := c.Size(), c.Rank()
	row, err := c.Split(ctx, rank/2, -rank) // the higher rank comes first
	if err != nil {
		return err
	}
	column, err := c.Split(ctx, rank%2, 0)
	if err != nil {
		return err
	}
	none, err := c.Split(ctx, min(-rank, 0), 0) // rank 0 alone
	if err != nil {
		return err
	}
	if (none == nil) != (rank > 0) {
		return fmt.Errorf("rank %d got %v for a color below 0", rank, none)
	}
	alone, err := column.Split(ctx, column.Rank(), 0)
	if err != nil {
		return err
	}
	inRow, inColumn := []int{rank / 2 * 2}, []int{}
	if rank/2*2+1 < n {
		inRow = []int{rank/2*2 + 1, rank / 2 * 2}
	}
	for r := rank % 2; r < n; r += 2 {
		inColumn = append(inColumn, r)
	}
	for range 20 {
		var handles []*comm.Handle
		gathered := map[comm.Communicator][]int64{}
		want := map[comm.Communicator][]int{row: inRow, column: inColumn, alone: {rank}}
		for _, g := range []comm.Communicator{row, column, alone} {
			gathered[g] = make([]int64, g.Size())
			handles = append(handles, g.AllGather(ctx, comm.Slice([]int64{int64(rank)}), comm.Slice(gathered[g]), nil))
		}
		if err := comm.Wait(handles...); err != nil {
			return err
		}
		for g, got := range gathered {
			if !slices.EqualFunc(got, want[g], func(a int64, b int) bool { return a == int64(b) }) {
				return fmt.Errorf("rank %d: got %v, want %v", rank, got, want[g])
			}
			if got[g.Rank()] != int64(rank) {
				return fmt.Errorf("rank %d has the number %d among %v", rank, g.Rank(), got)
			}
		}
	}
	return errors.Join(row.Close(), column.Close(), c.Barrier(ctx).Wait())
}

// nothing moves no elements.
func nothing(ctx context.Context, c comm.Communicator) error {
	empty, zeros := comm.Buffer{Type: onnx.Float32}, make([]int, c.Size())
	return comm.Wait(c.AllReduce(ctx, empty, comm.Sum), c.AllGather(ctx, empty, empty, nil), c.Broadcast(ctx, empty, 0),
		c.ReduceScatter(ctx, empty, empty, zeros, comm.Max), c.AllToAll(ctx, empty, zeros, empty, zeros), c.Barrier(ctx))
}

// last is the rank that fails in final cases.
func last(c comm.Communicator) int { return c.Size() - 1 }

// blamed fails unless an error names the last rank, and says why.
func blamed(c comm.Communicator, err error, why string) error {
	var rank *comm.RankError
	if !errors.As(err, &rank) || !slices.Contains(rank.Ranks, last(c)) || !strings.Contains(err.Error(), why) {
		return fmt.Errorf("rank %d: got the error %v, want one that names rank %d and says %q", c.Rank(), err, last(c), why)
	}
	if again := c.Barrier(context.Background()).Wait(); again == nil {
		return errors.New("a call after an error is made")
	}
	return nil
}

func closed(ctx context.Context, c comm.Communicator) error {
	if c.Rank() == last(c) {
		return c.Close()
	}
	return blamed(c, c.AllReduce(ctx, comm.Slice(make([]float32, 100)), comm.Sum).Wait(), "closed")
}

func aborted(ctx context.Context, c comm.Communicator) error {
	if c.Rank() == last(c) {
		c.Abort(errors.New("out of memory"))
		if err := c.Barrier(ctx).Wait(); err == nil || !strings.Contains(err.Error(), "out of memory") {
			return fmt.Errorf("the rank that was aborted gets the error %v", err)
		}
		return nil
	}
	return blamed(c, c.Barrier(ctx).Wait(), "out of memory")
}

// cancelled cancels a call that is under way.
func cancelled(ctx context.Context, c comm.Communicator) error {
	if c.Size() == 1 {
		return nil
	}
	if c.Rank() == last(c) {
		ctx, cancel := context.WithCancel(ctx)
		h := c.Receive(ctx, comm.Slice(make([]int64, 1)), 0) // which rank 0 never sends
		cancel()
		if err := h.Wait(); !errors.Is(err, context.Canceled) {
			return fmt.Errorf("the cancelled call gives %v", err)
		}
		return nil
	}
	return blamed(c, c.Barrier(ctx).Wait(), "canceled")
}

// silent lets the last rank wait for rank 0, and the others for the last. Those
// whose time is up first blame whom they wait for, and all agree.
func silent(ctx context.Context, c comm.Communicator) error {
	if c.Size() == 1 {
		return nil
	}
	call := c.Barrier
	if c.Rank() == last(c) {
		call = func(ctx context.Context) *comm.Handle { return c.Receive(ctx, comm.Slice(make([]int64, 1)), 0) }
	}
	err := call(ctx).Wait()
	var rank *comm.RankError
	if !errors.As(err, &rank) || !slices.Equal(rank.Ranks, []int{0}) && !slices.Equal(rank.Ranks, []int{last(c)}) || !strings.Contains(err.Error(), "time-out") {
		return fmt.Errorf("rank %d: got the error %v, want one of a time-out that names rank 0 or %d", c.Rank(), err, last(c))
	}
	return nil
}

func sizeMismatch(ctx context.Context, c comm.Communicator) error {
	if c.Size() == 1 {
		return nil
	}
	switch c.Rank() {
	case last(c):
		// The send itself may be done before the receiver complains.
		return ended(comm.Wait(c.Send(ctx, comm.Slice(make([]int64, 3)), 0), c.Barrier(ctx)))
	case 0:
		return blamed(c, c.Receive(ctx, comm.Slice(make([]int64, 2)), last(c)).Wait(), "16 bytes")
	}
	return ended(c.Barrier(ctx).Wait())
}

// ended fails unless a call has.
func ended(err error) error {
	if err == nil {
		return errors.New("a call with a rank that has failed is made")
	}
	return nil
}
