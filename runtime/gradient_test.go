package runtime_test

import (
	"testing"

	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/devicetest"
)

func TestGradients(t *testing.T) {
	devicetest.Gradients(t, runtime.Options{Threads: 2}, devicetest.GradientCases)
}
