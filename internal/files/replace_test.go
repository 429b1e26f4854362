package files

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func TestReplace(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	failure := errors.New("no more")
	for _, test := range []struct {
		text string
		err  error
		want string
	}{{"first", nil, "first"}, {"second", failure, "first"}, {"third", nil, "third"}} {
		err := Replace(path, func(w io.Writer) error {
			if _, err := io.WriteString(w, test.text); err != nil {
				return err
			}
			return test.err
		})
		if !errors.Is(err, test.err) {
			t.Errorf("%s: %v, want %v", test.text, err, test.err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != test.want {
			t.Errorf("after %s the file has %q, want %q: %v", test.text, got, test.want, err)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
			t.Errorf("after %s: %v, %v", test.text, entries, err)
		}
	}
	if err := Replace(filepath.Join(dir, "none", "file"), func(io.Writer) error { return nil }); err == nil {
		t.Error("a file in a directory that is not there")
	}
}
