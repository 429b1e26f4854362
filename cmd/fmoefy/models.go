package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/fmoe-go/fmoe/fmoefy"
	"github.com/fmoe-go/fmoe/internal/cli"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/language"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// modelFlags are the flags for experts from several models and their prompts.
type modelFlags struct {
	experts            []string
	rest               string
	prompts, tokenizer string

	paths   map[int]string // of the experts' models
	models  []*onnx.Model
	session *runtime.Session // runs the last model that prompts were run through
	running *onnx.Model
}

func (c *modelFlags) register(flags *pflag.FlagSet, o *fmoefy.Options) {
	flags.StringArrayVar(&c.experts, "expert", nil, "`N=FILE`: expert N is the MLPs of this fine-tuned model of the same shape; may be repeated; other experts are copies")
	flags.StringVar(&c.rest, "rest", "", "what is not an MLP, with --expert: base (as in IN.onnx) or average (the mean over the experts' models) (default base)")
	flags.StringVar(&c.prompts, "prompts", "", "`file` with prompts for each expert, from whose hidden states routers are made")
	flags.BoolVar(&o.PromptsContrast, "prompts-contrast", false, "make routers of what tells an expert's prompts from those of all experts")
	flags.StringVar(&c.tokenizer, "tokenizer", "", "another tokenizer.json for --prompts and --calibrate than the one beside the model, as a `path`, or \"bytes\"")
}

// complete checks the flags. The options get experts without models yet, as
// many as there will be.
func (c *modelFlags) complete(o *fmoefy.Options) error {
	o.Rest = fmoefy.Rest(c.rest)
	c.paths = map[int]string{}
	for _, assignment := range c.experts {
		number, path, ok := strings.Cut(assignment, "=")
		e, err := strconv.Atoi(number)
		if !ok || err != nil || e < 0 || path == "" {
			return cli.Misusef("--expert %s is not N=FILE, such as 0=code.onnx", assignment)
		}
		if c.paths[e] != "" {
			return cli.Misusef("--expert %d is given twice", e)
		}
		c.paths[e] = path
	}
	if len(c.paths) > 0 {
		o.Models = map[int]fmoefy.ExpertModel{}
		for e, path := range c.paths {
			o.Models[e] = fmoefy.ExpertModel{Name: path}
		}
	}
	if c.prompts != "" {
		o.Prompts = make([][]map[string]*tensor.Tensor, 1)
	} else if c.tokenizer != "" && len(o.Calibration) == 0 {
		return cli.Misusef("--tokenizer needs --prompts or --calibrate")
	}
	return nil
}

// open reads the experts' models and the prompts for m, which was read from
// path.
func (c *modelFlags) open(ctx context.Context, o *fmoefy.Options, m *onnx.Model, path string) error {
	for e, path := range c.paths {
		model, err := onnx.ReadFile(path)
		if err != nil {
			return err
		}
		c.models = append(c.models, model)
		o.Models[e] = fmoefy.ExpertModel{Name: path, Model: model}
	}
	if c.prompts == "" {
		return nil
	}
	texts, err := language.NewTexts(m, path, language.Options{Tokenizer: c.tokenizer})
	if err != nil {
		return err
	}
	prompts, err := readPrompts(c.prompts)
	if err != nil {
		return fmt.Errorf("%s: %w", c.prompts, err)
	}
	o.Prompts = make([][]map[string]*tensor.Tensor, len(prompts))
	for e, list := range prompts {
		for _, prompt := range list {
			o.Prompts[e] = append(o.Prompts[e], texts.Inputs(prompt)...)
		}
	}
	o.Run = func(m *onnx.Model, inputs map[string]*tensor.Tensor) (map[string]*tensor.Tensor, error) {
		return c.run(ctx, m, inputs)
	}
	return nil
}

func (c *modelFlags) run(ctx context.Context, m *onnx.Model, inputs map[string]*tensor.Tensor) (map[string]*tensor.Tensor, error) {
	if c.running != m {
		if err := c.closeSession(); err != nil {
			return nil, err
		}
		s, err := runtime.New(m, runtime.Options{})
		if err != nil {
			return nil, err
		}
		c.session, c.running = s, m
	}
	return c.session.Run(ctx, inputs)
}

func (c *modelFlags) closeSession() error {
	if c.session == nil {
		return nil
	}
	s := c.session
	c.session, c.running = nil, nil
	return s.Close()
}

func (c *modelFlags) close() error {
	err := c.closeSession()
	for _, m := range c.models {
		err = errors.Join(err, m.Close())
	}
	return err
}

// maxPromptExperts bounds the numbers of experts in files of prompts.
const maxPromptExperts = 1 << 16

// readPrompts reads the prompts of each expert: in JSON lines of an expert's
// number and a prompt, or in lines that begin with the number.
func readPrompts(path string) ([][]string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var prompts [][]string
	isJSON := bytes.HasPrefix(bytes.TrimSpace(data), []byte("{"))
	for i, line := range strings.Split(string(data), "\n") {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		parse := parsePrompt
		if isJSON {
			parse = parseJSONPrompt
		}
		expert, prompt, err := parse(line)
		switch {
		case err != nil:
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		case expert < 0 || expert >= maxPromptExperts:
			return nil, fmt.Errorf("line %d: expert %d, must be 0 to %d", i+1, expert, maxPromptExperts-1)
		}
		for len(prompts) <= expert {
			prompts = append(prompts, nil)
		}
		prompts[expert] = append(prompts[expert], prompt)
	}
	for e, list := range prompts {
		if len(list) == 0 {
			return nil, fmt.Errorf("expert %d has no prompt", e)
		}
	}
	if len(prompts) == 0 {
		return nil, errors.New("there is no prompt")
	}
	return prompts, nil
}

func parsePrompt(line string) (expert int, prompt string, err error) {
	number, prompt, _ := strings.Cut(line, " ")
	expert, err = strconv.Atoi(number)
	if prompt = strings.TrimSpace(prompt); err != nil || prompt == "" {
		return 0, "", errors.New("it is not an expert's number and a prompt, such as: 0 func main() {")
	}
	return expert, prompt, nil
}

func parseJSONPrompt(line string) (expert int, prompt string, err error) {
	var x struct {
		Expert *int
		Prompt string
	}
	d := json.NewDecoder(strings.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&x); err != nil || d.More() || x.Expert == nil || x.Prompt == "" {
		return 0, "", errors.New(`it is not an expert's number and a prompt, such as: {"expert": 0, "prompt": "func main() {"}`)
	}
	return *x.Expert, x.Prompt, nil
}
