package plan

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
)

// SetLoad gives the layers of the model, in their order, the load of their
// experts from what "moerun routing --json" printed, or from the last step of
// the log of a training run.
func (m *Model) SetLoad(text []byte) error {
	type layer struct {
		Name string     `json:"name"`
		Load []*float64 `json:"load"`
	}
	var layers []layer
	d := json.NewDecoder(bytes.NewReader(text))
	for {
		var record struct {
			Layers  []layer                  `json:"layers"`
			Routing struct{ Layers []layer } `json:"routing"`
		}
		if err := d.Decode(&record); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return fmt.Errorf("no JSON of \"moerun routing --json\" or of a training run's log: %w", err)
		}
		if len(record.Layers) > 0 {
			layers = record.Layers
		} else if len(record.Routing.Layers) > 0 {
			layers = record.Routing.Layers
		}
	}
	if len(layers) != len(m.Layers) {
		return fmt.Errorf("the load is of %d mixtures of experts, the model has %d", len(layers), len(m.Layers))
	}
	for i, l := range layers {
		if len(l.Load) != m.Layers[i].Experts {
			return fmt.Errorf("layer %q: the load is of %d experts, the model has %d", l.Name, len(l.Load), m.Layers[i].Experts)
		}
		load, sum := make([]float64, len(l.Load)), 0.0
		for e, x := range l.Load {
			if x == nil || *x < 0 || *x > 1 {
				return fmt.Errorf("layer %q: the load of expert %d is no share of the rows", l.Name, e)
			}
			load[e] = *x
			sum += *x
		}
		if math.Abs(sum-1) > 1e-3 {
			return fmt.Errorf("layer %q: the loads of its experts add up to %g instead of 1", l.Name, sum)
		}
		m.Layers[i].Load = load
	}
	return nil
}
