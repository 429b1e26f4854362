package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/fmoe-go/fmoe/internal/cli"
	"github.com/fmoe-go/fmoe/runtime/language"
)

var generateCommand = &cli.Command{
	Name:      "moerun generate",
	Arguments: "MODEL",
	Summary:   "let a language model continue a text",
	Details: languageHelp + `

The text is printed as it comes. With --temperature 0 each token is the most likely one;
above 0 it is drawn, and the same --seed draws the same text.

Examples:
  moerun generate model.onnx --prompt "The Rays of Light"
  moerun generate model.onnx --prompt "The Rays" --temperature 0.8 --top-p 0.95 --seed 3`,
	Flags: func(flags *pflag.FlagSet) cli.Action {
		var o generateFlags
		flags.StringVar(&o.prompt, "prompt", "", "the `text` to continue")
		flags.IntVar(&o.maxTokens, "max-tokens", 200, "stop after this many new tokens")
		flags.Float64Var(&o.sampling.Temperature, "temperature", 0, "0 for the most likely token; larger is more varied")
		flags.IntVar(&o.sampling.TopK, "top-k", 0, "draw from the k most likely tokens; 0 for all")
		flags.Float64Var(&o.sampling.TopP, "top-p", 1, "draw from the most likely tokens with this probability in all")
		flags.Uint64Var(&o.sampling.Seed, "seed", 1, "seed of what is drawn")
		o.language.register(flags)
		flags.BoolVar(&o.json, "json", false, "print JSON when the text is complete")
		o.flags = flags
		return func(ctx context.Context, out io.Writer, args []string) error { return o.run(ctx, out, args[0]) }
	},
}

type generateFlags struct {
	language  languageFlags
	prompt    string
	maxTokens int
	sampling  language.Sampling
	json      bool
	flags     *pflag.FlagSet
}

// generateResult is what generate prints with --json.
type generateResult struct {
	Model           string  `json:"model"`
	Prompt          string  `json:"prompt"`
	Text            string  `json:"text"` // without the prompt
	Tokens          []int   `json:"tokens"`
	Seconds         float64 `json:"seconds"`
	TokensPerSecond float64 `json:"tokens_per_second"`
}

func (o *generateFlags) run(ctx context.Context, out io.Writer, path string) error {
	if err := o.validate(); err != nil {
		return err
	}
	m, err := o.language.open(path)
	if err != nil {
		return err
	}
	defer m.Close()
	var text strings.Builder
	emit := func(piece string) error {
		text.WriteString(piece)
		if o.json {
			return nil
		}
		_, err := io.WriteString(out, piece)
		return err
	}
	if !o.json {
		fmt.Fprint(out, o.prompt)
		defer fmt.Fprintln(out)
	}
	start := time.Now()
	tokens, err := m.Generate(ctx, o.prompt, o.maxTokens, o.sampling, emit)
	if err != nil || !o.json {
		return err
	}
	seconds := time.Since(start).Seconds()
	return cli.WriteJSON(out, generateResult{path, o.prompt, text.String(), tokens, seconds, float64(len(tokens)) / seconds})
}

func (o *generateFlags) validate() error {
	if !o.flags.Changed("prompt") {
		return cli.Misusef("--prompt TEXT is missing")
	}
	if o.maxTokens < 0 {
		return cli.Misusef("--max-tokens=%d must be 0 or more", o.maxTokens)
	}
	if err := o.sampling.Check(); err != nil {
		return cli.Misusef("%w", err)
	}
	if o.sampling.Temperature == 0 {
		for _, name := range []string{"top-k", "top-p", "seed"} {
			if o.flags.Changed(name) {
				return cli.Misusef("--%s needs a --temperature above 0", name)
			}
		}
	}
	return nil
}
