package main

import (
	"github.com/spf13/pflag"

	"github.com/fmoe-go/fmoe/internal/cli"
	"github.com/fmoe-go/fmoe/runtime/language"
)

// languageFlags are the flags of the subcommands for language models.
type languageFlags struct {
	runtime   runtimeFlags
	tokenizer string
	context   int
}

const languageHelp = `The model must be a decoder language model: from token numbers it computes the logits of
the next token at each position. Besides, it may read attention_mask, position_ids and
caches past_key_values.*. Its tokens are those of the tokenizer.json beside it or, where
there is none and it has 256 tokens, bytes.`

func (f *languageFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.tokenizer, "tokenizer", "", "another tokenizer.json, as a `path`, or \"bytes\"")
	flags.IntVar(&f.context, "context", 0, "number of tokens that the model can see; 0 takes it from the model's positions")
	f.runtime.register(flags)
}

func (f *languageFlags) open(path string) (*language.Model, error) {
	options, err := f.options()
	if err != nil {
		return nil, err
	}
	return language.Open(path, options)
}

func (f *languageFlags) options() (language.Options, error) {
	if f.context < 0 {
		return language.Options{}, cli.Misusef("--context=%d must be 0 or more", f.context)
	}
	options, err := f.runtime.options()
	return language.Options{Runtime: options, Tokenizer: f.tokenizer, Context: f.context}, err
}
