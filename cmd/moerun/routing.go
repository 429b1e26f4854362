package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/spf13/pflag"

	"github.com/fmoe-go/fmoe/internal/cli"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/language"
	"github.com/fmoe-go/fmoe/runtime/routing"
)

var routingCommand = &cli.Command{
	Name:      "moerun routing",
	Arguments: "MODEL",
	Summary:   "show which experts the FMoE layers of a model choose",
	Details: `Runs the model on data and shows for each FMoE layer the share of slots that were dropped,
the entropy of the experts' load (1 is an even load, 0 all on one expert), the load's
coefficient of variation, the entropy of the router's probabilities (0 is a router that is
always sure), the mean score of first choices, the balance and z-losses, and the load of
each expert; and how much layers agree: the normalised mutual information of the first
choices of the same tokens.

Data is that of moerun run, where --data may be repeated, or with --text that of moerun
perplexity.
` + dataHelp + `

Examples:
  moerun routing moe.onnx --text book.txt --heatmap routing.png
  moerun routing moe.onnx --data test_data_set_0 --data test_data_set_1 --json
  moerun routing moe.onnx --text book.txt --training --step 1000 --seed 3`,
	Flags: func(flags *pflag.FlagSet) cli.Action {
		o := routingFlags{flags: flags}
		flags.StringArrayVar(&o.directories, "data", nil, "read inputs from this `directory` of ONNX test data; repeatable")
		o.data.registerRest(flags)
		flags.Lookup("seed").Usage = "seed of random inputs, and with --training of the gates' random numbers instead of the model's own"
		flags.BoolVar(&o.data.random, "random", false, "draw the inputs that no file gives")
		flags.StringVar(&o.text, "text", "", "`file` with a text for a language model")
		flags.IntVar(&o.window, "window", 0, "tokens in a window of --text; 0 means the model's context, or 512 where that is not bounded")
		flags.IntVar(&o.maxTokens, "max-tokens", 0, "read only this many tokens of the text; 0 means all")
		flags.BoolVar(&o.training, "training", false, "let gates do what they do in training: noise, jitter, random routing, the capacity of training")
		flags.Int64Var(&o.step, "step", 0, "step of --training, on which the gates' random numbers depend")
		flags.StringVar(&o.heatmap, "heatmap", "", "draw load and agreement into this `file`, .png or .svg, or both into a directory")
		o.language.register(flags)
		flags.BoolVar(&o.json, "json", false, "print JSON")
		return func(ctx context.Context, out io.Writer, args []string) error { return o.run(ctx, out, args[0]) }
	},
}

type routingFlags struct {
	directories       []string
	data              dataFlags
	language          languageFlags // whose runtime flags are those of all models
	text              string
	window, maxTokens int
	training          bool
	step              int64
	heatmap           string
	json              bool
	flags             *pflag.FlagSet
}

// routingResult is what routing prints.
type routingResult struct {
	Model   string              `json:"model"`
	Routing *routing.Statistics `json:"routing"`
	Files   []string            `json:"files,omitempty"` // heat maps
}

func (o *routingFlags) run(ctx context.Context, out io.Writer, path string) error {
	if err := o.validate(); err != nil {
		return err
	}
	watched := routing.Options{Training: o.training, Step: o.step}
	if o.training && o.flags.Changed("seed") {
		watched.Seed = int64(o.data.seed)
	}
	look := o.lookAtTensors
	if o.text != "" {
		look = o.lookAtText
	}
	s, err := look(ctx, path, watched)
	if err != nil {
		return err
	}
	result := routingResult{Model: path, Routing: s}
	if o.heatmap != "" {
		if result.Files, err = drawRouting(o.heatmap, s); err != nil {
			return err
		}
	}
	if o.json {
		return cli.WriteJSON(out, result)
	}
	printRouting(out, s)
	for _, file := range result.Files {
		fmt.Fprintf(out, "wrote %s\n", file)
	}
	return nil
}

func (o *routingFlags) validate() error {
	changed := func(names ...string) string {
		for _, name := range names {
			if o.flags.Changed(name) {
				return name
			}
		}
		return ""
	}
	switch {
	case o.step < 0:
		return cli.Misusef("--step=%d must be 0 or more", o.step)
	case !o.training && o.flags.Changed("step"):
		return cli.Misusef("--step is for --training")
	case o.window < 0:
		return cli.Misusef("--window=%d must be 0 or more", o.window)
	case o.maxTokens < 0:
		return cli.Misusef("--max-tokens=%d must be 0 or more", o.maxTokens)
	}
	if o.text == "" {
		if name := changed("window", "max-tokens", "tokenizer", "context"); name != "" {
			return cli.Misusef("--%s is for --text FILE", name)
		}
	} else {
		if name := changed("data", "input", "random", "dim"); name != "" {
			return cli.Misusef("--%s gives the inputs of a model, --text those of a language model: give one of them", name)
		}
		if o.flags.Changed("seed") && !o.training {
			return cli.Misusef("--seed is for random inputs or --training")
		}
	}
	o.data.seedIsForMore = o.training
	return checkHeatmap(o.heatmap)
}

// lookAtText runs a language model on a text.
func (o *routingFlags) lookAtText(ctx context.Context, path string, watched routing.Options) (*routing.Statistics, error) {
	text, err := os.ReadFile(o.text)
	if err != nil {
		return nil, err
	}
	options, err := o.language.options()
	if err != nil {
		return nil, err
	}
	file, err := onnx.ReadFile(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	w, err := routing.New(file, watched)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	options.Observe = w.Add
	m, err := language.New(w.Model, path, options)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	defer m.Close()
	tokens := m.Tokenizer.Encode(string(text))
	if o.maxTokens > 0 && o.maxTokens < len(tokens) {
		tokens = tokens[:o.maxTokens]
	}
	if _, err := m.Perplexity(ctx, tokens, o.window); err != nil {
		return nil, err
	}
	return w.Statistics(), nil
}

// lookAtTensors runs a model on the inputs of each directory, or on those that
// other flags give.
func (o *routingFlags) lookAtTensors(ctx context.Context, path string, watched routing.Options) (*routing.Statistics, error) {
	s, err := openWatched(path, o.language.runtime, &watched)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	directories := o.directories
	if len(directories) == 0 {
		directories = []string{""}
	}
	for _, directory := range directories {
		data := o.data
		data.dir = directory
		inputs, err := data.read(s.model, s.Inputs())
		if err != nil {
			return nil, err
		}
		outputs, err := s.Run(ctx, inputs)
		if err == nil {
			err = s.watch.Add(outputs)
		}
		if err != nil {
			return nil, err
		}
	}
	return s.watch.Statistics(), nil
}
