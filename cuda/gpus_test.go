package cuda

import "testing"

// TestGPUs looks for what there is: GPUs with all that is told of them, or a
// reason why there are none.
func TestGPUs(t *testing.T) {
	list, err := GPUs()
	if err != nil {
		t.Skip(err)
	}
	for i, g := range list {
		if g.Name == "" || g.Memory <= 0 || g.Major < 1 || g.Processors < 1 || g.DriverSupports < 1000 {
			t.Errorf("GPU %d: %+v", i, g)
		}
	}
}
