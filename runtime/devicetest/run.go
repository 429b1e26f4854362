package devicetest

import (
	"context"
	"errors"
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// Tolerance is how far an output x may be from its reference r:
// |x − r| ≤ Absolute + Relative·|r|.
type Tolerance struct{ Relative, Absolute float64 }

// ONNXTolerance is that of ONNX's own test runner.
var ONNXTolerance = Tolerance{Relative: 1e-3, Absolute: 1e-7}

// Outcome is how a case ended.
type Outcome int

// The outcomes. Unsupported means that the runtime refused the model and said
// so; a wrong answer is a failure.
const (
	Passed Outcome = iota
	Failed
	Unsupported
)

// Run computes a case and compares. The error says why it did not pass.
func Run(c Case, o runtime.Options) (Outcome, error) {
	m, err := onnx.Decode(c.Model)
	if err != nil {
		return Failed, err
	}
	s, err := runtime.New(m, o)
	if err != nil {
		return refusal(err), err
	}
	defer s.Close()
	for _, set := range c.Data {
		if err := runDataSet(s, set, c.Tolerance); err != nil {
			return refusal(err), fmt.Errorf("%s: %w", set.Name, err)
		}
	}
	return Passed, nil
}

func refusal(err error) Outcome {
	var u *runtime.UnsupportedError
	if errors.As(err, &u) || errors.Is(err, device.ErrUnsupported) || errors.Is(err, runtime.ErrNotTensor) {
		return Unsupported
	}
	return Failed
}

func runDataSet(s *runtime.Session, set DataSet, tolerance Tolerance) error {
	inputs := map[string]*tensor.Tensor{}
	declared := s.Inputs()
	if len(set.Inputs) > len(declared) {
		return fmt.Errorf("%d inputs for a model with %d", len(set.Inputs), len(declared))
	}
	for i, b := range set.Inputs {
		t, err := decode(b)
		if err != nil {
			return err
		}
		inputs[declared[i].Name] = t
	}
	outputs, err := s.Run(context.Background(), inputs)
	if err != nil {
		return err
	}
	for i, b := range set.Outputs {
		want, err := decode(b)
		if err != nil {
			return err
		}
		name := s.Outputs()[i].Name
		d, err := tensor.Compare(outputs[name], want, tolerance.Relative, tolerance.Absolute)
		if err != nil {
			return fmt.Errorf("output %q %w", name, err)
		}
		if d.Failures > 0 {
			return fmt.Errorf("output %q: %d of %d elements differ, the worst at %v: got %v, want %v",
				name, d.Failures, want.Len(), tensor.Index(want.Shape, d.Worst), d.Got, d.Want)
		}
	}
	return nil
}
