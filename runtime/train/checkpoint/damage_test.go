package checkpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// Every file of a checkpoint that is damaged in any way is named. Open goes no
// further, Newest takes the checkpoint before it and says so.
func TestDamage(t *testing.T) {
	for _, file := range []string{manifestName, modelName, stateName, "weights-00002-of-00004.safetensors", "optimizer-00004-of-00004.safetensors"} {
		for _, c := range []struct {
			name   string
			damage func(path string) error
			want   string
		}{
			{"a flipped bit", func(path string) error { flip(t, path); return nil }, "its checksum is"},
			{"a cut end", func(path string) error { return os.Truncate(path, 10) }, "it has 10 bytes, not the"},
			{"an empty file", func(path string) error { return os.Truncate(path, 0) }, "it has 0 bytes"},
			{"no file", os.Remove, "no such file"},
			{"a directory in its place", func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o777)) }, "not a regular file"},
		} {
			if file == manifestName && c.name == "a flipped bit" {
				continue // see TestDamagedManifest
			}
			t.Run(file+"/"+c.name, func(t *testing.T) {
				dir := t.TempDir()
				save(t, dir, Options{ShardBytes: 1, files: sound()}, 1, 2)
				path := filepath.Join(dir, stepName(2))
				if err := c.damage(filepath.Join(path, file)); err != nil {
					t.Fatal(err)
				}
				want := c.want
				if file == manifestName && !strings.Contains(want, "file") {
					want = "" // its JSON is damaged in one way or another
				}
				for place, hint := range map[string]bool{path: false, dir: true} {
					_, err := Open(place)
					damage, ok := errors.AsType[*DamageError](err)
					if !ok || damage.Path != path || damage.File != file || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), file) {
						t.Errorf("%s: error %v, not one of %s with %q", place, err, file, want)
					}
					if err != nil && strings.Contains(err.Error(), stepName(1)+" is intact: name it") != hint {
						t.Errorf("%s: error %v, the checkpoint before it is to be named: %t", place, err, hint)
					}
				}
				got, damaged, err := Newest(dir)
				if err != nil {
					t.Fatal(err)
				}
				defer got.Close()
				if got.Step() != 1 || len(damaged) != 1 || !strings.Contains(damaged[0].Error(), file) || checkSample(got) != nil {
					t.Errorf("step %d, damaged: %v", got.Step(), damaged)
				}
			})
		}
	}
}

// A manifest of which any bit is flipped is found to be damaged, or says the
// same as before.
func TestDamagedManifest(t *testing.T) {
	dir := t.TempDir()
	save(t, dir, Options{files: sound()}, 1)
	path := filepath.Join(dir, stepName(1))
	text := must(os.ReadFile(filepath.Join(path, manifestName)))
	want := must(parseManifest(text))
	for i := range 8 * len(text) {
		damaged := bytes.Clone(text)
		damaged[i/8] ^= 1 << (i % 8)
		if got, err := parseManifest(damaged); err != nil || reflect.DeepEqual(got, want) {
			continue
		}
		if err := os.WriteFile(filepath.Join(path, manifestName), damaged, 0o666); err != nil {
			t.Fatal(err)
		}
		if c, err := Open(path); err == nil {
			t.Errorf("%q instead of %q in its place %d is not found out", damaged[i/8], text[i/8], i/8)
			c.Close()
		}
	}
}

func TestNewest(t *testing.T) {
	dir := t.TempDir()
	if _, damaged, err := Newest(dir); !errors.Is(err, ErrNone) || len(damaged) != 0 {
		t.Errorf("an empty directory: %v, %v", damaged, err)
	}
	for _, name := range []string{"step-1", "step-00000001x", "step-000000009", ".step-00000009.tmp-0123456789abcdef", "notes"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := Newest(dir); !errors.Is(err, ErrNone) {
		t.Errorf("other directories are taken for checkpoints: %v", err)
	}
	save(t, dir, Options{}, 99999999, math.MaxInt64) // more digits than the others
	if got := newest(t, dir); got != math.MaxInt64 {
		t.Errorf("the newest is %d", got)
	}
	for _, step := range []int64{99999999, math.MaxInt64} {
		flip(t, filepath.Join(dir, stepName(step), stateName))
	}
	if _, damaged, err := Newest(dir); err == nil || errors.Is(err, ErrNone) || len(damaged) != 2 || !strings.Contains(err.Error(), "no checkpoint in "+dir+" is intact") {
		t.Errorf("all are damaged: %v, %v", damaged, err)
	}
	if _, err := Open(dir); err == nil || strings.Contains(err.Error(), "name it") {
		t.Errorf("error %v offers a damaged checkpoint", err)
	}
}

// What was not verified is found out on request.
func TestOpenUnverified(t *testing.T) {
	dir := t.TempDir()
	save(t, dir, Options{}, 1)
	flip(t, filepath.Join(dir, stepName(1), "optimizer-00001-of-00001.safetensors"))
	c, err := OpenUnverified(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Verify(); err == nil || !strings.Contains(err.Error(), "optimizer-00001-of-00001.safetensors: its checksum") {
		t.Errorf("error %v", err)
	}
}

// Manifests that nobody wrote are refused, whatever they say.
func TestHostileManifest(t *testing.T) {
	file := func(name string) string { return fmt.Sprintf(`{"name":%q,"bytes":1,"crc32c":"00000000"}`, name) }
	manifest := func(format, step, model, state, rest string) string {
		return fmt.Sprintf(`{"format":%s,"step":%s,"model":%s,"state":%s%s}`, format, step, model, state, rest)
	}
	for _, c := range []struct{ name, text, want string }{
		{"nothing", ``, "unexpected end"},
		{"an empty object", `{}`, "format 0"},
		{"a newer format", manifest("2", "1", file("m"), file("s"), `,"weights":"in a new way"`), "use a newer one"},
		{"a negative step", manifest("1", "-1", file("m"), file("s"), ""), "step -1"},
		{"another step", manifest("1", "2", file("m"), file("s"), ""), "its step is 2, not that of the directory's name"},
		{"no model", manifest("1", "1", `{}`, file("s"), ""), `"" cannot be one`},
		{"a path outside", manifest("1", "1", file("../m"), file("s"), ""), `"../m" cannot be one`},
		{"an absolute path", manifest("1", "1", file("/etc/passwd"), file("s"), ""), "cannot be one"},
		{"the directory above", manifest("1", "1", file(".."), file("s"), ""), "cannot be one"},
		{"the directory itself", manifest("1", "1", file("."), file("s"), ""), "not a regular file"},
		{"one file twice", manifest("1", "1", file("m"), file("m"), ""), `"m" cannot be one`},
		{"a checksum of words", manifest("1", "1", `{"name":"m","bytes":1,"crc32c":"sum"}`, file("s"), ""), "eight hexadecimal digits"},
		{"a negative size", manifest("1", "1", `{"name":"m","bytes":-1,"crc32c":"00000000"}`, file("s"), ""), "no such file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), stepName(1))
			if err := errors.Join(os.Mkdir(path, 0o777), os.WriteFile(filepath.Join(path, manifestName), []byte(c.text), 0o666)); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(path); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("error %v, not one with %q and the path", err, c.want)
			}
		})
	}
}

// Shards that are intact, but not those of a checkpoint, are refused.
func TestHostileShards(t *testing.T) {
	dir := t.TempDir()
	save(t, dir, Options{ShardBytes: 1}, 1)
	path := filepath.Join(dir, stepName(1))
	replace := func(name string, content []byte) {
		t.Helper()
		text := must(os.ReadFile(filepath.Join(path, manifestName)))
		var list manifest
		if err := json.Unmarshal(text, &list); err != nil {
			t.Fatal(err)
		}
		for _, section := range [][]fileEntry{list.Weights, list.Optimizer} {
			for i := range section {
				if section[i].Name == name {
					section[i].Bytes, section[i].CRC32C = int64(len(content)), checksum(crc32.Checksum(content, castagnoli))
				}
			}
		}
		if err := errors.Join(os.WriteFile(filepath.Join(path, name), content, 0o666), os.WriteFile(filepath.Join(path, manifestName), must(json.Marshal(list)), 0o666)); err != nil {
			t.Fatal(err)
		}
	}
	const first, second = "weights-00001-of-00004.safetensors", "weights-00002-of-00004.safetensors"
	content := must(os.ReadFile(filepath.Join(path, second)))
	replace(second, must(os.ReadFile(filepath.Join(path, first))))
	if _, err := Open(path); err == nil || !strings.Contains(err.Error(), second) || !strings.Contains(err.Error(), first) {
		t.Errorf("one shard twice: error %v", err)
	}
	replace(second, bytes.Repeat([]byte{1}, 100))
	if _, err := Open(path); err == nil || !strings.Contains(err.Error(), second) || !strings.Contains(err.Error(), "cut short") {
		t.Errorf("a shard that is none: error %v", err)
	}
	replace(second, content)
	if c, err := Open(path); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
}

// FuzzManifest looks for a panic, and for names that lead out of a checkpoint.
func FuzzManifest(f *testing.F) {
	f.Add(must(os.ReadFile("testdata/golden/step-00000042/manifest.json")))
	f.Add([]byte(`{"format":1,"step":1,"model":{"name":"../m"},"weights":[{"name":"C:x","crc32c":"0"}]}`))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := parseManifest(text)
		if err != nil {
			return
		}
		for _, file := range m.files() {
			if filepath.Dir(filepath.Join(dir, file.Name)) != dir && file.Name != "." {
				t.Errorf("%q leads out of the checkpoint", file.Name)
			}
		}
		if again, err := parseManifest(must(json.Marshal(m))); err != nil || !slices.Equal(m.files(), again.files()) {
			t.Errorf("written and read, it is another: %v", err)
		}
	})
}
