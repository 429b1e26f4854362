package runtime_test

import (
	"testing"

	"github.com/fmoe-go/fmoe/runtime"
)

// BenchmarkBind plans models for lengths that they were not planned for.
func BenchmarkBind(b *testing.B) {
	for _, m := range samples {
		b.Run(m.String(), func(b *testing.B) {
			s := m.open(b, runtime.Options{Threads: 1})
			inputs := m.inputs(b, s, 24)
			b.ReportAllocs()
			for b.Loop() {
				if err := s.Bind(inputs); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
