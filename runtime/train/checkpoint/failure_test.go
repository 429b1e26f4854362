package checkpoint

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// faulty is a disk on which one operation fails, and where wanted all that
// follow it, as if the process had been killed there. It keeps a log.
type faulty struct {
	disk
	operations, bytes int // that succeed; negative: all
	err               error
	killed            bool // all that follows fails too
	log               []string
	fault             string // the operation that failed
}

// sound is a disk on which nothing fails, and that does not wait for a disk.
func sound() *faulty { return &faulty{operations: -1, bytes: -1} }

func (d *faulty) step(format string, args ...any) error {
	if d.fault != "" && d.killed {
		return d.err
	}
	operation := fmt.Sprintf(format, args...)
	d.log = append(d.log, operation)
	if len(d.log) == d.operations+1 {
		d.fault = operation
		return d.err
	}
	return nil
}

func (d *faulty) Mkdir(path string) error {
	if err := d.step("mkdir %s", path); err != nil {
		return err
	}
	return d.disk.Mkdir(path)
}

func (d *faulty) Rename(from, to string) error {
	if err := d.step("rename %s %s", from, to); err != nil {
		return err
	}
	return d.disk.Rename(from, to)
}

// RemoveAll removes a part of the directory where it fails.
func (d *faulty) RemoveAll(path string) error {
	if err := d.step("remove %s", path); err != nil {
		_ = os.Remove(filepath.Join(path, manifestName))
		return err
	}
	return d.disk.RemoveAll(path)
}

func (d *faulty) SyncDir(path string) error { return d.step("syncdir %s", path) }

func (d *faulty) Create(path string) (file, error) {
	if err := d.step("create %s", path); err != nil {
		return nil, err
	}
	f, err := d.disk.Create(path)
	return &faultyFile{f, d, path}, err
}

func (d *faulty) Edit(path string) (file, error) {
	if err := d.step("edit %s", path); err != nil {
		return nil, err
	}
	f, err := d.disk.Edit(path)
	return &faultyFile{f, d, path}, err
}

type faultyFile struct {
	file
	disk *faulty
	path string
}

// Write writes a part where it fails.
func (f *faultyFile) Write(b []byte) (int, error) {
	d := f.disk
	if err := d.step("write %s", f.path); err != nil {
		n, _ := f.file.Write(b[:len(b)/2])
		return n, err
	}
	if d.bytes < 0 {
		return f.file.Write(b)
	}
	if len(b) <= d.bytes {
		d.bytes -= len(b)
		return f.file.Write(b)
	}
	n, _ := f.file.Write(b[:d.bytes])
	d.bytes = -1
	d.fault = "write " + f.path
	return n, d.err
}

func (f *faultyFile) WriteAt(b []byte, at int64) (int, error) {
	return (&faultyFile{offsetFile{f.file, at}, f.disk, f.path}).Write(b)
}

// offsetFile is a file that is written from an offset on.
type offsetFile struct {
	file
	at int64
}

func (f offsetFile) Write(b []byte) (int, error) { return f.WriteAt(b, f.at) }

func (f *faultyFile) Sync() error { return f.disk.step("sync %s", f.path) }

func (f *faultyFile) Close() error {
	return errors.Join(f.disk.step("close %s", f.path), f.file.Close())
}

// newest returns the newest checkpoint's step, and fails where one is damaged
// or has other content than was saved.
func newest(t testing.TB, dir string) int64 {
	t.Helper()
	c, damaged, err := Newest(dir)
	if err != nil || len(damaged) > 0 {
		t.Fatalf("no newest checkpoint: %v, damaged: %v", err, damaged)
	}
	defer c.Close()
	if err := checkSample(c); err != nil {
		t.Fatalf("step %d: %v", c.Step(), err)
	}
	return c.Step()
}

// forEachFault runs a test for every operation and for many a byte at which
// saving can fail, until it does not. Where the test fails, it says at which.
func forEachFault(t *testing.T, killed bool, test func(t *testing.T, d *faulty) (complete bool)) {
	t.Helper()
	run := func(d *faulty) bool {
		defer func() {
			if t.Failed() {
				t.Logf("after %q", d.log)
			}
		}()
		return test(t, d)
	}
	faults := 0
	for n := 0; !run(&faulty{operations: n, bytes: -1, err: syscall.ENOSPC, killed: killed}) && !t.Failed(); n++ {
		faults++
	}
	for n := 0; !run(&faulty{operations: -1, bytes: n, err: syscall.ENOSPC, killed: killed}) && !t.Failed(); n += 397 {
		faults++
	}
	if faults < 50 {
		t.Errorf("saving failed at %d places only", faults)
	}
}

// After any failure the directory is what it was, and the error says so.
func TestSaveFails(t *testing.T) {
	forEachFault(t, false, func(t *testing.T, d *faulty) bool {
		dir := t.TempDir()
		save(t, dir, Options{Keep: 2, files: sound()}, 1, 2)
		run := must(OpenRun(dir, Options{Keep: 2, ShardBytes: 4000, files: sound()}))
		defer run.Close()
		run.files, run.options.files = d, d
		path, err := run.Save(sampleSnapshot(3))
		if err == nil {
			if d.fault != "" {
				t.Error("no error, although saving failed")
			}
			return true
		}
		if d.fault == "" || !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), dir) || strings.Contains(err.Error(), "\n") {
			t.Errorf("error %v, not one line that names the directory and the cause", err)
		}
		got := names(t, dir)
		switch {
		case path != "": // only removing the oldest one can have failed
			if newest(t, dir) != 3 || !strings.Contains(err.Error(), "is complete, but older checkpoints could not be removed") {
				t.Errorf("%s is said to be complete: error %v", path, err)
			}
		case d.fault == "syncdir "+dir:
			if newest(t, dir) != 3 { // it is there, though perhaps not for long
				t.Errorf("%q is left", got)
			}
		default:
			if !slices.Equal(got, []string{stepName(1), stepName(2)}) || newest(t, dir) != 2 {
				t.Errorf("%q is left", got)
			}
			if !strings.Contains(err.Error(), "saving step 3") || !strings.Contains(err.Error(), "free some space") || !strings.Contains(err.Error(), "untouched") {
				t.Errorf("error %v", err)
			}
		}
		return false
	})
}

// Whenever a run is killed, the newest complete checkpoint loads, and the next
// run finds the directory tidy.
func TestSaveIsKilled(t *testing.T) {
	forEachFault(t, true, func(t *testing.T, d *faulty) bool {
		dir := t.TempDir()
		save(t, dir, Options{files: sound()}, 1, 2)
		run := must(OpenRun(dir, Options{Keep: 2, files: sound()}))
		run.files, run.options.files = d, d
		_, err := run.Save(sampleSnapshot(3))
		run.Close()
		before := newest(t, dir)
		if before != 3 && (before != 2 || err == nil) {
			t.Errorf("the newest is %d", before)
		}
		must(OpenRun(dir, Options{files: sound()})).Close()
		got := names(t, dir)
		for _, name := range got {
			if _, ok := stepOf(name); !ok {
				t.Errorf("%s is left", name)
			}
		}
		if after := newest(t, dir); after != before || !slices.Contains(got, stepName(2)) || before == 2 && !slices.Contains(got, stepName(1)) {
			t.Errorf("%q is left, the newest is %d", got, after)
		}
		return err == nil
	})
}

// While a checkpoint takes the place of one of the same step, a killed run
// leaves one of them, if only for the next run.
func TestReplacingIsKilled(t *testing.T) {
	forEachFault(t, true, func(t *testing.T, d *faulty) bool {
		dir := t.TempDir()
		save(t, dir, Options{files: sound()}, 1, 2)
		run := must(OpenRun(dir, Options{Keep: 2, files: sound()}))
		run.files, run.options.files = d, d
		again := sampleSnapshot(2)
		_, err := run.Save(again)
		run.Close()
		newest(t, dir)
		must(OpenRun(dir, Options{files: sound()})).Close()
		if got := names(t, dir); newest(t, dir) != 2 || !slices.Equal(got, []string{stepName(1), stepName(2)}) {
			t.Errorf("%q is left", got)
		}
		return err == nil
	})
}

// Everything is on the disk before it gets its name, and has its name before
// anything else goes.
func TestOrderOfSaving(t *testing.T) {
	dir := t.TempDir()
	d := sound()
	save(t, dir, Options{Keep: 1, ShardBytes: 4000}, 1)
	save(t, dir, Options{Keep: 1, ShardBytes: 4000, files: d}, 2)
	final := filepath.Join(dir, stepName(2))
	published := slices.IndexFunc(d.log, func(s string) bool { return strings.HasPrefix(s, "rename ") && strings.HasSuffix(s, " "+final) })
	if published < 0 {
		t.Fatalf("nothing got the name %s: %q", final, d.log)
	}
	hidden := strings.Fields(d.log[published])[1]
	before, after := d.log[:published], d.log[published+1:]
	last := func(operation, path string) int {
		for i, s := range slices.Backward(before) {
			if s == operation+" "+path {
				return i
			}
		}
		return -1
	}
	created := 0
	for _, s := range before {
		if path, ok := strings.CutPrefix(s, "create "); ok {
			created++
			if synced := last("sync", path); synced < last("write", path) || synced < 0 || last("close", path) < synced {
				t.Errorf("%s gets its name before it is on the disk", path)
			}
		}
	}
	if created != 7 || before[len(before)-1] != "syncdir "+hidden {
		t.Errorf("%d files, and then %q before the name", created, before[len(before)-1])
	}
	if len(after) != 3 || after[0] != "syncdir "+dir || !strings.HasPrefix(after[1], "rename "+filepath.Join(dir, stepName(1))) || !strings.HasPrefix(after[2], "remove ") {
		t.Errorf("what follows is %q", after)
	}
}

// What may not be written to is said to be so.
func TestReadOnly(t *testing.T) {
	dir := t.TempDir()
	save(t, dir, Options{}, 1)
	for _, cause := range []error{syscall.EROFS, syscall.EACCES} {
		_, err := Save(dir, sampleSnapshot(2), Options{files: &faulty{operations: 1, bytes: -1, err: &fs.PathError{Op: "mkdir", Path: dir, Err: cause}}})
		if !errors.Is(err, cause) || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "choose a directory that can be written to") {
			t.Errorf("error %v", err)
		}
	}
	if newest(t, dir) != 1 {
		t.Error("the last checkpoint is gone")
	}
}

func TestReadOnlyDirectory(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root may write everywhere")
	}
	dir := t.TempDir()
	save(t, dir, Options{}, 1)
	if err := os.Chmod(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(dir, 0o777) })
	if _, err := Save(dir, sampleSnapshot(2), Options{}); !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "choose a directory") {
		t.Errorf("error %v", err)
	}
	if newest(t, dir) != 1 {
		t.Error("the last checkpoint is gone")
	}
}

func TestRunDirectoryIsAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenRun(path, Options{}); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v", err)
	}
}
