package report

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/fmoe-go/fmoe/runtime/routing"
)

// newProgress makes a progress whose clock goes on by a time with each step,
// on a terminal whose lines have so many letters, or on none.
func newProgress(steps int64, each time.Duration, width int) (*Progress, *bytes.Buffer) {
	var out bytes.Buffer
	p := NewProgress(&out, steps, 10*time.Second)
	p.width = func() int { return width }
	now := time.Unix(0, 0)
	p.now = func() time.Time { now = now.Add(each); return now }
	return p, &out
}

func TestProgressLines(t *testing.T) {
	p, out := newProgress(31, time.Second, 0)
	write(t, p, 0, 31, 4)
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	want := `step 1/31  loss 4.5358  balance 2.000  9,055 tokens/s
step 7 is skipped: its loss or gradients are not finite (1 so far)
step 10: held-out loss 4.3145, perplexity 74.777
step 11/31  loss 4.2875  balance 1.091  9,469 tokens/s  ETA 20s
step 20: held-out loss 4.0562, perplexity 57.754
step 21/31  loss 3.9927  balance 1.048  9,361 tokens/s  ETA 10s
step 30: held-out loss 3.8225, perplexity 45.716
step 31/31  loss 3.6775  balance 1.032  8,850 tokens/s
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out, want)
	}
}

// TestProgressOfUnknownLength: a run that was stopped shows its last step.
func TestProgressOfUnknownLength(t *testing.T) {
	p, out := newProgress(0, time.Second, 0)
	write(t, p, 100, 109)
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if got := strings.Split(out.String(), "\n"); len(got) != 3 || !strings.HasPrefix(got[0], "step 101  loss") || !strings.HasPrefix(got[1], "step 109  loss") {
		t.Errorf("got %q", got)
	}
	p, out = newProgress(0, time.Second, 0)
	if err := p.Close(); err != nil || out.Len() > 0 {
		t.Errorf("a run without steps shows %q, %v", out, err)
	}
}

func TestProgressOnTerminal(t *testing.T) {
	for _, width := range []int{10, 60, 200} {
		p, out := newProgress(100, 40*time.Millisecond, width)
		write(t, p, 0, 19, 4)
		if err := p.Message("saved"); err != nil {
			t.Fatal(err)
		}
		write(t, p, 19, 25, 4)
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		for _, s := range strings.Split(out.String(), clearLine) {
			drawn, _, _ := strings.Cut(s, "\n")
			if n := utf8.RuneCountInString(drawn); strings.HasPrefix(drawn, "step 1/") && n >= width {
				t.Errorf("%d letters on a terminal of %d: %q", n, width, drawn)
			}
		}
		if n := strings.Count(out.String(), clearLine+"saved\n"); n != 1 {
			t.Errorf("the message is there %d times", n)
		}
		lines := strings.Split(out.String(), "\n")
		if len(lines) != 1+2+1+1+1 || !strings.HasSuffix(out.String(), "\n") {
			t.Errorf("%d lines stay: %q", len(lines), lines)
		}
		if got := strings.Count(out.String(), "▕"); (got > 0) != (width == 200) {
			t.Errorf("%d bars on a terminal of %d letters", got, width)
		}
	}
}

func TestBar(t *testing.T) {
	for share, want := range map[float64]string{-1: "▕        ▏", 0: "▕        ▏", 0.5: "▕████    ▏", 0.53125: "▕████▎   ▏", 1: "▕████████▏", 2: "▕████████▏"} {
		if got := bar(share, 10); got != want {
			t.Errorf("%v: %q, want %q", share, got, want)
		}
	}
}

func TestWriteBalance(t *testing.T) {
	layer := func(name string, slots int64, rows ...int64) Layer {
		return Layer{Name: name, Balance: routing.BalanceOf(rows, slots), BalanceLoss: 1.25, ZLoss: nan}
	}
	var out bytes.Buffer
	WriteBalance(&out, []Layer{layer("h.0.mlp", 85, 40, 20, 20, 0), layer("h.1.mlp", 80, 10, 10, 10, 10), layer("h.2.mlp", 0, make([]int64, 65)...)})
	want := `FMoE layers h.*.mlp
layer  experts  dropped  entropy     CV  balance  z  load
0            4    5.9 %    0.750  0.707    1.250  –  █▄▄·
1            4   50.0 %    1.000  0.000    1.250  –  ▄▄▄▄
2           65        –        –      –    1.250  –
load: ▄ an even share, █ twice that or more, · nothing
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", &out, want)
	}
}
