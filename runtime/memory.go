package runtime

import (
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// budget refuses memory beyond a limit, so that a hostile or mistaken shape
// ends in an error and not in the machine's collapse.
type budget struct{ limit int }

// defaultMemoryShare is the share of the machine's memory that a session may
// plan for when the caller sets no limit.
const defaultMemoryShare = 0.8

func newBudget(limit int64) *budget {
	if limit <= 0 {
		limit = int64(defaultMemoryShare * float64(machineMemory()))
	}
	return &budget{limit: int(limit)}
}

// admit fails where a tensor alone would exceed the limit.
func (b *budget) admit(t onnx.DataType, shape []int) error {
	n, err := tensor.CheckedCount(t, shape)
	if err != nil {
		return err
	}
	width := t.Bits()
	if t == onnx.String {
		width = 128
	}
	return b.admitBytes(n / 8 * width)
}

func (b *budget) admitBytes(n int) error {
	if n > b.limit {
		return fmt.Errorf("needs %d MiB, more than the memory limit of %d MiB; give a higher limit or smaller inputs", n>>20, b.limit>>20)
	}
	return nil
}

// Memory is what a session holds, in bytes.
type Memory struct {
	// Weights is the size of the model's constants in the form in which nodes
	// read them, such as packed.
	Weights int64
	// Plan is the size of the largest plan so far: the arena of one run with
	// its scratch memory.
	Plan int64
}

// Memory returns what the session holds by now.
func (s *Session) Memory() Memory {
	return Memory{Weights: s.weights, Plan: s.planned.Load()}
}

// notePlan remembers the size of the largest plan.
func (s *Session) notePlan(size int) {
	for {
		largest := s.planned.Load()
		if int64(size) <= largest || s.planned.CompareAndSwap(largest, int64(size)) {
			return
		}
	}
}
