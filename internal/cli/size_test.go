package cli

import "testing"

func TestSize(t *testing.T) {
	for text, want := range map[string]Size{
		"1": 1, "4096": 4096, "7B": 7, "2KiB": 2048, "512MiB": 512 << 20, "1.5GB": 1_500_000_000, "3 gib": 3 << 30, "1TB": 1e12,
	} {
		var got Size
		if err := got.Set(text); err != nil || got != want {
			t.Errorf("%q is %d (%v), want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "GiB", "0", "-1GiB", "1XB", "nan", "inf", "1e30"} {
		var got Size
		if err := got.Set(text); err == nil {
			t.Errorf("%q is accepted as %d", text, got)
		}
	}
}
