package runtime_test

import (
	"bytes"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// cachedAttention is a model of one layer: keys and values are appended to
// caches of two heads, which four heads of queries share.
func cachedAttention(t *testing.T, nodes ...*onnx.Node) *onnx.Model {
	return cachedModel(t, append([]*onnx.Node{
		node(t, "present_k = Concat(past_k, k)", onnx.IntAttribute("axis", -2)),
		node(t, "present_v = Concat(past_v, v)", onnx.IntAttribute("axis", 2)),
	}, nodes...)...)
}

func cachedModel(t *testing.T, nodes ...*onnx.Node) *onnx.Model {
	m := model(t, []string{"q float32[2,4,s,8]", "k float32[2,2,s,8]", "v float32[2,2,s,8]", "past_k float32[2,2,p,8]", "past_v float32[2,2,p,8]"},
		[]string{"y float32[a,b,c,d]", "present_k float32[2,2,n,8]", "present_v float32[2,2,n,8]"}, nil, nodes...)
	m.OpsetImports[0].Version = 23
	return m
}

// randomFloats fills a tensor with normally distributed numbers.
func randomFloats(random *rand.Rand, shape ...int) *tensor.Tensor {
	x := tensor.New(onnx.Float32, shape...)
	for i := range tensor.Of[float32](x) {
		tensor.Of[float32](x)[i] = float32(random.NormFloat64())
	}
	return x
}

// TestState: runs with a state give what runs give to which the caller hands
// the caches, bit for bit, whether they stay in place or not.
func TestState(t *testing.T) {
	attention := func() *onnx.Node {
		return node(t, "y = Attention(q, present_k, present_v)", onnx.IntAttribute("is_causal", 1))
	}
	for _, c := range []struct {
		name  string
		model *onnx.Model
		want  []bool // in place
	}{
		{"only attention reads", cachedAttention(t, attention()), []bool{true, true}},
		{"keys go elsewhere too", cachedAttention(t, attention(), node(t, "z = Transpose(present_k)"), node(t, "unused = Identity(z)")), []bool{true, true}},
		{"attention appends", cachedModel(t, node(t, "y, present_k, present_v = Attention(q, k, v, , past_k, past_v)",
			onnx.IntAttribute("is_causal", 1))), []bool{true, true}},
		{"attention appends, and the keys go elsewhere", cachedModel(t, node(t, "x, present_k, present_v = Attention(q, k, v, , past_k, past_v)"),
			node(t, "sum = ReduceSum(present_k)"), node(t, "y = Add(x, sum)")), []bool{false, true}},
		{"appended to again", cachedAttention(t, node(t, "more = Concat(present_v, v)", onnx.IntAttribute("axis", 2)),
			node(t, "keys = Concat(present_k, k)", onnx.IntAttribute("axis", 2)),
			node(t, "y = Attention(q, keys, more)")), []bool{false, false}},
		{"the past is read", cachedAttention(t, node(t, "x = Attention(q, present_k, present_v)"),
			node(t, "sum = ReduceSum(past_k)"), node(t, "y = Add(x, sum)")), []bool{false, true}},
		{"another operator reads the values", cachedAttention(t, node(t, "x = Attention(q, present_k, present_v)"),
			node(t, "sum = ReduceSum(present_v)"), node(t, "y = Add(x, sum)")), []bool{true, false}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t, c.model)
			random := rand.New(rand.NewPCG(1, 2))
			past := map[string]*tensor.Tensor{"past_k": randomFloats(random, 2, 2, 3, 8), "past_v": randomFloats(random, 2, 2, 3, 8)}
			st, err := s.NewState(6, runtime.Cache{Input: "past_k", Output: "present_k", First: past["past_k"]},
				runtime.Cache{Input: "past_v", Output: "present_v", First: past["past_v"]})
			if err != nil {
				t.Fatal(err)
			}
			for step, added := range []int{2, 1, 1, 4, 1, 20} { // beyond the room
				q, k, v := randomFloats(random, 2, 4, added, 8), randomFloats(random, 2, 2, added, 8), randomFloats(random, 2, 2, added, 8)
				got, err := st.Run(t.Context(), []*tensor.Tensor{q, k, v, nil, nil})
				if err != nil {
					t.Fatal(err)
				}
				want, err := s.Run(t.Context(), map[string]*tensor.Tensor{"q": q, "k": k, "v": v, "past_k": past["past_k"], "past_v": past["past_v"]})
				if err != nil {
					t.Fatal(err)
				}
				past["past_k"], past["past_v"] = want["present_k"], want["present_v"]
				if !bytes.Equal(got[0].Data, want["y"].Data) {
					t.Fatalf("run %d differs with a state", step)
				}
				if got[1] != nil || got[2] != nil {
					t.Error("a cache is among the outputs")
				}
				if !slices.Equal(st.InPlace(), c.want) {
					t.Errorf("run %d: caches in place %v, want %v", step, st.InPlace(), c.want)
				}
			}
		})
	}
}

// TestStateOfExports: exported models with caches give the same with a state.
func TestStateOfExports(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join("..", "models", "zoo", "*-cache", "model.onnx"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no models: %v", err)
	}
	for _, path := range paths {
		t.Run(filepath.Base(filepath.Dir(path)), func(t *testing.T) {
			s, err := runtime.Open(path, runtime.Options{Threads: 1})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			var caches []runtime.Cache
			past := map[string]*tensor.Tensor{}
			for _, v := range s.Inputs() {
				if suffix, ok := strings.CutPrefix(v.Name, "past_key_values."); ok {
					dims := v.Type.Shape.Dims
					past[v.Name] = tensor.New(v.Type.ElemType, 1, int(dims[1].Value), 0, int(dims[3].Value))
					caches = append(caches, runtime.Cache{Input: v.Name, Output: "present." + suffix, First: past[v.Name]})
				}
			}
			st, err := s.NewState(4, caches...)
			if err != nil {
				t.Fatal(err)
			}
			length := 0
			for _, added := range []int{3, 1, 1, 2} {
				list, named := make([]*tensor.Tensor, len(s.Inputs())), map[string]*tensor.Tensor{}
				for i, v := range s.Inputs() {
					if past[v.Name] != nil {
						named[v.Name] = past[v.Name]
						continue
					}
					n := added
					if v.Name == "attention_mask" {
						n += length
					}
					x := tensor.New(v.Type.ElemType, 1, n)
					for j := range tensor.Of[int64](x) {
						tensor.Of[int64](x)[j] = map[string]int64{"attention_mask": 1, "position_ids": int64(length + j)}[v.Name]
						if v.Name == "input_ids" {
							tensor.Of[int64](x)[j] = int64(7*length+j) % 32
						}
					}
					list[i], named[v.Name] = x, x
				}
				got, err := st.Run(t.Context(), list)
				if err != nil {
					t.Fatal(err)
				}
				want, err := s.Run(t.Context(), named)
				if err != nil {
					t.Fatal(err)
				}
				for i, v := range s.Outputs() {
					if got[i] != nil && !bytes.Equal(got[i].Data, want[v.Name].Data) {
						t.Errorf("output %q differs with a state after %d tokens", v.Name, length)
					}
				}
				for name := range past {
					past[name] = want["present."+strings.TrimPrefix(name, "past_key_values.")]
				}
				length += added
			}
			t.Logf("in place: %v", st.InPlace())
		})
	}
}

// TestStateRefuses: what a state cannot be made of.
func TestStateRefuses(t *testing.T) {
	s := open(t, cachedAttention(t, node(t, "y = Attention(q, present_k, present_v)")))
	first := tensor.New(onnx.Float32, 2, 2, 0, 8)
	good := runtime.Cache{Input: "past_k", Output: "present_k", First: first}
	for _, c := range []struct {
		name   string
		caches []runtime.Cache
		want   string
	}{
		{"no such input", []runtime.Cache{{Input: "past", Output: "present_k", First: first}}, `no input "past"`},
		{"no such output", []runtime.Cache{{Input: "past_k", Output: "present", First: first}}, `no output "present"`},
		{"twice", []runtime.Cache{good, good}, "two caches"},
		{"nothing at first", []runtime.Cache{{Input: "past_k", Output: "present_k"}}, `input "past_k"`},
		{"another shape", []runtime.Cache{{Input: "past_k", Output: "present_k", First: tensor.New(onnx.Float32, 2, 3, 0, 8)}}, `input "past_k"`},
	} {
		if _, err := s.NewState(4, c.caches...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", c.name, err, c.want)
		}
	}
}

// TestStateClose: what a closed state lends to later runs changes none of them.
func TestStateClose(t *testing.T) {
	s := open(t, cachedAttention(t, node(t, "y = Attention(q, present_k, present_v)")))
	random := rand.New(rand.NewPCG(3, 4))
	first, q, k := randomFloats(random, 2, 2, 3, 8), randomFloats(random, 2, 4, 1, 8), randomFloats(random, 2, 2, 1, 8)
	want, err := s.Run(t.Context(), map[string]*tensor.Tensor{"q": q, "k": k, "v": k, "past_k": first, "past_v": first})
	if err != nil {
		t.Fatal(err)
	}
	for round := range 3 {
		st, err := s.NewState(8, runtime.Cache{Input: "past_k", Output: "present_k", First: first},
			runtime.Cache{Input: "past_v", Output: "present_v", First: first})
		if err != nil {
			t.Fatal(err)
		}
		got, err := st.Run(t.Context(), []*tensor.Tensor{q, k, k, nil, nil})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got[0].Data, want["y"].Data) {
			t.Errorf("state %d gives something else", round)
		}
		st.Close()
		again, err := s.Run(t.Context(), map[string]*tensor.Tensor{"q": q, "k": k, "v": k, "past_k": first, "past_v": first})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(again["present_k"].Data, want["present_k"].Data) || !bytes.Equal(again["y"].Data, want["y"].Data) {
			t.Errorf("a run after state %d gives something else", round)
		}
	}
}

// TestStateMemory: caches that would not fit into memory are refused.
func TestStateMemory(t *testing.T) {
	m := cachedAttention(t, node(t, "y = Attention(q, present_k, present_v)"))
	s, err := runtime.New(m, runtime.Options{MaxMemory: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for room, fits := range map[int]bool{4: true, 2500: true, 5000: false, 1 << 60: false} { // of 128 bytes, twice
		first := tensor.New(onnx.Float32, 2, 2, 0, 8)
		st, err := s.NewState(room, runtime.Cache{Input: "past_k", Output: "present_k", First: first},
			runtime.Cache{Input: "past_v", Output: "present_v", First: first})
		if err != nil {
			t.Fatal(err)
		}
		q, k := tensor.New(onnx.Float32, 2, 4, 1, 8), tensor.New(onnx.Float32, 2, 2, 1, 8)
		if _, err := st.Run(t.Context(), []*tensor.Tensor{q, k, k, nil, nil}); (err == nil) != fits {
			t.Errorf("room for %d vectors: error %v", room, err)
		}
	}
}
