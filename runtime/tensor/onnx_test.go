package tensor

import (
	"encoding/binary"
	"math"
	"slices"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
)

// Numbers within a file may lie at any address.
func TestFromONNXAnywhere(t *testing.T) {
	want := []float64{1, -2.5, math.Pi}
	for offset := range 9 {
		data := make([]byte, offset, 64)
		for _, x := range want {
			data = binary.LittleEndian.AppendUint64(data, math.Float64bits(x))
		}
		x, err := FromONNX(onnx.NewTensor("x", onnx.Float64, []int64{3}, data[offset:]))
		if err != nil {
			t.Fatal(err)
		}
		if got := Of[float64](x); !slices.Equal(got, want) {
			t.Errorf("at offset %d: %v, want %v", offset, got, want)
		}
	}
}
