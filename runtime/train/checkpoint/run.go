package checkpoint

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Options say how checkpoints are saved.
type Options struct {
	// ShardBytes is how many bytes of tensors a shard has at most, unless one
	// tensor alone has more; 0 stands for 2 GiB.
	ShardBytes int64
	// Keep is how many of the newest checkpoints are kept; 0 keeps all.
	Keep int
	// KeepEvery keeps those as well whose step is a multiple of it; 0 none.
	KeepEvery int64

	files fileSystem // nil is the disk
}

func (o Options) fileSystem() fileSystem {
	if o.files == nil {
		return disk{}
	}
	return o.files
}

func (o Options) shardBytes() int64 {
	if o.ShardBytes == 0 {
		return 2 << 30
	}
	return o.ShardBytes
}

func (o Options) check() error {
	if o.ShardBytes < 0 || o.Keep < 0 || o.KeepEvery < 0 {
		return fmt.Errorf("shards of %d bytes, the last %d checkpoints and every %d steps: none of them can be negative", o.ShardBytes, o.Keep, o.KeepEvery)
	}
	return nil
}

// Run is a run directory that a training run saves to. It is its alone: nobody
// else opens it until Close, or until the process ends.
type Run struct {
	dir     string
	options Options
	files   fileSystem
	lock    *os.File
}

const lockName = ".lock"

// OpenRun opens a run directory, or makes a new one, and removes what a run
// that was killed has left of a checkpoint it did not finish. It fails where
// another run has the directory open.
func OpenRun(dir string, o Options) (*Run, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	r := &Run{dir: dir, options: o, files: o.fileSystem()}
	err := os.MkdirAll(dir, 0o777)
	if err == nil {
		_ = r.files.SyncDir(filepath.Dir(dir)) // where it may not be read, it is nobody's to sync
		err = r.acquire()
	}
	if err != nil {
		return nil, fmt.Errorf("run directory %s: %w", dir, advise(err))
	}
	if err := r.tidy(); err != nil {
		return nil, errors.Join(fmt.Errorf("run directory %s: %w", dir, advise(err)), r.Close())
	}
	return r, nil
}

// Close lets others open the run directory.
func (r *Run) Close() error { return r.lock.Close() }

func (r *Run) acquire() error {
	f, err := os.OpenFile(filepath.Join(r.dir, lockName), os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return err
	}
	free, err := lockFile(f)
	if err == nil && !free {
		owner, _ := readRegular(f.Name(), 1000)
		err = fmt.Errorf("another run saves there (%s): wait until it ends, or choose another directory", strings.TrimSpace(string(owner)))
	}
	if err == nil {
		host, _ := os.Hostname()
		err = f.Truncate(0)
		if err == nil {
			_, err = fmt.Fprintf(f, "process %d on %s\n", os.Getpid(), host)
		}
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	r.lock = f
	return nil
}

// Hidden directories beside the checkpoints: "tmp" are those that are being
// written or removed, "old" are checkpoints while another of the same step
// takes their place.
var hiddenPattern = regexp.MustCompile(`^\.(step-[0-9]{8,19})\.(tmp|old)-[0-9a-f]{16}$`)

func (r *Run) hidden(step int64, kind string) string {
	return filepath.Join(r.dir, fmt.Sprintf(".%s.%s-%016x", stepName(step), kind, rand.Uint64()))
}

// tidy completes or undoes what a killed run has left half done.
func (r *Run) tidy() error {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		found := hiddenPattern.FindStringSubmatch(e.Name())
		if found == nil {
			continue
		}
		path, place := filepath.Join(r.dir, e.Name()), filepath.Join(r.dir, found[1])
		if _, err := os.Lstat(place); found[2] == "old" && errors.Is(err, fs.ErrNotExist) {
			if err := r.files.Rename(path, place); err != nil {
				return err
			}
		} else if err := r.files.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}

// Save writes a checkpoint and returns its path. After an error all
// checkpoints that were there before are still there. Where the path is not
// empty in spite of an error, the checkpoint is complete, but older ones could
// not be removed. A checkpoint of the same step is replaced.
func (r *Run) Save(s Snapshot) (string, error) {
	weights, err := Weights(s.Model, s.Weights)
	if err != nil {
		return "", r.failed(s.Step, err)
	}
	w, err := r.Begin(s.Step)
	if err != nil {
		return "", err
	}
	shards, err := WriteShards(w.path, 0, weights, s.Optimizer, r.options)
	if err != nil {
		w.Abort()
		return "", r.failed(s.Step, err)
	}
	return w.Commit(s.Model, s.State, shards)
}

func (r *Run) failed(step int64, err error) error {
	return fmt.Errorf("saving step %d in %s: %w; the checkpoints before it are untouched", step, r.dir, advise(err))
}

// RemoveAfter removes all checkpoints of later steps than this one, for a run
// that goes on from there and will not come to the same results.
func (r *Run) RemoveAfter(step int64) error {
	return r.remove(func(c found) bool { return c.step > step })
}

// prune removes complete checkpoints before a step that are no longer to be
// kept. What is damaged neither counts nor goes: something of it may still be
// wanted.
func (r *Run) prune(step int64) error {
	if r.options.Keep == 0 {
		return nil
	}
	complete := 0
	return r.remove(func(c found) bool {
		if c.step > step {
			return false
		}
		if m, err := readManifest(c.path); err != nil || measure(c.path, m.files()) != nil {
			return false
		}
		complete++
		return complete > r.options.Keep && (r.options.KeepEvery == 0 || c.step%r.options.KeepEvery != 0)
	})
}

// remove removes the checkpoints that unwanted names, asked from the newest to
// the oldest. Each disappears at once, before its files do.
func (r *Run) remove(unwanted func(found) bool) error {
	all, err := list(r.dir)
	if err != nil {
		return err
	}
	for _, c := range all {
		if !unwanted(c) {
			continue
		}
		hidden := r.hidden(c.step, "tmp")
		if err := r.files.Rename(c.path, hidden); err != nil {
			return err
		}
		if err := r.files.RemoveAll(hidden); err != nil {
			return err
		}
	}
	return nil
}

// found is a checkpoint in a run directory.
type found struct {
	path string
	step int64
}

// list returns the checkpoints in a run directory, the newest first, without
// looking into them.
func list(dir string) ([]found, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var all []found
	for _, e := range entries {
		if step, ok := stepOf(e.Name()); ok {
			all = append(all, found{filepath.Join(dir, e.Name()), step})
		}
	}
	slices.SortFunc(all, func(a, b found) int {
		if a.step > b.step {
			return -1
		}
		return 1
	})
	return all, nil
}
