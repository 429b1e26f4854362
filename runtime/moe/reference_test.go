package moe

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
)

// referenceCase is a case of testdata/gates.py, which says what its parts are.
type referenceCase struct {
	Name            string
	Tokens, Experts int
	Training        bool
	Step            uint32
	First           int64
	Sequence        int
	Attributes      map[string]any
	Logits, Noise   []float64
	Bias            []float64
	Mask            []bool
	Indices         []int32
	Scores          []float64
	Loss            float64
	ZLoss           float64 `json:"z_loss"`
	Capacity        []int
}

func readReference[C any](t testing.TB, name string) []C {
	data, err := os.ReadFile(filepath.Join("testdata", "gates", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var cases []C
	if err := json.Unmarshal(data, &cases); err != nil {
		t.Fatal(err)
	}
	return cases
}

// config returns the configuration of a node with the case's attributes.
func (c *referenceCase) config(t testing.TB) Config {
	node := &onnx.Node{}
	for _, a := range attributes {
		value, ok := c.Attributes[a.name]
		if !ok {
			continue
		}
		var config Config
		switch a.field(&config).(type) {
		case *string:
			node.Attributes = append(node.Attributes, onnx.StringAttribute(a.name, value.(string)))
		case *float64:
			node.Attributes = append(node.Attributes, onnx.FloatAttribute(a.name, float32(value.(float64))))
		default:
			node.Attributes = append(node.Attributes, onnx.IntAttribute(a.name, int64(value.(float64))))
		}
	}
	config, err := ParseConfig(node)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

// batch returns what the gate decides about. Numbers are those of float32.
func (c *referenceCase) batch(config Config, slots int) *Batch {
	narrow := func(x []float64) []float64 {
		if x == nil {
			return nil
		}
		y := make([]float64, len(x))
		for i, v := range x {
			y[i] = float64(float32(v))
		}
		return y
	}
	return &Batch{Tokens: c.Tokens, Experts: c.Experts, Training: c.Training, First: c.First, Sequence: c.Sequence,
		Logits: narrow(c.Logits), Noise: narrow(c.Noise), SelectionBias: narrow(c.Bias), Mask: c.Mask, WantLoss: true,
		Random:  Random{Seed: uint64(config.Seed), Step: c.Step, Layer: uint32(config.Layer)},
		Indices: make([]int32, c.Tokens*slots), Scores: make([]float64, c.Tokens*slots)}
}

// capacities returns an expert's rows: of each worker's tokens, or of all.
func capacities(g Gate, config Config, b *Batch) []int {
	limited, ok := g.(interface {
		capacity(c float64, tokens int) int
	})
	switch {
	case !ok:
		return nil
	case config.Gate != GateGShard:
		return []int{limited.capacity(config.capacity(b), b.unmasked(0, b.Tokens))}
	}
	var list []int
	for w := range config.Workers {
		tokens := b.unmasked(b.part(w, config.Workers))
		list = append(list, min(limited.capacity(config.capacity(b), tokens), tokens))
	}
	return list
}

// TestReference compares every gate with what Python computed from its
// formulas, and computes each case twice.
func TestReference(t *testing.T) {
	for _, gate := range Gates() {
		cases := readReference[referenceCase](t, gate)
		if len(cases) < 20 {
			t.Errorf("%s: %d cases", gate, len(cases))
		}
		for _, c := range cases {
			t.Run(c.Name, func(t *testing.T) {
				config := c.config(t)
				g, err := NewGate(config, c.Experts)
				if err != nil {
					t.Fatal(err)
				}
				for range 2 { // a second batch finds no trace of the first
					b := c.batch(config, g.Slots())
					g.Choose(b, 0, b.Tokens)
					g.Settle(b)
					if !slices.Equal(b.Indices, c.Indices) {
						t.Fatalf("experts\n%v, want\n%v", b.Indices, c.Indices)
					}
					if got := capacities(g, config, b); !slices.Equal(got, c.Capacity) {
						t.Errorf("capacity %v, want %v", got, c.Capacity)
					}
					for i, want := range c.Scores {
						near(t, "a score", b.Scores[i], want)
					}
					near(t, "the balance loss", b.BalanceLoss, c.Loss)
					near(t, "the z-loss", ZLoss(b), c.ZLoss)
				}
			})
		}
	}
}

// near compares a number, and what float32 makes of it.
func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	size := max(1, math.Abs(want))
	if !(math.Abs(got-want) <= 1e-12*size) || !(math.Abs(float64(float32(got)-float32(want))) <= 1e-6*size) {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

func TestRandom(t *testing.T) {
	for _, c := range readReference[struct {
		Seed            uint64
		Step, Layer     uint32
		Token           int64
		Uniform, Normal []float64
	}](t, "random") {
		r := Random{Seed: c.Seed, Step: c.Step, Layer: c.Layer}
		for place, want := range c.Uniform {
			if got := r.Uniform(c.Token, place/4)[place%4]; got != want {
				t.Errorf("uniform number %d of %+v, token %d, is %v, want %v", place, r, c.Token, got, want)
			}
			near(t, "a normal number", r.Normal(c.Token, place/4)[place%4], c.Normal[place])
		}
	}
}
