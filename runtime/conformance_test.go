package runtime_test

import (
	"testing"

	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/devicetest"
)

// TestONNXCases runs ONNX's operator cases on the CPU. A case that the
// runtime refuses as unsupported is skipped.
func TestONNXCases(t *testing.T) {
	for _, c := range devicetest.ONNXCases(t) {
		t.Run(c.Name, func(t *testing.T) {
			if reason := devicetest.Exception(c); reason != "" {
				t.Skip(reason)
			}
			switch outcome, err := devicetest.Run(c, runtime.Options{}); outcome {
			case devicetest.Failed:
				t.Error(err)
			case devicetest.Unsupported:
				t.Skip(err)
			}
		})
	}
}
