package main

import (
	"fmt"
	"slices"

	"github.com/fmoe-go/fmoe/internal/benchmodel"
)

// contest is some work, and the programs that do it.
type contest struct {
	name     string
	dims     map[string]int // the open dimensions of the models' inputs, or
	prefill  int            // the tokens of a prompt, and
	decode   int            // those after it
	train    bool           // steps of training are measured
	runs     int            // of a process
	threads  []int
	programs []program
	aside    bool // no target depends on it
}

// program is one that takes part: a runtime with its model's file, or a library
// with what it computes.
type program struct {
	name    string // fmoe, onnxruntime, numpy, torch, or one with a variant: fmoe/int8
	model   *model
	compute []string
	aside   bool // no target depends on it
}

func fmoe(m *model) program        { return program{name: "fmoe", model: m} }
func onnxruntime(m *model) program { return program{name: "onnxruntime", model: m} }

// library is what NumPy or PyTorch computes with numbers of these sizes.
func library(name, what string, sizes ...int) program {
	p := program{name: name, compute: []string{what}, aside: true}
	for _, n := range sizes {
		p.compute = append(p.compute, fmt.Sprint(n))
	}
	return p
}

// aimed is a program that a target depends on.
func (p program) aimed() program {
	p.aside = false
	return p
}

func (p program) variant(name string) program {
	p.name += "/" + name
	return p
}

// The sizes of the layers and models that are measured.
var (
	products   = [][3]int{{512, 768, 3072}, {1024, 1024, 1024}}
	layer      = benchmodel.Mixture{Experts: 8, TopK: 2, Model: 768, Hidden: 3072}
	tokens     = []int{1, 4, 16, 64, 512}
	aimedAt    = []int{1, 16, 512} // of these, those with a target
	growing    = benchmodel.Mixture{TopK: 2, Model: 512, Hidden: 1024}
	experts    = []int{8, 16, 32, 64, 128}
	manyTokens = 4096

	// threads are those of the acceptance.
	threads = []int{1, 2}

	gpt      = &model{name: "gpt", make: benchmodel.GPT2.Decoder}
	mixed    = mixedOf(gpt, "float32")
	small    = &model{name: "gpt-small", make: smallGPT.Decoder}
	upcycled = mixedOf(small, "float32")
	layers   = &model{name: "layers", make: benchmodel.GPT2.Perceptrons}
	bert     = &model{name: "bert", make: benchmodel.BERT.Encoder}
	formats  = []string{"float32", "bf16", "int8", "int4"} // of experts' weights
)

// smallGPT is what training is measured with.
var smallGPT = benchmodel.Transformer{Layers: 6, Model: 512, Heads: 8, Hidden: 2048, Vocabulary: 32000, Positions: 1024}

// trainContest is a step of training of a model with so many experts, 0 where
// it is dense.
func trainContest(name string, m *model, t benchmodel.Transformer, experts, batch, sequence, runs int) contest {
	const topK = 2
	return contest{name: name, dims: map[string]int{"batch": batch, "sequence": sequence}, runs: runs, threads: threads, train: true, programs: []program{
		fmoe(m), library("torch", "training", t.Layers, t.Model, t.Heads, t.Hidden, t.Vocabulary, t.Positions, batch, sequence, experts, topK).aimed()}}
}

// contests are all, in the order of the document.
func contests() []contest {
	var list []contest
	for _, p := range products {
		m := product(p[1], p[2])
		list = append(list, contest{name: productName(p), dims: map[string]int{"rows": p[0]}, runs: 40, threads: threads, programs: []program{
			fmoe(m), onnxruntime(m), library("numpy", "product", p[:]...), library("torch", "product", p[:]...)}})
	}
	for _, n := range tokens {
		list = append(list, layerContest(n))
	}
	for _, n := range experts {
		x := growing
		x.Experts = n
		list = append(list, growthContest(fmt.Sprintf("experts-%d", n), x))
	}
	skewed := growing
	skewed.Experts, skewed.Favoured = 8, growing.TopK
	list = append(list, growthContest("experts-8-skewed", skewed))

	g := benchmodel.GPT2
	decoder := library("torch", "decoder", g.Layers, g.Model, g.Heads, g.Hidden, g.Vocabulary, g.Positions)
	list = append(list,
		contest{name: "gpt", prefill: 128, decode: 64, runs: 1, threads: threads, programs: []program{fmoe(gpt), onnxruntime(gpt), decoder}},
		contest{name: "gpt-mixture", prefill: 128, decode: 64, runs: 1, threads: threads, programs: []program{
			fmoe(mixed), onnxruntime(forONNXRuntime(mixed)), onnxruntime(mixed).variant("portable")}})
	const batch, sequence = 8, 128
	e := benchmodel.BERT
	list = append(list, contest{name: "bert", dims: map[string]int{"batch": batch, "sequence": sequence}, runs: 2, threads: threads, programs: []program{
		fmoe(bert), onnxruntime(bert), library("torch", "encoder", e.Layers, e.Model, e.Heads, e.Hidden, batch, sequence)}})

	list = append(list, trainContest("train-gpt", small, smallGPT, 0, batch, sequence, 3), trainContest("train-gpt-mixture", upcycled, smallGPT, layer.Experts, batch, sequence, 3))

	whole := contest{name: "storage-gpt", prefill: 16, decode: 64, runs: 1, threads: threads, aside: true}
	alone := contest{name: "storage-experts", dims: map[string]int{"tokens": 1}, runs: 40, threads: threads}
	for _, format := range formats {
		whole.programs = append(whole.programs, fmoe(mixedOf(gpt, format)).variant(format))
		alone.programs = append(alone.programs, fmoe(mixedOf(layers, format)).variant(format))
	}
	return append(list, alone, whole)
}

// mixedOf is a model with 8 experts, 2 for each token, in every layer.
func mixedOf(m *model, format string) *model {
	return rewritten(m.name+"-8-experts-"+format, m, "--num-experts", "8", "--top-k", "2", "--init", "noise", "--expert-weights", format)
}

func productName(p [3]int) string { return fmt.Sprintf("product-%dx%dx%d", p[0], p[1], p[2]) }

// layerContest is one layer on n tokens.
func layerContest(n int) contest {
	m := mixture(layer)
	runs := max(5, min(200, 2000/n))
	return contest{name: fmt.Sprintf("tokens-%d", n), dims: map[string]int{"tokens": n}, runs: runs, threads: threads, aside: !slices.Contains(aimedAt, n), programs: []program{
		fmoe(m), onnxruntime(forONNXRuntime(m)), library("torch", "mixture", n, layer.Experts, layer.TopK, layer.Model, layer.Hidden)}}
}

// growthContest is one layer on many tokens.
func growthContest(name string, x benchmodel.Mixture) contest {
	m := mixture(x)
	peer := onnxruntime(forONNXRuntime(m))
	peer.aside = true
	return contest{name: name, dims: map[string]int{"tokens": manyTokens}, runs: 3, threads: threads, programs: []program{fmoe(m), peer}}
}

// smokeContests show that everything still works, without saying how fast.
func smokeContests() []contest {
	tiny := benchmodel.Transformer{Layers: 1, Model: 16, Heads: 2, Hidden: 32, Vocabulary: 50, Positions: 20}
	decoder := &model{name: "smoke-gpt", make: tiny.Decoder}
	encoder := &model{name: "smoke-bert", make: tiny.Encoder}
	experts := rewritten("smoke-gpt-experts", decoder, "--num-experts", "4", "--top-k", "2", "--init", "noise")
	one := mixture(benchmodel.Mixture{Experts: 4, TopK: 2, Model: 16, Hidden: 32})
	both := func(m *model) []program { return []program{fmoe(m), onnxruntime(m)} }
	return []contest{
		{name: "smoke-product", dims: map[string]int{"rows": 8}, runs: 1, threads: threads, programs: both(product(16, 32))},
		{name: "smoke-layer", dims: map[string]int{"tokens": 8}, runs: 1, threads: threads, programs: []program{fmoe(one), onnxruntime(forONNXRuntime(one))}},
		{name: "smoke-gpt", prefill: 8, decode: 4, runs: 1, threads: threads, programs: both(decoder)},
		{name: "smoke-mixture", prefill: 8, decode: 4, runs: 1, threads: threads, programs: []program{fmoe(experts), onnxruntime(forONNXRuntime(experts))}},
		trainContest("smoke-train", experts, tiny, 4, 2, 8, 1),
		{name: "smoke-bert", dims: map[string]int{"batch": 2, "sequence": 8}, runs: 1, threads: threads, programs: both(encoder)},
	}
}
