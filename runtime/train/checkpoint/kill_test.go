//go:build unix

package checkpoint

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// The test binary runs itself as another process, which does what
// CHECKPOINT_CHILD says in the directory of CHECKPOINT_DIR.
func TestMain(m *testing.M) {
	dir := os.Getenv("CHECKPOINT_DIR")
	switch os.Getenv("CHECKPOINT_CHILD") {
	case "":
		os.Exit(m.Run())
	case "save until killed":
		fmt.Println(saveUntilKilled(dir))
	case "save without room":
		fmt.Println(saveWithoutRoom(dir))
	case "save once":
		_, err := Save(dir, sampleSnapshot(1), Options{})
		fmt.Println(err)
	}
	os.Exit(1)
}

func child(t testing.TB, what, dir string) *exec.Cmd {
	c := exec.CommandContext(t.Context(), must(os.Executable()))
	c.Env = append(os.Environ(), "CHECKPOINT_CHILD="+what, "CHECKPOINT_DIR="+dir)
	c.Stderr = os.Stderr
	return c
}

// saveUntilKilled goes on from the newest checkpoint, saves every step, some of
// them twice, and says what it has saved, and a dot for whatever it does to
// the disk.
func saveUntilKilled(dir string) error {
	run, err := OpenRun(dir, Options{Keep: 2, ShardBytes: 4000, files: talkative{}})
	if err != nil {
		return err
	}
	step := int64(0)
	c, damaged, err := Newest(dir)
	switch {
	case errors.Is(err, ErrNone):
	case err != nil || len(damaged) > 0:
		return fmt.Errorf("%w, damaged: %v", err, damaged)
	default:
		step = c.Step()
		c.Close()
	}
	for {
		step++
		for range 1 + step%2 {
			if _, err := run.Save(sampleSnapshot(step)); err != nil {
				return err
			}
			fmt.Printf("saved %d\n", step)
		}
	}
}

type talkative struct{ disk }

func (d talkative) Rename(from, to string) error {
	fmt.Print(".")
	defer fmt.Print(".")
	return d.disk.Rename(from, to)
}

func (d talkative) RemoveAll(path string) error {
	fmt.Print(".")
	defer fmt.Print(".")
	return d.disk.RemoveAll(path)
}

func (d talkative) Create(path string) (file, error) {
	f, err := d.disk.Create(path)
	fmt.Print(".")
	return talkativeFile{f}, err
}

type talkativeFile struct{ file }

func (f talkativeFile) Write(b []byte) (int, error) {
	defer fmt.Print(".")
	return f.file.Write(b)
}

// A run that is killed at random instants, fifty times, never loses a
// checkpoint that it said it saved, nor leaves one that does not load.
func TestKill(t *testing.T) {
	kills := 50
	if testing.Short() {
		kills = 5
	}
	dir, random := t.TempDir(), rand.New(rand.NewPCG(6, 50))
	saved := int64(0)
	for kill := range kills {
		c := child(t, "save until killed", dir)
		out := must(c.StdoutPipe())
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		said := make([]byte, 1+random.IntN(200))
		if n, err := io.ReadFull(out, said); err != nil {
			t.Fatalf("kill %d: it ended by itself: %s", kill, said[:n])
		}
		if err := c.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		rest := must(io.ReadAll(out))
		_ = c.Wait() // it was killed
		for line := range bytes.Lines(append(said, rest...)) {
			if bytes.HasSuffix(line, []byte("\n")) {
				if _, err := fmt.Sscanf(strings.TrimLeft(string(line), "."), "saved %d", &saved); err != nil {
					t.Fatalf("it said %q", line)
				}
			}
		}
		// While a checkpoint is replaced, it is not there for those who only
		// look; the run that comes next finds it.
		if saved > 1 {
			if got := newest(t, dir); got < saved-1 {
				t.Fatalf("kill %d: the newest is step %d, although %d was saved", kill, got, saved)
			}
		}
		run, err := OpenRun(dir, Options{})
		if err != nil {
			t.Fatal(err)
		}
		run.Close()
		if saved == 0 {
			continue
		}
		if got := newest(t, dir); got < saved || got > saved+1 {
			t.Fatalf("kill %d: the newest is step %d, although %d was saved", kill, got, saved)
		}
		all := must(list(dir))
		if left := names(t, dir); len(all) != len(left) || len(all) > 3 || len(all) < int(min(saved, 2)) {
			t.Fatalf("kill %d: %q is left", kill, left)
		}
		for _, found := range all {
			c, err := Open(found.path)
			if err != nil {
				t.Fatal(err)
			}
			if err := checkSample(c); err != nil {
				t.Fatal(err)
			}
			c.Close()
		}
	}
	t.Logf("%d steps were saved", saved)
}

// saveWithoutRoom saves where no file may be longer than 1,000 bytes.
func saveWithoutRoom(dir string) error {
	signal.Ignore(unix.SIGXFSZ)
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 1000, Max: 1000}); err != nil {
		return err
	}
	_, err := Save(dir, sampleSnapshot(2), Options{})
	return err
}

func TestNoRoom(t *testing.T) {
	dir := t.TempDir()
	save(t, dir, Options{}, 1)
	out, _ := child(t, "save without room", dir).Output()
	if said := string(out); !strings.Contains(said, "saving step 2 in "+dir) || !strings.Contains(said, syscall.EFBIG.Error()) || strings.Count(said, "\n") != 1 {
		t.Errorf("it said %q", said)
	}
	if got := names(t, dir); !slices.Equal(got, []string{stepName(1)}) || newest(t, dir) != 1 {
		t.Errorf("%q is left", got)
	}
}

// Another process is kept out while a run has the directory, and let in when
// it was killed.
func TestLockBetweenProcesses(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	c := child(t, "save until killed", dir)
	out := must(c.StdoutPipe())
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	said, _ := child(t, "save once", dir).Output()
	if want := fmt.Sprintf("another run saves there (process %d on ", c.Process.Pid); !strings.Contains(string(said), want) {
		t.Errorf("it said %q, not %q", said, want)
	}
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, out)
	_ = c.Wait() // it was killed
	if said, _ := child(t, "save once", dir).Output(); string(said) != "<nil>\n" {
		t.Errorf("after the first was killed it said %q", said)
	}
}
