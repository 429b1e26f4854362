package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"time"

	"github.com/spf13/pflag"

	"github.com/fmoe-go/fmoe/internal/cli"
)

var perplexityCommand = &cli.Command{
	Name:      "moerun perplexity",
	Arguments: "MODEL",
	Summary:   "measure how well a language model predicts a text",
	Details: languageHelp + `

The text is cut into windows, each predicted from its own tokens only. Perplexity is e to
the power of the mean of -ln p over all tokens but the first.

Examples:
  moerun perplexity model.onnx --text book.txt
  moerun perplexity model.onnx --text book.txt --window 128 --max-tokens 10000`,
	Flags: func(flags *pflag.FlagSet) cli.Action {
		var o perplexityFlags
		flags.StringVar(&o.text, "text", "", "`file` with the text")
		flags.IntVar(&o.window, "window", 0, "tokens in a window; 0 means the model's context, or 512 where that is not bounded")
		flags.IntVar(&o.maxTokens, "max-tokens", 0, "read only this many tokens of the text; 0 means all")
		o.language.register(flags)
		flags.BoolVar(&o.json, "json", false, "print JSON")
		return func(ctx context.Context, out io.Writer, args []string) error { return o.run(ctx, out, args[0]) }
	},
}

type perplexityFlags struct {
	language  languageFlags
	text      string
	window    int
	maxTokens int
	json      bool
}

// perplexityResult is what perplexity prints.
type perplexityResult struct {
	Model           string    `json:"model"`
	Text            string    `json:"text"`
	Tokens          int       `json:"tokens"`
	Perplexity      cli.Float `json:"perplexity"`
	LogLoss         cli.Float `json:"log_loss"`
	TokensPerSecond float64   `json:"tokens_per_second"`
}

func (o *perplexityFlags) run(ctx context.Context, out io.Writer, path string) error {
	switch {
	case o.text == "":
		return cli.Misusef("--text FILE is missing")
	case o.window < 0:
		return cli.Misusef("--window=%d must be 0 or more", o.window)
	case o.maxTokens < 0:
		return cli.Misusef("--max-tokens=%d must be 0 or more", o.maxTokens)
	}
	text, err := os.ReadFile(o.text)
	if err != nil {
		return err
	}
	m, err := o.language.open(path)
	if err != nil {
		return err
	}
	defer m.Close()
	tokens := m.Tokenizer.Encode(string(text))
	if o.maxTokens > 0 && o.maxTokens < len(tokens) {
		tokens = tokens[:o.maxTokens]
	}
	start := time.Now()
	p, err := m.Perplexity(ctx, tokens, o.window)
	if err != nil {
		return err
	}
	rate := float64(p.Tokens) / time.Since(start).Seconds()
	if o.json {
		return cli.WriteJSON(out, perplexityResult{path, o.text, p.Tokens, cli.Float(p.Value()), cli.Float(p.LogLoss), rate})
	}
	fmt.Fprintf(out, "perplexity %.4f over %s tokens (%.4f bits a token), %s tokens/s\n",
		p.Value(), cli.Count(int64(p.Tokens)), p.LogLoss/math.Ln2, cli.Count(int64(rate)))
	return nil
}
