//go:build unix

package onnx

import (
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A pipe is refused and not waited for.
func TestPipesAreRefused(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Skip("needs named pipes: ", err)
	}
	model := writeTestFile(t, string(externalModel("location", "pipe")), dir, "model.onnx")
	_, readErr := ReadFile(pipe)
	_, externalErr := ReadFile(model)
	writeErr := WriteFile(pipe, smallModel(), WriteOptions{})
	for what, err := range map[string]error{"model": readErr, "external data": externalErr, "output": writeErr} {
		if err == nil || !strings.Contains(err.Error(), "not a regular file") {
			t.Errorf("%s: error %v", what, err)
		}
	}
}
