package report

import (
	"bytes"
	"fmt"
	"path/filepath"
	"testing"
	"time"
)

// BenchmarkStep measures what the records of a step cost a run.
func BenchmarkStep(b *testing.B) {
	for _, size := range [][2]int{{12, 8}, {60, 256}} {
		experts := make([]int, size[0])
		for i := range experts {
			experts[i] = size[1]
		}
		dir := b.TempDir()
		l, err := CreateLog(filepath.Join(dir, "log.jsonl"), testRun)
		if err != nil {
			b.Fatal(err)
		}
		t, err := NewTensorBoard(dir, 0)
		if err != nil {
			b.Fatal(err)
		}
		sinks := map[string]Sink{"log": l, "TensorBoard": t, "progress": NewProgress(new(bytes.Buffer), 1000, time.Second), "page": NewPage(filepath.Join(dir, "report.html"), testRun, time.Hour)}
		s := testStep(9, experts...)
		for name, sink := range sinks {
			b.Run(fmt.Sprintf("%s/%d×%d", name, size[0], size[1]), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					s.Step++
					if err := sink.Step(s); err != nil {
						b.Fatal(err)
					}
				}
			})
			if err := sink.Close(); err != nil {
				b.Fatal(err)
			}
		}
	}
}
