package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
)

// The trained sample, and a text that it has not seen.
const (
	sample     = "models/gpt-megatron/model.onnx"
	sampleText = "models/gpt-megatron/heldout.txt"
)

func (s *suite) perplexityFile() string { return filepath.Join(s.results(), "perplexity.json") }

// measurePerplexities rewrites the sample with each format of experts' weights
// and lets it predict the text.
func (s *suite) measurePerplexities() error {
	perplexities := map[string]float64{}
	for _, format := range formats {
		path := filepath.Join(s.models(), "sample-"+format+".onnx")
		args := []string{sample, "-o", path, "--num-experts", "8", "--top-k", "2", "--expert-weights", format}
		c := exec.Command(filepath.Join(s.bin, "fmoefy"), args...)
		c.Stderr = os.Stderr
		if err := c.Run(); err != nil {
			return fmt.Errorf("%v: %w", c.Args, err)
		}
		c = exec.Command(filepath.Join(s.bin, "moerun"), "perplexity", path, "--text", sampleText, "--max-tokens", "8193", "--json")
		c.Stderr = os.Stderr
		out, err := c.Output()
		if err != nil {
			return fmt.Errorf("%v: %w", c.Args, err)
		}
		var r struct {
			Perplexity float64 `json:"perplexity"`
		}
		if err := json.Unmarshal(out, &r); err != nil {
			return err
		}
		perplexities[format] = r.Perplexity
	}
	data, err := json.MarshalIndent(perplexities, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(s.perplexityFile(), data, 0o666)
}

// loadPerplexities returns none where they were not measured.
func (s *suite) loadPerplexities() (map[string]float64, error) {
	data, err := os.ReadFile(s.perplexityFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var perplexities map[string]float64
	return perplexities, json.Unmarshal(data, &perplexities)
}
