package report

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
)

// Log is a file of JSON lines, each the record of the run, of a step or of an
// evaluation. A line is written at once, so that a run that is killed leaves
// all of its records but perhaps a part of the last. A checkpoint of a step
// should be saved when the records of the step are in the log, that of its
// evaluation too.
type Log struct {
	appender
	path string
	line bytes.Buffer
}

// CreateLog begins the log of a new run. It fails where the file exists.
func CreateLog(path string, r Run) (*Log, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%s is the log of another run: resume that one, or move the file away", path)
	}
	if err != nil {
		return nil, err
	}
	l := &Log{appender: appender{file: f}, path: path}
	if err := l.write("run", &r); err != nil {
		f.Close()
		return nil, err
	}
	return l, nil
}

// ResumeLog goes on with the log of a run that is resumed after a step, 0
// where it begins again. Records of later steps are cut off, and so is a last
// line that was not written whole. What is said of the run is written again
// where it changed. A log that is not there is created.
func ResumeLog(path string, r Run, step int64) (*Log, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	l := &Log{appender: appender{file: f}, path: path}
	if err := l.resume(f, r, step); err != nil {
		f.Close()
		return nil, err
	}
	return l, nil
}

func (l *Log) resume(f io.Reader, r Run, step int64) error {
	var before Run
	end := int64(0) // of what is kept
	for line, err := range lines(f) {
		if err != nil {
			return fmt.Errorf("%s: %w", l.path, err)
		}
		if line.step() > step {
			break
		}
		if line.Run != nil {
			before = *line.Run
		}
		end = line.end
	}
	if err := l.cut(end); err != nil {
		return err
	}
	same := r
	same.Started = before.Started
	if same == before {
		return nil
	}
	return l.write("run", &r)
}

// Step implements [Sink].
func (l *Log) Step(s Step) error { return l.write("step", &s) }

// Evaluation implements [Sink].
func (l *Log) Evaluation(e Evaluation) error { return l.write("evaluation", &e) }

// Sync returns when all records are on the disk, as they should be before a
// checkpoint is.
func (l *Log) Sync() error { return l.appender.Sync() }

// Close implements [Sink].
func (l *Log) Close() error { return l.close() }

// write writes a line in which the kind of the record comes before its fields.
func (l *Log) write(kind string, record any) error {
	l.line.Reset()
	fmt.Fprintf(&l.line, `{"record":%q,`, kind)
	start := l.line.Len()
	e := json.NewEncoder(&l.line)
	e.SetEscapeHTML(false)
	if err := e.Encode(record); err != nil {
		return fmt.Errorf("%s: %w", l.path, err)
	}
	text := l.line.Bytes()
	copy(text[start:], text[start+1:]) // without the record's own brace
	return l.append(text[:len(text)-1])
}

// Record is a line of a log. One of its pointers is not nil.
type Record struct {
	Run        *Run
	Step       *Step
	Evaluation *Evaluation
}

// line is a record and where its line ends.
type line struct {
	Record
	end int64 // bytes from the beginning of the log
}

// step returns the step that the record is of, 0 for that of the run.
func (l line) step() int64 {
	switch {
	case l.Step != nil:
		return l.Step.Step
	case l.Evaluation != nil:
		return l.Evaluation.Step
	}
	return 0
}

// ReadLog reads the records of a log one after the other. A last line that is
// not whole is ignored, and so are records of kinds that are not known. Another
// damaged line ends it with an error that has its number.
func ReadLog(r io.Reader) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		for l, err := range lines(r) {
			if !yield(l.Record, err) {
				return
			}
		}
	}
}

func lines(r io.Reader) iter.Seq2[line, error] {
	return func(yield func(line, error) bool) {
		in := bufio.NewReaderSize(r, 1<<16)
		var l line
		for number := 1; ; number++ {
			text, err := in.ReadBytes('\n')
			if errors.Is(err, io.EOF) {
				return // what is left is no whole line
			}
			if err != nil {
				yield(line{}, err)
				return
			}
			l.end += int64(len(text))
			if l.Record, err = decode(text); err != nil {
				if _, more := in.Peek(1); more == nil {
					yield(line{}, fmt.Errorf("line %d is damaged: %w", number, err))
				}
				return
			}
			if l.Record != (Record{}) && !yield(l, nil) {
				return
			}
		}
	}
}

func decode(text []byte) (r Record, err error) {
	var kind struct {
		Record string `json:"record"`
	}
	if err := json.Unmarshal(text, &kind); err != nil {
		return r, err
	}
	var record any
	switch kind.Record {
	case "run":
		r.Run = new(Run)
		record = r.Run
	case "step":
		r.Step = new(Step)
		record = r.Step
	case "evaluation":
		r.Evaluation = new(Evaluation)
		record = r.Evaluation
	default:
		return r, nil
	}
	return r, json.Unmarshal(text, record)
}
