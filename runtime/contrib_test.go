package runtime_test

import (
	"archive/zip"
	"testing"

	"github.com/fmoe-go/fmoe/runtime"
	"github.com/fmoe-go/fmoe/runtime/devicetest"
)

// TestContribCases compares operators of the domain com.microsoft, and what
// ONNX's cases leave out, with ONNX Runtime, whose outputs testdata/contrib.py
// recorded.
func TestContribCases(t *testing.T) {
	archive, err := zip.OpenReader("testdata/contrib.zip")
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	cases, err := devicetest.ReadCases(archive)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			if _, err := devicetest.Run(c, runtime.Options{}); err != nil {
				t.Error(err)
			}
		})
	}
}
