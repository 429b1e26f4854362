package runtime_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fmoe-go/fmoe/internal/benchmodel"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func TestTimeDump(t *testing.T) {
	size := benchmodel.GPT2
	size.Layers = 6
	ints := func(v int64, shape ...int) *tensor.Tensor {
		x := tensor.New(onnx.Int64, shape...)
		for i := range tensor.Of[int64](x) {
			tensor.Of[int64](x)[i] = v
		}
		return x
	}
	for _, c := range []struct {
		name             string
		m                *onnx.Model
		batch, seq, past int
	}{{"gpt prefill 128", size.Decoder(), 1, 128, 0}, {"gpt decode", size.Decoder(), 1, 1, 128}, {"bert 2x128", size.Encoder(), 2, 128, 0}} {
		for _, no := range []bool{true, false} {
			start := time.Now()
			s, err := runtime.New(c.m, runtime.Options{Threads: 2, NoFusion: no})
			if err != nil {
				t.Fatal(err)
			}
			compile := time.Since(start)
			in := map[string]*tensor.Tensor{}
			for _, v := range s.Inputs() {
				switch {
				case strings.HasPrefix(v.Name, "past"):
					in[v.Name] = tensor.New(onnx.Float32, c.batch, 12, c.past, 64)
				case v.Name == "attention_mask":
					in[v.Name] = ints(1, c.batch, c.seq+c.past)
				default:
					in[v.Name] = ints(1, c.batch, c.seq)
				}
			}
			best := time.Hour
			n := 3
			if c.seq == 1 {
				n = 12
			}
			for range n {
				start := time.Now()
				if _, err := s.Run(context.Background(), in); err != nil {
					t.Fatal(err)
				}
				best = min(best, time.Since(start))
			}
			fmt.Println(c.name, "nofusion", no, "compile", compile.Round(time.Millisecond), "run", best)
			s.Close()
		}
	}
}
