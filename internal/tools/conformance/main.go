// Command conformance runs ONNX's operator cases on the CPU, prints how many
// passed and writes docs/operators.md. It fails when a case gave a wrong
// answer.
package main

import (
	"bytes"
	"fmt"
	"os"

	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/devicetest"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

func run() error {
	cases, err := devicetest.LoadONNXCases()
	if err != nil {
		return err
	}
	report := devicetest.RunAll(cases, runtime.Options{})
	fmt.Printf("all %d cases: %s\ntiers 1-4 and 6, single node: %s\n", len(cases), report.Total(), report.Tiers())
	var page bytes.Buffer
	if err := report.WriteMarkdown(&page); err != nil {
		return err
	}
	if err := os.WriteFile("docs/operators.md", page.Bytes(), 0o644); err != nil {
		return err
	}
	for _, f := range report.Failures() {
		fmt.Println("FAILED", f)
	}
	if n := report.Total().Failed; n > 0 {
		return fmt.Errorf("%d cases gave a wrong answer", n)
	}
	return nil
}
