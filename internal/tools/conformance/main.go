// Command conformance runs ONNX's operator cases on the CPU, prints how many
// passed and writes docs/operators.md. It fails when a case gave a wrong
// answer.
package main

import (
	"archive/zip"
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
	archive, err := zip.OpenReader("runtime/testdata/contrib.zip")
	if err != nil {
		return err
	}
	defer archive.Close()
	contrib, err := devicetest.ReadCases(archive)
	if err != nil {
		return err
	}
	more := devicetest.RunAll(contrib, runtime.Options{})
	fmt.Printf("%d cases by ONNX Runtime: %s\n", len(contrib), more.Total())
	var page bytes.Buffer
	if err := report.WriteMarkdown(&page, more); err != nil {
		return err
	}
	if err := os.WriteFile("docs/operators.md", page.Bytes(), 0o644); err != nil {
		return err
	}
	failures := append(report.Failures(), more.Failures()...)
	for _, f := range failures {
		fmt.Println("FAILED", f)
	}
	if len(failures) > 0 {
		return fmt.Errorf("%d cases gave a wrong answer", len(failures))
	}
	return nil
}
