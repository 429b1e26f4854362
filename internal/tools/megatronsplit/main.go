// Command megatronsplit writes the sample GPT as tensor-parallel ranks,
// rank_00.onnx and so on, which fmoefy merge joins again.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/pflag"

	"github.com/fmoe-go/fmoe/internal/megatron"
	"github.com/fmoe-go/fmoe/onnx"
)

func main() {
	model := pflag.String("model", "models/gpt-megatron/model.onnx", "the sample GPT")
	size := pflag.Int64("ranks", 2, "number of ranks")
	out := pflag.String("out", ".", "directory to write to")
	var o megatron.Options
	pflag.BoolVar(&o.Vocabulary, "vocabulary", true, "split the embedding by tokens")
	pflag.BoolVar(&o.Collectives, "collectives", false, "have communication in the graphs")
	pflag.Parse()
	if err := split(*model, *out, *size, o); err != nil {
		fmt.Fprintln(os.Stderr, "megatronsplit:", err)
		os.Exit(1)
	}
}

func split(path, out string, size int64, o megatron.Options) error {
	m, err := onnx.ReadFile(path)
	if err != nil {
		return err
	}
	defer m.Close()
	ranks, err := megatron.Split(m, size, o)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o777); err != nil {
		return err
	}
	for i, rank := range ranks {
		if err := onnx.WriteFile(filepath.Join(out, fmt.Sprintf("rank_%02d.onnx", i)), rank, onnx.WriteOptions{}); err != nil {
			return err
		}
	}
	return nil
}
