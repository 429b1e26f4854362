package job

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/inspect"
	"github.com/fmoe-go/fmoe/runtime/language/tokenizer"
	"github.com/fmoe-go/fmoe/runtime/train"
	"github.com/fmoe-go/fmoe/runtime/train/data"
)

// defaultLength is that of sequences for a model whose context is not bounded.
const defaultLength = 512

// corpus is the data of a run.
type corpus struct {
	training, heldOut data.Examples // heldOut is nil where nothing is
	closers           []io.Closer
}

func (x *corpus) Close() error {
	var errs []error
	for _, c := range x.closers {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// openCorpus opens the data that a configuration names, for the model at path.
// It completes the configuration with the length of sequences.
func openCorpus(m *onnx.Model, path string, c *Config) (_ *corpus, err error) {
	if c.Data.Train == "" {
		return nil, errors.New("there is no data to train on: give --data FILE")
	}
	if c.Data.Length == 0 {
		c.Data.Length = defaultLength
		if n, ok := inspect.ContextLength(m.Graph); ok {
			c.Data.Length = int(n)
		}
	}
	x := &corpus{}
	defer func() {
		if err != nil {
			x.Close()
		}
	}()
	o, err := dataOptions(m, path, c)
	if err != nil {
		return nil, err
	}
	switch {
	case c.Data.Labels != "":
		err = x.pairs(c)
	case c.Loss.Kind == train.Classification:
		err = x.classification(c, o)
	default:
		err = x.tokens(c, o)
	}
	if err != nil {
		return nil, err
	}
	if x.training.Len() == 0 {
		return nil, fmt.Errorf("%s has nothing to train on", c.Data.Train)
	}
	return x, nil
}

func dataOptions(m *onnx.Model, path string, c *Config) (data.Options, error) {
	o := data.Options{TextKey: c.Data.TextKey, Vocabulary: vocabulary(m)}
	if strings.HasSuffix(c.Data.Train, ".npy") || strings.HasSuffix(c.Data.Train, ".bin") || strings.HasSuffix(c.Data.Train, ".idx") {
		return o, nil
	}
	switch c.Data.Tokenizer {
	case "bytes":
		o.Tokenizer = tokenizer.Bytes{}
	case "":
		beside, err := tokenizer.Beside(path)
		if errors.Is(err, fs.ErrNotExist) {
			if o.Vocabulary > 256 {
				return o, fmt.Errorf("there is no %s beside the model, whose %d tokens are not bytes: give --tokenizer", tokenizer.FileName, o.Vocabulary)
			}
			o.Tokenizer = tokenizer.Bytes{}
			break
		}
		if err != nil {
			return o, err
		}
		o.Tokenizer = beside
	default:
		t, err := tokenizer.ReadFile(c.Data.Tokenizer)
		if err != nil {
			return o, err
		}
		o.Tokenizer = t
	}
	return o, nil
}

// vocabulary returns the number of tokens of a language model, as its table of
// embeddings or its logits have it; 0 where neither tells.
func vocabulary(m *onnx.Model) int {
	for _, v := range m.Graph.Inputs {
		if v.Type != nil && (v.Type.ElemType == onnx.Int64 || v.Type.ElemType == onnx.Int32) &&
			v.Name != data.AttentionMask && v.Name != data.PositionIDs && v.Name != data.TokenTypeIDs {
			if n, ok := inspect.IndexBound(m.Graph, v.Name); ok {
				return int(n)
			}
		}
	}
	return 0
}

func (x *corpus) open(path string, o data.Options) (data.Source, error) {
	s, err := data.Open(path, o)
	if err == nil {
		x.closers = append(x.closers, s)
	}
	return s, err
}

// tokens opens corpora for language models.
func (x *corpus) tokens(c *Config, o data.Options) error {
	examples := func(s data.Source) (data.Examples, error) {
		if c.Loss.Kind == train.Masked {
			return data.Masked(s, data.MaskedOptions{Length: c.Data.Length, Vocabulary: o.Vocabulary, Mask: c.Data.Mask, Pad: c.Data.Pad,
				Before: c.Data.Before, After: c.Data.After, Special: c.Data.Special})
		}
		return data.Causal(s, c.Data.Length)
	}
	training, err := x.open(c.Data.Train, o)
	if err != nil {
		return err
	}
	var heldOut data.Source
	switch {
	case c.Data.Evaluate != "":
		heldOut, err = x.open(c.Data.Evaluate, o)
	case c.Data.HeldOut > 0:
		training, heldOut, err = data.Split(training, c.Data.HeldOut)
	}
	if err != nil {
		return err
	}
	if x.training, err = examples(training); err == nil && heldOut != nil {
		x.heldOut, err = examples(heldOut)
	}
	return err
}

// classification opens labelled texts.
func (x *corpus) classification(c *Config, o data.Options) error {
	options := data.ClassificationOptions{Options: o, LabelKey: c.Data.LabelKey, Length: c.Data.Length, Pad: c.Data.Pad}
	training, err := data.OpenClassification(c.Data.Train, options)
	if err != nil {
		return err
	}
	x.training = training
	if c.Data.Evaluate == "" {
		return x.holdOut(c)
	}
	options.Classes = training.Classes
	x.heldOut, err = data.OpenClassification(c.Data.Evaluate, options)
	return err
}

// pairs opens arrays of features and labels.
func (x *corpus) pairs(c *Config) error {
	open := func(features, labels string) (data.Examples, error) {
		p, err := data.OpenPairs(features, labels)
		if err == nil {
			x.closers = append(x.closers, p)
		}
		return p, err
	}
	var err error
	if x.training, err = open(c.Data.Train, c.Data.Labels); err != nil {
		return err
	}
	if c.Data.Evaluate == "" {
		return x.holdOut(c)
	}
	x.heldOut, err = open(c.Data.Evaluate, c.Data.EvaluateLabels)
	return err
}

func (x *corpus) holdOut(c *Config) (err error) {
	if c.Data.HeldOut > 0 {
		x.training, x.heldOut, err = data.HoldOut(x.training, c.Data.HeldOut)
	}
	return err
}
