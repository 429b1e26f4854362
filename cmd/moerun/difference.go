package main

import (
	"fmt"

	"github.com/fmoe-go/fmoe/internal/cli"
	"github.com/fmoe-go/fmoe/runtime/dataset"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// difference is how far an output is from what is expected.
type difference struct {
	Equal    bool      `json:"equal"`
	MaxAbs   cli.Float `json:"max_abs"`
	MaxRel   cli.Float `json:"max_rel"`  // MaxAbs / the largest expected element
	Failures int       `json:"failures"` // elements outside the tolerance
	Elements int       `json:"elements"`
	worst    string
}

func compareTensors(got, want *tensor.Tensor, rtol, atol float64) (difference, error) {
	d, err := tensor.Compare(got, want, rtol, atol)
	if err != nil {
		return difference{}, err
	}
	result := difference{Equal: d.Failures == 0, MaxAbs: cli.Float(d.MaxAbs), Failures: d.Failures, Elements: want.Len()}
	if s, ok := dataset.Summarize(want); ok && s.Largest() > 0 {
		result.MaxRel = cli.Float(d.MaxAbs / s.Largest())
	}
	if d.Failures > 0 {
		result.worst = fmt.Sprintf("at %v it is %v, expected %v", tensor.Index(want.Shape, d.Worst), d.Got, d.Want)
		if len(want.Strings) > 0 {
			result.worst = fmt.Sprintf("at %v it is %q, expected %q", tensor.Index(want.Shape, d.Worst), got.Strings[d.Worst], want.Strings[d.Worst])
		}
	}
	return result, nil
}

// failure says what is wrong with an output that is not equal.
func (d difference) failure(name string) error {
	return fmt.Errorf("output %q differs in %d of %d elements; the worst: %s", name, d.Failures, d.Elements, d.worst)
}

func (d difference) verdict() string {
	if d.Equal {
		return "equal"
	}
	return fmt.Sprintf("DIFFERENT in %d of %d elements", d.Failures, d.Elements)
}
