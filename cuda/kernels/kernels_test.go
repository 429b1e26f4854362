//go:build fmoecuda

package kernels

import "testing"

func TestSuits(t *testing.T) {
	for _, c := range []struct {
		target       string
		major, minor int
		want         int
	}{
		{"sm_80", 8, 0, 1},
		{"sm_80", 8, 9, 1},
		{"sm_80", 9, 0, -1},
		{"sm_90a", 9, 0, 2},
		{"sm_90a", 10, 0, -1},
		{"compute_80", 9, 0, 0},
		{"compute_80", 12, 1, 0},
		{"compute_80", 7, 5, -1},
		{"sm_x", 9, 0, -1},
	} {
		if got := suits(c.target, c.major, c.minor); got != c.want {
			t.Errorf("%s on %d.%d: %d, want %d", c.target, c.major, c.minor, got, c.want)
		}
	}
}

// TestImages looks for every source's kernels on GPUs old and new.
func TestImages(t *testing.T) {
	for _, c := range [][2]int{{8, 0}, {8, 9}, {9, 0}, {12, 0}} {
		images, err := Images(c[0], c[1])
		if err != nil {
			t.Fatal(err)
		}
		if images["elementwise"] == "" {
			t.Errorf("compute capability %v: there is no elementwise in %d images", c, len(images))
		}
	}
	if _, err := Images(5, 0); err == nil {
		t.Error("compute capability 5.0 has kernels")
	}
}
