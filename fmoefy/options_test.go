package fmoefy

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func oneModel(expert int) map[int]ExpertModel { return map[int]ExpertModel{expert: {Name: "m.onnx"}} }

var somePrompts = [][]map[string]*tensor.Tensor{{}, {}}

func TestWrongOptions(t *testing.T) {
	for _, c := range []struct {
		options Options
		message string
	}{
		{Options{}, "the number of experts is missing"},
		{Options{NumExperts: -1}, "must be at least 1"},
		{Options{NumExperts: 1 << 40}, "more than 65536 experts"},
		{Options{ExpertsPerWorker: 1 << 15, Workers: 1 << 15}, "more than 65536 experts"},
		{Options{NumExperts: 8, ExpertsPerWorker: 2, Workers: 2}, "8 experts in all are not 2 for each of 2 workers"},
		{Options{NumExperts: 8, Workers: 3}, "8 experts cannot be divided among 3 workers"},
		{Options{NumExperts: 4, TopK: 5}, "top_k is 5, more than the 4 experts"},
		{Options{NumExperts: 4, TopK: -1}, "top_k is -1"},
		{Options{NumExperts: 4, Init: "zeros"}, `expert init "zeros" is not known`},
		{Options{NumExperts: 4, GateOptions: GateOptions{Gate: "gshard2"}}, `gate "gshard2" is not known`},
		{Options{NumExperts: 4, GateInit: "ones"}, `gate init "ones" is not known`},
		{Options{NumExperts: 4, Target: "tpu"}, `target "tpu" is not known`},
		{Options{NumExperts: 4, EveryN: -2}, "every-n is -2"},
		{Options{NumExperts: 4, Hidden: 64}, "needs expert init random"},
		{Options{NumExperts: 4, Hidden: -64, Init: Random}, "hidden width -64"},
		{Options{NumExperts: 4, NoiseScale: 0.1}, "needs expert init noise"},
		{Options{NumExperts: 4, NoiseScale: -0.1, Init: Noise}, "must be positive"},
		{Options{NumExperts: 4, DropRatio: 0.1}, "a drop ratio needs expert init drop, not copy"},
		{Options{NumExperts: 4, DropRatio: 1.1, Init: Drop}, "the drop ratio is 1.1, must be above 0 and at most 1"},
		{Options{NumExperts: 4, DropRatio: math.NaN(), Init: Drop}, "the drop ratio is NaN"},
		{Options{NumExperts: 4, Granularity: 2}, "a granularity needs expert init virtual-group, not copy"},
		{Options{NumExperts: 4, Granularity: -2, Init: VirtualGroup}, "the granularity is -2, must be 1 to the number of experts"},
		{Options{NumExperts: 4, Granularity: 3, Init: VirtualGroup}, "4 experts are no multiple of the granularity, 3"},
		{Options{NumExperts: 4, Granularity: 8, Init: VirtualGroup}, "4 experts are no multiple of the granularity, 8"},
		{Options{NumExperts: 8, Granularity: 4, TopK: 2, Init: VirtualGroup}, "top-k is 2, must be a multiple of the granularity, 4"},
		{Options{Init: VirtualGroup}, "the number of experts is missing"},
		{Options{NumExperts: 4, SharedWeight: 0.5}, "a weight of the shared expert needs a shared expert"},
		{Options{NumExperts: 4, SharedExpert: true, SharedWeight: 1}, "the weight of the shared expert is 1, must be between 0 and 1"},
		{Options{NumExperts: 4, SharedExpert: true, SharedWeight: math.NaN()}, "must be between 0 and 1"},
		{Options{NumExperts: 4, RandomStd: 0.1}, "needs expert init random"},
		{Options{NumExperts: 4, RandomStd: math.NaN(), Init: Random}, "must be positive"},
		{Options{NumExperts: 4, GateStd: 0.1, GateInit: GateZeros}, "needs gate init normal"},
		{Options{NumExperts: 4, GateStd: math.Inf(1)}, "must be positive"},
		{Options{NumExperts: 4, GateScale: 2}, "needs gate init orthogonal or prompts"},
		{Options{NumExperts: 4, GateScale: -1, GateInit: GateOrthogonal}, "must be positive"},
		{Options{NumExperts: 4, GateInit: GatePrompts}, "needs prompts for each expert"},
		{Options{NumExperts: 4, GateInit: GateZeros, Prompts: somePrompts}, "prompts need gate init prompts"},
		{Options{NumExperts: 4, PromptsContrast: true}, "a contrast of prompts needs prompts"},
		{Options{Init: FromModels}, "needs a model for one expert at least"},
		{Options{NumExperts: 4, Rest: RestAverage}, "needs expert init models"},
		{Options{NumExperts: 4, Init: Copy, Models: oneModel(0)}, "a model for an expert needs expert init models, not copy"},
		{Options{NumExperts: 2, Models: oneModel(2)}, "models are given for experts 2 to 2, but there are experts 0 to 1"},
		{Options{Models: oneModel(-1)}, "models are given for experts -1"},
		{Options{Models: oneModel(math.MaxInt)}, "but there are experts 0 to 65535"},
		{Options{Models: oneModel(1), Rest: "mean"}, `the rest "mean" is not known`},
		{Options{NumExperts: 4, ExpertWeights: "int2"}, `storage "int2" of experts' weights is not known`},
		{Options{NumExperts: 4, BlockSize: 32}, "a block size needs experts' weights of int8 or int4"},
		{Options{NumExperts: 4, ExpertWeights: StoreInt8, BlockSize: 24}, "block_size is 24"},
		{Options{NumExperts: 4, Include: []string{"[a"}}, `pattern "[a" of block names is malformed`},
		{Options{NumExperts: 4, Exclude: []string{""}}, `pattern "" of block names is malformed`},
	} {
		err := c.options.Check()
		if err == nil || !strings.Contains(err.Error(), c.message) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%+v: %v, want one line with %q", c.options, err, c.message)
		}
	}
}

func TestDefaults(t *testing.T) {
	for _, c := range []struct {
		options Options
		experts int
		perWork int
		topK    int
	}{
		{Options{NumExperts: 8}, 8, 8, 2},
		{Options{NumExperts: 1}, 1, 1, 1},
		{Options{NumExperts: 8, Workers: 4}, 8, 2, 2},
		{Options{ExpertsPerWorker: 4}, 4, 4, 2},
		{Options{ExpertsPerWorker: 4, Workers: 16, TopK: 1}, 64, 4, 1},
		{Options{NumExperts: 16, Granularity: 4, Init: VirtualGroup}, 16, 16, 8},
		{Options{NumExperts: 4, Granularity: 4, Init: VirtualGroup}, 4, 4, 4},
	} {
		o, err := c.options.complete()
		if err != nil || o.NumExperts != c.experts || o.ExpertsPerWorker != c.perWork || o.TopK != c.topK {
			t.Errorf("%+v: %+v %v", c.options, o, err)
		}
	}
}

func TestChoose(t *testing.T) {
	main, branch := &scope{path: "main"}, &scope{path: "main/If.then_branch"}
	blocks := []Block{
		{Name: "encoder.layers.0.mlp", scope: main},
		{Name: "encoder.layers.1.mlp", scope: main},
		{Name: "encoder.pooler", scope: main, Refused: "wrong shape"},
		{Name: "encoder.head", scope: main, Refused: "a head", Doubtful: true},
		{Name: "decoder.layers.0.mlp", scope: branch},
		{Name: "decoder.layers.1.mlp", scope: branch},
	}
	for i := range blocks {
		blocks[i].Index = i
	}
	for _, c := range []struct {
		include, exclude []string
		every            int
		want             []int
	}{
		{nil, nil, 1, []int{0, 1, 4, 5}},
		{nil, nil, 2, []int{1, 5}},
		{[]string{"0-4"}, nil, 1, []int{0, 1, 4}},
		{[]string{"decoder.*"}, nil, 1, []int{4, 5}},
		{[]string{"*.layers.1.*", "0"}, nil, 1, []int{0, 1, 5}},
		{nil, []string{"encoder*"}, 1, []int{4, 5}},
		{nil, []string{"1", "4"}, 1, []int{0, 5}},
		{[]string{"*"}, nil, 1, []int{0, 1, 4, 5}},
		{[]string{"encoder.head"}, nil, 1, []int{3}},
		{[]string{"3"}, []string{"encoder.*"}, 1, nil},
	} {
		reasons, err := Options{Include: c.include, Exclude: c.exclude, EveryN: c.every}.choose(blocks)
		if err != nil {
			t.Fatal(err)
		}
		var got []int
		for i, r := range reasons {
			if r == "" {
				got = append(got, i)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("include %q, exclude %q, every %d: %v, want %v", c.include, c.exclude, c.every, got, c.want)
		}
	}
	if _, err := (Options{Include: []string{"vision.*"}, EveryN: 1}).choose(blocks); err == nil || !strings.Contains(err.Error(), `"vision.*" selects none of the 6 blocks`) {
		t.Errorf("a pattern that selects nothing: %v", err)
	}
}
