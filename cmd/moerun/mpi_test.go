//go:build mpi

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fmoe-go/fmoe/fmoefy"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/comm"
	"github.com/fmoe-go/fmoe/runtime/comm/mpi"
	"github.com/fmoe-go/fmoe/runtime/train/checkpoint"
)

// kills is how often TestKilledWorkers kills one.
var kills = flag.Int("kills", 2, "how many workers to kill, and to stop")

// rankVariable makes the test binary moerun itself.
const rankVariable = "FMOE_TEST_RANK"

func TestMain(m *testing.M) {
	if os.Getenv(rankVariable) == "" {
		os.Exit(m.Run())
	}
	openMPI = func(o comm.Options) (comm.Communicator, error) {
		c, err := mpi.World(o)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(os.Stderr, "\nrank %d is process %d\n", c.Rank(), os.Getpid())
		return talkative{c}, nil
	}
	main()
}

// talkative says a dot for every sum, so that who listens can end or stop a
// worker anywhere in its work.
type talkative struct{ comm.Communicator }

func (t talkative) AllReduce(ctx context.Context, x comm.Buffer, r comm.Reduction) *comm.Handle {
	fmt.Fprint(os.Stderr, ".")
	return t.Communicator.AllReduce(ctx, x, r)
}

func (t talkative) Split(ctx context.Context, color, key int) (comm.Communicator, error) {
	part, err := t.Communicator.Split(ctx, color, key)
	if part == nil {
		return nil, err
	}
	return talkative{part}, err
}

// mixture writes a model with experts to train, and returns flags for that.
func mixture(t *testing.T) []string {
	t.Helper()
	if _, err := exec.LookPath("mpirun"); err != nil {
		t.Skip("no mpirun: install Open MPI or MPICH")
	}
	return []string{"train", rewrite(t, gpt, fmoefy.Options{NumExperts: 4, TopK: 2}), "--data", gptText, "--length", "16", "--batch", "6", "--steps", "16",
		"--set", "data.held_out=0.02", "--set", "save_every=3", "--json", "--quiet"}
}

// launch starts moerun as n ranks.
func launch(t *testing.T, n int, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	c := exec.CommandContext(ctx, "mpirun", append([]string{"-n", strconv.Itoa(n), os.Args[0]}, args...)...)
	// Open MPI's words for: more ranks than cores, and as root.
	c.Env = append(os.Environ(), rankVariable+"=1", "OMPI_MCA_rmaps_base_oversubscribe=1", "OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1")
	return c
}

// trained is what a run says at its end.
type trained struct {
	Steps  int64   `json:"steps"`
	Tokens int64   `json:"tokens"`
	Loss   float64 `json:"loss"`
	Held   float64 `json:"held_out_loss"`
}

func (r trained) near(want trained) bool {
	near := func(a, b float64) bool { return math.Abs(a-b) <= 1e-5*math.Abs(b) }
	return r.Steps == want.Steps && r.Tokens == want.Tokens && near(r.Loss, want.Loss) && near(r.Held, want.Held)
}

// weights returns the bytes of the model that a run made.
func weights(t *testing.T, dir string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "trained.onnx")
	if err := checkpoint.Export(dir, out, onnx.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Processes learn what one does, and the same bits as goroutines.
func TestTrainOverMPI(t *testing.T) {
	flags := mixture(t)
	var one trained
	succeed(t, &one, append(flags, "--output", filepath.Join(t.TempDir(), "run"))...)
	for _, test := range []struct {
		n        int // which 6 rows are divided evenly among, and not
		parallel string
	}{{2, "data=2"}, {4, "data=4"}, {2, "expert=2"}, {2, "pipeline=2"}, {4, "data=2,expert=2"}, {4, "slice=2,tensor=2"}, {4, "expert=2,pipeline=2"}} {
		n, flags := test.n, append(slices.Clone(flags), "--parallel", test.parallel)
		local, many := filepath.Join(t.TempDir(), "local"), filepath.Join(t.TempDir(), "many")
		var want, got trained
		succeed(t, &want, append(flags, "--output", local)...)
		c := launch(t, n, append(flags, "--output", many)...)
		var stderr bytes.Buffer
		c.Stderr = &stderr
		out, err := c.Output()
		if err != nil {
			t.Fatalf("%s: %v\n%s", test.parallel, err, &stderr)
		}
		if err := json.Unmarshal(out, &got); err != nil {
			t.Fatalf("%s: %v in\n%s", test.parallel, err, out)
		}
		if got != want || !got.near(one) {
			t.Errorf("%s: got %+v, as workers in a process %+v, as one %+v", test.parallel, got, want, one)
		}
		if !bytes.Equal(weights(t, many), weights(t, local)) {
			t.Errorf("%s: processes come to other bits than workers in one", test.parallel)
		}
	}
}

func TestErrorsOverMPI(t *testing.T) {
	flags := mixture(t)
	out, err := launch(t, 2, append(flags, "--output", filepath.Join(t.TempDir(), "run"), "--batch", "1")...).CombinedOutput()
	if want := "moerun train: rank 1: a batch of 1 rows for 2 workers"; err == nil || !strings.Contains(string(out), want) {
		t.Errorf("got %v and %s, want %s", err, out, want)
	}
}

// workers are ranks under way.
type workers struct {
	*exec.Cmd
	stdout bytes.Buffer
	said   *bufio.Reader
	pids   map[int]int // by rank
	text   strings.Builder
}

func start(t *testing.T, n int, args ...string) *workers {
	t.Helper()
	w := &workers{Cmd: launch(t, n, args...), pids: map[int]int{}}
	w.Stdout = &w.stdout
	said, err := w.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	w.said = bufio.NewReader(said)
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	return w
}

var announcement = regexp.MustCompile(`rank (\d+) is process (\d+)`)

// read returns how many dots there were, after so many or at the end; all ranks
// have told their process before.
func (w *workers) read(t *testing.T, dots int) (n int, ended bool) {
	t.Helper()
	for n < dots || len(w.pids) == 0 {
		b, err := w.said.ReadByte()
		if err != nil {
			return n, true
		}
		if b == '.' {
			n++
			continue
		}
		w.text.WriteByte(b)
		if b == '\n' {
			lines := strings.Split(strings.TrimSuffix(w.text.String(), "\n"), "\n")
			if found := announcement.FindStringSubmatch(lines[len(lines)-1]); found != nil {
				rank, _ := strconv.Atoi(found[1])
				w.pids[rank], _ = strconv.Atoi(found[2])
			}
		}
	}
	return n, false
}

// end waits for the end, at most for the limit.
func (w *workers) end(t *testing.T, limit time.Duration) error {
	t.Helper()
	begin := time.Now()
	rest, err := io.ReadAll(w.said)
	if err != nil {
		t.Fatal(err)
	}
	w.text.WriteString(strings.ReplaceAll(string(rest), ".", ""))
	err = w.Wait()
	if took := time.Since(begin); took > limit {
		t.Errorf("the others ended %v later, not within %v\n%s", took, limit, &w.text)
	}
	return err
}

// someone returns a rank that has told its process.
func (w *workers) someone(random *rand.Rand) (rank, pid int) {
	at := random.IntN(len(w.pids))
	for rank, pid = range w.pids {
		if at--; at < 0 {
			break
		}
	}
	return rank, pid
}

// launcherTime is how long mpirun may take to end the others.
const launcherTime = 15 * time.Second

// However often workers are killed, the run that the launcher starts again, on
// as many or others, ends like one that was not disturbed.
func TestKilledWorkers(t *testing.T) {
	flags := append(mixture(t), "--elastic", "--timeout", "20s")
	random := rand.New(rand.NewPCG(8, 30))
	whole := filepath.Join(t.TempDir(), "whole")
	w := start(t, 4, append(flags, "--output", whole)...)
	dots, _ := w.read(t, math.MaxInt) // to the end
	if err := w.end(t, time.Minute); err != nil {
		t.Fatalf("%v\n%s", err, &w.text)
	}
	var want trained
	if err := json.Unmarshal(w.stdout.Bytes(), &want); err != nil {
		t.Fatal(err)
	}
	for killed, run := 0, 0; killed < *kills; run++ {
		elastic := run%2 == 1
		dir := filepath.Join(t.TempDir(), "run")
		for launches := 0; ; launches++ {
			n := 4
			if elastic {
				n = 2 + random.IntN(3)
			}
			w := start(t, n, append(flags, "--output", dir)...)
			limit := math.MaxInt
			if killed < *kills {
				limit = random.IntN(dots / 2)
			}
			if _, ended := w.read(t, limit); !ended {
				rank, pid := w.someone(random)
				if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
				killed++
				if err := w.end(t, launcherTime); err == nil && w.stdout.Len() == 0 {
					t.Errorf("rank %d was killed, and mpirun says nothing", rank)
				}
				complete(t, dir)
				continue
			}
			if err := w.end(t, launcherTime); err != nil {
				t.Fatalf("launch %d: %v\n%s", launches, err, &w.text)
			}
			var got trained
			if err := json.Unmarshal(w.stdout.Bytes(), &got); err != nil {
				t.Fatal(err)
			}
			if !got.near(want) || !elastic && got != want {
				t.Errorf("after %d launches: got %+v, want %+v", launches, got, want)
			}
			if !elastic && !bytes.Equal(weights(t, dir), weights(t, whole)) {
				t.Errorf("after %d launches the weights differ", launches)
			}
			break
		}
	}
}

// complete fails if a checkpoint is not.
func complete(t *testing.T, dir string) {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(dir, "step-*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range list {
		c, err := checkpoint.Open(path)
		if err != nil {
			t.Error(err)
			continue
		}
		c.Close()
	}
}

// A worker that hangs is named by the others, which end when they have waited
// for it.
func TestStoppedWorkers(t *testing.T) {
	const timeout = 3 * time.Second
	flags := append(mixture(t), "--timeout", timeout.String())
	random := rand.New(rand.NewPCG(9, 30))
	for range *kills {
		dir := filepath.Join(t.TempDir(), "run")
		w := start(t, 3, append(flags, "--output", dir)...)
		if _, ended := w.read(t, 50+random.IntN(100)); ended {
			t.Fatalf("it ended by itself\n%s", &w.text)
		}
		rank, pid := w.someone(random)
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		err := w.end(t, timeout+launcherTime)
		named := regexp.MustCompile(fmt.Sprintf(`moerun train: rank \d: .*rank %d did not answer rank \d: .*time-out of 3s`, rank))
		if err == nil || !named.MatchString(w.text.String()) {
			t.Errorf("rank %d hangs; got %v and\n%s", rank, err, &w.text)
		}
		complete(t, dir)
	}
}
