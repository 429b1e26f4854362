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
