package main

import (
	"strings"
	"testing"
)

func TestDevices(t *testing.T) {
	var out strings.Builder
	printDevices(&out)
	for _, line := range []string{"cpu ", "cuda "} {
		if !strings.Contains(out.String(), line) {
			t.Errorf("no line with %q in\n%s", line, out.String())
		}
	}
}
