package report

import (
	"fmt"
	"io"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/fmoe-go/fmoe/internal/cli"
)

// Progress is a sink that shows how far a run is. On a terminal that is one
// line, which is written again and again; elsewhere it is a line now and then.
type Progress struct {
	w     io.Writer
	steps int64 // that the run will have; 0 where that is not known
	every time.Duration
	now   func() time.Time
	width func() int // letters of a line; 0 where w is no terminal

	first, last Step
	began       time.Time // when the first step was shown
	wrote       time.Time // when a step was written
	current     bool      // the last step was written
	drawn       bool      // the terminal's cursor is behind the line
}

// How often the line on a terminal is drawn.
const redraw = 100 * time.Millisecond

// NewProgress shows a run of so many steps, 0 where that is not known, on w,
// which is standard error as a rule. Where w is no terminal, a line is written
// each time that so much time has passed.
func NewProgress(w io.Writer, steps int64, every time.Duration) *Progress {
	return &Progress{w: w, steps: steps, every: every, now: time.Now, width: func() int { return cli.TerminalWidth(w) }}
}

// Step implements [Sink].
func (p *Progress) Step(s Step) error {
	now, width := p.now(), p.width()
	skipped := s.Skipped - p.last.Skipped
	isFirst := p.began.IsZero()
	if isFirst {
		p.began, p.first = now, s
		if s.Step > 1 { // the run is resumed
			skipped = 0
		}
	}
	p.last, p.current = s, false
	p.last.LearningRates, p.last.Layers = nil, nil
	if skipped > 0 {
		if err := p.Message(fmt.Sprintf("step %s is skipped: its loss or gradients are not finite (%s so far)", cli.Count(s.Step), cli.Count(s.Skipped))); err != nil {
			return err
		}
	}
	every := p.every
	if width > 0 {
		every = redraw
	}
	if !isFirst && now.Sub(p.wrote) < every && s.Step != p.steps {
		return nil
	}
	return p.show(now, width)
}

// Evaluation implements [Sink].
func (p *Progress) Evaluation(e Evaluation) error {
	text := fmt.Sprintf("step %s: held-out loss %s", cli.Count(e.Step), e.Loss.Text(4))
	if !math.IsNaN(float64(e.Perplexity)) {
		text += ", perplexity " + e.Perplexity.Text(3)
	}
	return p.Message(text)
}

// Message writes lines that stay, such as those of WriteBalance.
func (p *Progress) Message(text string) error {
	text = strings.TrimSuffix(text, "\n")
	if p.drawn {
		text = clearLine + text
		p.drawn = false
	}
	_, err := fmt.Fprintln(p.w, text)
	return err
}

// Close implements [Sink]: what was shown last stays.
func (p *Progress) Close() error {
	if !p.current && !p.began.IsZero() {
		if err := p.show(p.now(), p.width()); err != nil {
			return err
		}
	}
	if !p.drawn {
		return nil
	}
	p.drawn = false
	_, err := fmt.Fprintln(p.w)
	return err
}

// clearLine returns to the beginning of a terminal's line and empties it.
const clearLine = "\r\x1b[K"

// show writes the last step.
func (p *Progress) show(now time.Time, width int) error {
	p.wrote, p.current = now, true
	text := strings.Join(p.fields(now), "  ")
	if width == 0 {
		_, err := fmt.Fprintln(p.w, text)
		return err
	}
	p.drawn = true
	if room := width - 1 - utf8.RuneCountInString(text) - 2; p.steps > 0 && room >= leastBar {
		text = bar(float64(p.last.Step)/float64(p.steps), min(room, mostBar)) + "  " + text
	} else if letters := []rune(text); len(letters) >= width {
		text = string(letters[:width-1])
	}
	_, err := io.WriteString(p.w, clearLine+text)
	return err
}

// fields returns what there is to say of the last step.
func (p *Progress) fields(now time.Time) []string {
	s := p.last
	fields := []string{"step " + cli.Count(s.Step)}
	if p.steps > 0 {
		fields[0] += "/" + cli.Count(p.steps)
	}
	add := func(name string, x Number, decimals int) {
		if !math.IsNaN(float64(x)) {
			fields = append(fields, name+" "+x.Text(decimals))
		}
	}
	add("loss", s.Loss, 4)
	add("balance", s.BalanceLoss, 3)
	if x := float64(s.TokensPerSecond); x > 0 && x < math.MaxInt64 {
		fields = append(fields, cli.Count(int64(x))+" tokens/s")
	}
	if done := s.Step - p.first.Step; done > 0 && s.Step < p.steps {
		left := float64(now.Sub(p.began)) / float64(done) * float64(p.steps-s.Step)
		if left < math.MaxInt64 {
			fields = append(fields, "ETA "+time.Duration(left).Round(time.Second).String())
		}
	}
	return fields
}

// Letters that a bar has.
const (
	leastBar = 10
	mostBar  = 30
)

// bar draws a share as a line of so many letters, with one at each end.
func bar(share float64, letters int) string {
	eighths := []rune(" ▏▎▍▌▋▊▉█")
	line := make([]rune, letters-2)
	full := 8 * float64(len(line)) * min(max(share, 0), 1)
	for i := range line {
		line[i] = eighths[int(min(max(full-8*float64(i), 0), 8))]
	}
	return "▕" + string(line) + "▏"
}
