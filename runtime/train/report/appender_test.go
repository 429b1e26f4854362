package report

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fullDisk is a file on a disk that has room for so many more bytes.
type fullDisk struct {
	*os.File
	room int
}

var errFull = errors.New("no space left")

func (f *fullDisk) Write(b []byte) (int, error) {
	if f.room >= len(b) {
		f.room -= len(b)
		return f.File.Write(b)
	}
	n, err := f.File.Write(b[:f.room])
	f.room = 0
	return n, errors.Join(errFull, err)
}

// TestFullDisk: what does not fit is told, and does not damage what follows
// when there is room again.
func TestFullDisk(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "log.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	disk := &fullDisk{f, 1 << 20}
	l := &Log{appender: appender{file: disk}, path: f.Name()}
	for step := range int64(5) {
		disk.room = 1 << 20
		if step%2 == 1 {
			disk.room = int(100 * (step - 1)) // nothing, or a part
		}
		if err := l.Step(testStep(step+1, 4)); (step%2 == 1) != errors.Is(err, errFull) {
			t.Errorf("step %d: %v", step+1, err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	var steps []int64
	for r, err := range ReadLog(strings.NewReader(contents(t, f.Name()))) {
		if err != nil {
			t.Fatal(err)
		}
		steps = append(steps, r.Step.Step)
	}
	if len(steps) != 3 || steps[0] != 1 || steps[1] != 3 || steps[2] != 5 {
		t.Errorf("the log has the steps %v", steps)
	}
}
