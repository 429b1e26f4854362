package comm

import (
	"context"
	"encoding/json"
	"fmt"
)

// Gather gives all ranks what each has, in the order of ranks. Values travel as
// JSON. It is a collective call.
func Gather[T any](ctx context.Context, c Communicator, value T) ([]T, error) {
	text, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	sizes := make([]int64, c.Size())
	if err := c.AllGather(ctx, Slice([]int64{int64(len(text))}), Slice(sizes), nil).Wait(); err != nil {
		return nil, err
	}
	counts, total := make([]int, len(sizes)), 0
	for i, n := range sizes {
		counts[i] = int(n)
		total += counts[i]
	}
	all := make([]uint8, total)
	if err := c.AllGather(ctx, Slice(text), Slice(all), counts).Wait(); err != nil {
		return nil, err
	}
	list := make([]T, len(sizes))
	for i, n := range counts {
		if err := json.Unmarshal(all[:n], &list[i]); err != nil {
			return nil, fmt.Errorf("what rank %d sent: %w", i, err)
		}
		all = all[n:]
	}
	return list, nil
}
