package tensor

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// FuzzDecodeNPY checks that no file makes the reader panic, and that whatever
// it reads is written and read again as the same.
func FuzzDecodeNPY(f *testing.F) {
	files, err := filepath.Glob(filepath.Join("testdata", "*.npy"))
	if err != nil || len(files) == 0 {
		f.Fatal("testdata has no .npy files: ", err)
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		x, err := DecodeNPY(file)
		if err != nil || len(x.Shape) > 64 { // NumPy's own limit
			return
		}
		var b bytes.Buffer
		if err := x.WriteNPY(&b); err != nil {
			t.Fatal(err)
		}
		y, err := DecodeNPY(b.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		requireEqual(t, y, x)
	})
}
