package report

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/fmoe-go/fmoe/internal/files"
)

// Page is a sink that keeps a page of HTML up to date, which shows a run in
// plots. It needs nothing but itself, and has at most some two megabytes
// whatever the number of steps.
type Page struct {
	path    string
	every   time.Duration
	now     func() time.Time
	wrote   time.Time
	history *history
}

// NewPage makes a page of a run. The file is replaced at once, when so much
// time has passed, and at the end; where there is none yet, its directory must
// be there.
func NewPage(path string, r Run, every time.Duration) *Page {
	p := &Page{path: path, every: every, now: time.Now, history: newHistory()}
	p.history.run = r
	return p
}

// Read adds the records of a log, those that are before what the sink is given
// next.
func (p *Page) Read(log io.Reader) error {
	for r, err := range ReadLog(log) {
		if err != nil {
			return err
		}
		p.add(r)
	}
	return nil
}

func (p *Page) add(r Record) {
	switch {
	case r.Run != nil:
		p.history.run = *r.Run
	case r.Step != nil:
		p.history.step(*r.Step)
	case r.Evaluation != nil:
		p.history.evaluation(*r.Evaluation)
	}
}

// Step implements [Sink].
func (p *Page) Step(s Step) error {
	p.history.step(s)
	if now := p.now(); now.Sub(p.wrote) >= p.every {
		p.wrote = now
		return p.Write()
	}
	return nil
}

// Evaluation implements [Sink].
func (p *Page) Evaluation(e Evaluation) error {
	p.history.evaluation(e)
	return nil
}

// Close implements [Sink].
func (p *Page) Close() error { return p.Write() }

// Write replaces the file by a page of what is known so far.
func (p *Page) Write() error {
	if err := files.Replace(p.path, p.history.writePage); err != nil {
		return fmt.Errorf("%s: %w", p.path, err)
	}
	return nil
}

// Summary is what is known of a run at the end of its log.
type Summary struct {
	Run        Run         `json:"run"`
	Step       *Step       `json:"step"`            // the last
	Evaluation *Evaluation `json:"evaluation"`      // the last; nil where there is none
	Best       *Evaluation `json:"best_evaluation"` // that with the least loss
}

// FromLog makes the page of a run from its log alone, as NewPage makes it while
// the run lasts, and returns what the log ends with. The log may be one that a
// run is still writing. It makes no page where path is "".
func FromLog(log, path string) (*Summary, error) {
	f, err := os.Open(log)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p, s := NewPage(path, Run{}, 0), &Summary{}
	for r, err := range ReadLog(f) {
		if err != nil {
			return nil, fmt.Errorf("%s: %w", log, err)
		}
		p.add(r)
		s.add(r)
	}
	if s.Step == nil {
		return nil, fmt.Errorf("%s has no steps; give the log of JSON lines that a training run writes", log)
	}
	if path == "" {
		return s, nil
	}
	return s, p.Write()
}

func (s *Summary) add(r Record) {
	switch {
	case r.Run != nil:
		s.Run = *r.Run
	case r.Step != nil:
		s.Step = r.Step
	case r.Evaluation != nil:
		s.Evaluation = r.Evaluation
		if s.Best == nil || better(r.Evaluation.Loss, s.Best.Loss) {
			s.Best = r.Evaluation
		}
	}
}
