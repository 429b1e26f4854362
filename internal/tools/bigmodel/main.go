// Command bigmodel makes a dense Transformer of several GB, has fmoefy rewrite
// it, and prints what that takes: memory, and time against a copy of the file.
// It fails where that is more than promised. The files are deleted at the end.
package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"

	"github.com/fmoe-go/fmoe/onnx"
)

// What is promised: resident memory below the size of the weights and a
// constant, of which only the constant is the program's own and the rest pages
// of the file, and no more than twice the time of a copy for each byte that is
// written.
const (
	allowance = 512 << 20
	slowdown  = 2
)

func main() {
	dir := pflag.String("dir", "build/big", "directory for the files, deleted at the end")
	fmoefy := pflag.String("fmoefy", "bin/fmoefy", "the program to measure")
	size := pflag.Float64("gb", 3, "size of the dense model in GB")
	experts := pflag.Int("num-experts", 2, "experts of each block")
	keep := pflag.Bool("keep", false, "leave the files where they are")
	pflag.Parse()
	err := measure(*dir, *fmoefy, *size, *experts)
	if !*keep {
		os.RemoveAll(*dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bigmodel:", err)
		os.Exit(1)
	}
}

func measure(dir, program string, gigabytes float64, experts int) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	dense, mixture := filepath.Join(dir, "dense.onnx"), filepath.Join(dir, "moe.onnx")
	layers := max(1, int(gigabytes*1e9/layerBytes+0.5))
	if err := onnx.WriteFile(dense, model(layers), onnx.WriteOptions{External: onnx.ExternalAlways}); err != nil {
		return err
	}
	weights, err := fileSize(dense + ".data")
	if err != nil {
		return err
	}
	fmt.Printf("dense model    %d layers, %s of weights\n", layers, megabytes(weights))

	copying, err := timeCopy(dense+".data", filepath.Join(dir, "copy"))
	if err != nil {
		return err
	}
	perByte := copying.Seconds() / float64(weights)
	fmt.Printf("copy           %.1f s\n", copying.Seconds())

	rewriting, memory, err := watch(program, dense, "-o", mixture, "--external", "always", "--num-experts", fmt.Sprint(experts), "--top-k", "1")
	if err != nil {
		return err
	}
	written, err := fileSize(mixture + ".data")
	if err != nil {
		return err
	}
	factor := rewriting.Seconds() / (perByte * float64(written))
	fmt.Printf("rewritten      %s of weights, %d experts in each block\n", megabytes(written), experts)
	fmt.Printf("time           %.1f s, %.2f times the copy, %.2f times for each byte written (promised: %d)\n",
		rewriting.Seconds(), rewriting.Seconds()/copying.Seconds(), factor, slowdown)
	fmt.Printf("own memory     %s (promised: %s)\n", megabytes(memory.anonymous), megabytes(allowance))
	fmt.Printf("resident       %s with pages of the model's file (promised: %s)\n", megabytes(memory.peak), megabytes(weights+allowance))
	if err := verify(dense, mixture, experts); err != nil {
		return err
	}
	fmt.Println("experts        equal to the dense weights")
	switch {
	case memory.anonymous > allowance || memory.peak > weights+allowance:
		return fmt.Errorf("the rewriting takes more memory than promised")
	case factor > slowdown:
		return fmt.Errorf("the rewriting takes more time than promised")
	}
	return nil
}

func megabytes(n int64) string { return fmt.Sprintf("%d MB", n/1e6) }

func fileSize(path string) (int64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// timeCopy copies a file as a program that wants it to be on the disk would,
// and removes the copy.
func timeCopy(from, to string) (time.Duration, error) {
	in, err := os.Open(from)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return 0, err
	}
	defer os.Remove(to)
	start := time.Now()
	// A plain loop: the kernel's own copying could share the blocks.
	if _, err := io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{in}, make([]byte, 1<<20)); err != nil {
		return 0, err
	}
	if err := out.Sync(); err != nil {
		return 0, err
	}
	return time.Since(start), out.Close()
}
