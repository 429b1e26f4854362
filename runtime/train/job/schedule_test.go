package job_test

import (
	"bytes"
	"path/filepath"
	"testing"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/comm"
	"github.com/fmoe-go/fmoe/runtime/train/job"
)

// However workers exchange rows, they come to the same bits.
func TestSchedules(t *testing.T) {
	model, text := writeGated(t, "gshard", 4, onnx.Float32)
	c := configure(t, text, "data.batch=8", "steps=4", "save_every=0", "evaluate_every=0")
	var want []byte
	for _, schedule := range []comm.Schedule{{}, {NoOverlap: true, NoShadowing: true}, {Node: 2}, {Node: 3}} {
		dir := filepath.Join(t.TempDir(), "run")
		run(t, t.Context(), model, c, job.Options{Dir: dir, Layout: comm.Layout{Expert: 4, Tensor: 2}, Schedule: schedule})
		got := exported(t, dir)
		if want == nil {
			want = got
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%+v: weights have other bits", schedule)
		}
	}
}
