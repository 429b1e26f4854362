package job

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/fmoe-go/fmoe/runtime/train"
)

// Config is all that a training run depends on, but for the model.
type Config struct {
	Data      Data            `json:"data" yaml:"data"`
	Loss      train.Loss      `json:"loss" yaml:"loss"`
	Optimizer train.Optimizer `json:"optimizer" yaml:"optimizer"`
	Schedule  train.Schedule  `json:"schedule" yaml:"schedule"`
	Groups    []train.Group   `json:"groups,omitempty" yaml:"groups,omitempty"`

	// Steps is the number of steps of the run, each over Accumulate batches.
	Steps      int64 `json:"steps" yaml:"steps"`
	Accumulate int   `json:"accumulate" yaml:"accumulate"`
	// Clip bounds the norm of all gradients together; 0 does not.
	Clip float64 `json:"clip" yaml:"clip"`
	// BiasRate moves selection biases of routers; see train.Options.
	BiasRate float64 `json:"bias_rate" yaml:"bias_rate"`
	// Precision is that of products: float32 or bfloat16.
	Precision string `json:"precision" yaml:"precision"`
	// Recompute saves memory for the time of another forward pass.
	Recompute bool  `json:"recompute" yaml:"recompute"`
	Seed      int64 `json:"seed" yaml:"seed"`

	// EvaluateEvery and SaveEvery are numbers of steps; 0 is only at the end.
	EvaluateEvery int64 `json:"evaluate_every" yaml:"evaluate_every"`
	SaveEvery     int64 `json:"save_every" yaml:"save_every"`
	// Keep is the number of checkpoints that are kept; 0 keeps all.
	Keep int `json:"keep" yaml:"keep"`
	// SkipLimit is the number of steps in a row without finite gradients after
	// which the run stops.
	SkipLimit int64 `json:"skip_limit" yaml:"skip_limit"`
}

// DefaultConfig is good for continuing the training of a language model whose
// optimizer is of the given kind.
func DefaultConfig(optimizer string) Config {
	o := train.DefaultOptions()
	return Config{
		Data: Data{HeldOut: 0.05, Batch: 8}, Loss: o.Loss, Optimizer: train.DefaultOptimizer(optimizer), Schedule: o.Schedule,
		Steps: o.Steps, Accumulate: 1, Clip: o.Clip, BiasRate: o.BiasRate, Precision: o.Precision, Seed: 1,
		EvaluateEvery: 100, SaveEvery: 500, Keep: 3, SkipLimit: 10,
	}
}

// Data says what a run reads.
type Data struct {
	// Train and Evaluate are files: text, JSON lines, .npy or Megatron's
	// indexed datasets. Where Evaluate is "", a share HeldOut of Train is held
	// out.
	Train    string  `json:"train" yaml:"train"`
	Evaluate string  `json:"evaluate,omitempty" yaml:"evaluate,omitempty"`
	HeldOut  float64 `json:"held_out" yaml:"held_out"`
	// Labels and EvaluateLabels are .npy files with the labels of Train and
	// Evaluate, for the loss mse, and for classification of features.
	Labels         string `json:"labels,omitempty" yaml:"labels,omitempty"`
	EvaluateLabels string `json:"evaluate_labels,omitempty" yaml:"evaluate_labels,omitempty"`
	// Tokenizer is the path of a tokenizer.json, or "bytes". With "" it is the
	// tokenizer.json beside the model or, where there is none, bytes.
	Tokenizer string `json:"tokenizer,omitempty" yaml:"tokenizer,omitempty"`
	// TextKey and LabelKey are those of JSON lines; "" is "text" and "label".
	TextKey  string `json:"text_key,omitempty" yaml:"text_key,omitempty"`
	LabelKey string `json:"label_key,omitempty" yaml:"label_key,omitempty"`
	// Length is the number of tokens of a sequence; 0 is the model's context,
	// or 512 where that is not bounded. Batch is the number of sequences.
	Length int `json:"length" yaml:"length"`
	Batch  int `json:"batch" yaml:"batch"`
	// Mask, Pad and Special are tokens of masked language models; Before and
	// After stand around each sequence.
	Mask    int   `json:"mask,omitempty" yaml:"mask,omitempty"`
	Pad     int   `json:"pad,omitempty" yaml:"pad,omitempty"`
	Special []int `json:"special,omitempty" yaml:"special,omitempty"`
	Before  []int `json:"before,omitempty" yaml:"before,omitempty"`
	After   []int `json:"after,omitempty" yaml:"after,omitempty"`
}

// Parse reads a configuration in YAML, and settings such as
// "optimizer.beta2=0.99" that count more. What neither says is as in
// DefaultConfig.
func Parse(text []byte, settings []string) (Config, error) {
	documents := [][]byte{text}
	for _, s := range settings {
		d, err := document(s)
		if err != nil {
			return Config{}, err
		}
		documents = append(documents, d)
	}
	read := func(into *Config) error {
		for _, d := range documents {
			decoder := yaml.NewDecoder(bytes.NewReader(d))
			decoder.KnownFields(true)
			if err := decoder.Decode(into); err != nil && !errors.Is(err, io.EOF) {
				return errors.New(strings.TrimPrefix(strings.ReplaceAll(err.Error(), " in type job.Config", ""), "yaml: "))
			}
		}
		return nil
	}
	kind := Config{Optimizer: train.Optimizer{Kind: train.AdamW}}
	if err := read(&kind); err != nil {
		return Config{}, err
	}
	c := DefaultConfig(kind.Optimizer.Kind)
	if err := read(&c); err != nil {
		return c, err
	}
	return c, c.Check()
}

// document turns a setting such as "a.b=c" into YAML.
func document(setting string) ([]byte, error) {
	path, value, ok := strings.Cut(setting, "=")
	if !ok || path == "" {
		return nil, fmt.Errorf("setting %q is not of the form name=value, such as optimizer.beta2=0.99", setting)
	}
	keys := strings.Split(path, ".")
	var b strings.Builder
	for i, key := range keys {
		b.WriteString(strings.Repeat("  ", i) + key + ":")
		if i < len(keys)-1 {
			b.WriteString("\n")
		}
	}
	b.WriteString(" " + value + "\n")
	return []byte(b.String()), nil
}

// YAML returns the configuration as Parse reads it.
func (c Config) YAML() string {
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(c); err != nil {
		panic(err) // it has fields of plain types only
	}
	return b.String()
}

// options are those of the trainer.
func (c *Config) options() train.Options {
	return train.Options{Loss: c.Loss, Optimizer: c.Optimizer, Schedule: c.Schedule, Groups: c.Groups, Steps: c.Steps,
		Clip: c.Clip, BiasRate: c.BiasRate, Precision: c.Precision, Recompute: c.Recompute, Seed: c.Seed}
}

// Check fails where the configuration contradicts itself, whatever the model.
func (c *Config) Check() error {
	o := c.options()
	errs := []error{o.Check()}
	wrong := func(is bool, format string, args ...any) {
		if is {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	d := &c.Data
	wrong(d.Batch < 1, "data.batch %d must be 1 or more", d.Batch)
	wrong(d.Length < 0, "data.length %d must be 0 or more", d.Length)
	wrong(!(d.HeldOut >= 0 && d.HeldOut < 1), "data.held_out %g must be from 0 to below 1", d.HeldOut)
	wrong(c.Loss.Kind == train.MSE && d.Train != "" && d.Labels == "", "the loss mse needs data.labels, a .npy file")
	wrong(c.Loss.Kind == train.NextToken && d.Labels != "", "the loss next-token takes its labels from data.train, not from data.labels")
	wrong(c.Accumulate < 1, "accumulate %d must be 1 or more", c.Accumulate)
	wrong(c.EvaluateEvery < 0 || c.SaveEvery < 0 || c.Keep < 0, "evaluate_every, save_every and keep must be 0 or more")
	wrong(c.SkipLimit < 1, "skip_limit %d must be 1 or more", c.SkipLimit)
	return errors.Join(errs...)
}

// difference names the settings in which two configurations differ.
func (c Config) difference(other Config) string {
	a, b := strings.Split(c.YAML(), "\n"), strings.Split(other.YAML(), "\n")
	var lines []string
	for _, line := range b {
		if !slices.Contains(a, line) {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return strings.Join(lines, ", ")
}
