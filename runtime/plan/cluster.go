// Package plan predicts what it would take to train a model on many workers:
// the memory of each, what they send, and how long a step lasts.
package plan

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"

	"go.yaml.in/yaml/v3"
)

// MaxWorkers is the most workers that are planned for.
const MaxWorkers = 16384

// Cluster is what workers compute on, as its file in YAML says.
type Cluster struct {
	Name    string `yaml:"name" json:"name"`
	Nodes   int    `yaml:"nodes" json:"nodes"`
	Workers int    `yaml:"workers_per_node" json:"workers_per_node"` // such as GPUs, each with one worker

	// FLOPS are the floating-point operations a second that products reach, not
	// what the device has on paper. Memory is in bytes, its bandwidth in bytes a
	// second.
	FLOPS           float64 `yaml:"flops" json:"flops"`
	Memory          float64 `yaml:"memory" json:"memory"`
	MemoryBandwidth float64 `yaml:"memory_bandwidth" json:"memory_bandwidth"`

	// Shared says that these three are those of a whole node, which its workers
	// share, as those of the cores of one machine do.
	Shared bool `yaml:"shared,omitempty" json:"shared,omitempty"`

	// Overlap is the part of an exchange that can pass while experts compute, 0 … 1.
	Overlap float64 `yaml:"overlap" json:"overlap"`

	Inside  Link `yaml:"inside" json:"inside"`   // between workers of a node
	Between Link `yaml:"between" json:"between"` // between workers of different nodes; optional for one node
}

// Link is a worker's connection to others.
type Link struct {
	Bandwidth float64 `yaml:"bandwidth" json:"bandwidth"` // bytes a second, each way
	Latency   float64 `yaml:"latency" json:"latency"`     // seconds of a small message
}

// ReadCluster reads the description of a cluster. Errors name the file.
func ReadCluster(path string) (*Cluster, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	c, err := ParseCluster(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// ParseCluster reads a description in YAML. It fails for settings that it does
// not know, and for numbers that are missing or impossible.
func ParseCluster(text []byte) (*Cluster, error) {
	c := &Cluster{}
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(c); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errors.New("the file is empty; it must describe a cluster")
		}
		return nil, errors.New(strings.TrimPrefix(strings.NewReplacer(" in type plan.Cluster", "", " in type plan.Link", "").Replace(err.Error()), "yaml: "))
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is more than one document; describe one cluster")
	}
	return c, c.check()
}

func (c *Cluster) check() error {
	for _, n := range []struct {
		name  string
		value int
	}{{"nodes", c.Nodes}, {"workers_per_node", c.Workers}} {
		if n.value < 1 || n.value > MaxWorkers {
			return fmt.Errorf("%s: %d must be from 1 to %d", n.name, n.value, MaxWorkers)
		}
	}
	type number struct {
		name  string
		value float64
	}
	numbers := []number{{"flops", c.FLOPS}, {"memory", c.Memory}, {"memory_bandwidth", c.MemoryBandwidth}}
	links := []number{}
	if c.Workers > 1 {
		numbers, links = append(numbers, number{"inside.bandwidth", c.Inside.Bandwidth}), append(links, number{"inside.latency", c.Inside.Latency})
	}
	if c.Nodes > 1 {
		numbers, links = append(numbers, number{"between.bandwidth", c.Between.Bandwidth}), append(links, number{"between.latency", c.Between.Latency})
	}
	for _, n := range numbers {
		if !(n.value > 0) || math.IsInf(n.value, 0) {
			return fmt.Errorf("%s: %g must be a number above 0", n.name, n.value)
		}
	}
	for _, n := range links {
		if !(n.value >= 0) || math.IsInf(n.value, 0) {
			return fmt.Errorf("%s: %g must be a number of seconds", n.name, n.value)
		}
	}
	if !(c.Overlap >= 0 && c.Overlap <= 1) {
		return fmt.Errorf("overlap: %g must be from 0 to 1", c.Overlap)
	}
	return nil
}

// Size returns the number of workers.
func (c *Cluster) Size() int { return c.Nodes * c.Workers }

// worker returns the cluster as each of so many workers has it.
func (c *Cluster) worker(workers int) Cluster {
	w := *c
	if c.Shared {
		n := float64(min(workers, c.Workers))
		w.FLOPS, w.Memory, w.MemoryBandwidth = c.FLOPS/n, c.Memory/n, c.MemoryBandwidth/n
	}
	if w.Between.Bandwidth == 0 {
		w.Between = w.Inside
	}
	return w
}
