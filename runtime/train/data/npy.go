package data

import (
	"fmt"
	"os"

	"github.com/fmoe-go/fmoe/internal/memory"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// mapNPY returns the array of a .npy file, whose elements hold until close.
func mapNPY(path string) (t *tensor.Tensor, close func() error, err error) {
	f, err := memory.MapFile(path, os.Stat, os.Open)
	if err != nil {
		return nil, nil, err
	}
	t, err = tensor.ViewNPY(f.Bytes)
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return t, f.Close, nil
}

// openNPY opens integers [tokens], one document, or [documents, length].
func openNPY(path string, o Options) (Source, error) {
	t, closeFile, err := mapNPY(path)
	if err != nil {
		return nil, err
	}
	c := &corpus{path: path, elements: t.Type, data: t.Data, limit: newLimit(o.Vocabulary), close: closeFile}
	switch {
	case !isInteger(t.Type) || len(t.Shape) < 1 || len(t.Shape) > 2:
		c.Close()
		return nil, fmt.Errorf("%s: is %s; needs tokens: integers [tokens], or [documents, tokens of each]", path, t)
	case len(t.Shape) == 1:
		c.documents = 1
		c.start = func(i int) int { return i * t.Shape[0] }
	default:
		c.documents = t.Shape[0]
		c.start = func(i int) int { return i * t.Shape[1] }
	}
	return endedOrClosed(c, o.end())
}

// endedOrClosed is withEnds, and closes s where that fails.
func endedOrClosed(s Source, end int) (Source, error) {
	e, err := withEnds(s, end)
	if err != nil {
		s.Close()
		return nil, err
	}
	return e, nil
}
