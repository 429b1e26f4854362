package checkpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// formatVersion is written into every manifest. A reader refuses those that
// are newer; all older ones stay readable.
const formatVersion = 1

const (
	manifestName = "manifest.json"
	modelName    = "model.onnx"
	stateName    = "state.json"

	maxManifest = 64 << 20
)

// manifest lists what a checkpoint is made of.
type manifest struct {
	Format    int         `json:"format"`
	Step      int64       `json:"step"`
	Model     fileEntry   `json:"model"`
	State     fileEntry   `json:"state"`
	Weights   []fileEntry `json:"weights"`
	Optimizer []fileEntry `json:"optimizer"`
}

// fileEntry is a file of a checkpoint. Its checksum is CRC-32C, which
// processors compute faster than any disk reads, so that everything can be
// checked on every start. It finds accidents; against forgery it is no help,
// but neither would be a digest that lies beside the data.
type fileEntry struct {
	Name   string   `json:"name"`
	Bytes  int64    `json:"bytes"`
	CRC32C checksum `json:"crc32c"`
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum is written as eight hexadecimal digits.
type checksum uint32

func (c checksum) String() string { return fmt.Sprintf("%08x", uint32(c)) }

// MarshalText implements encoding.TextMarshaler.
func (c checksum) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (c *checksum) UnmarshalText(b []byte) error {
	v, err := strconv.ParseUint(string(b), 16, 32)
	if err != nil || len(b) != 8 {
		return fmt.Errorf("%q is not a CRC-32C of eight hexadecimal digits", b)
	}
	*c = checksum(v)
	return nil
}

func (m *manifest) files() []fileEntry {
	return append(append([]fileEntry{m.Model, m.State}, m.Weights...), m.Optimizer...)
}

// DamageError says what is wrong with a checkpoint.
type DamageError struct {
	Path string // of the checkpoint
	File string // the file within it that is damaged or missing
	Err  error
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("checkpoint %s is damaged: %s: %v", e.Path, e.File, e.Err)
}

// Unwrap returns what is wrong with the file.
func (e *DamageError) Unwrap() error { return e.Err }

// readManifest reads the manifest of the checkpoint at path.
func readManifest(path string) (*manifest, error) {
	text, err := readRegular(filepath.Join(path, manifestName), maxManifest)
	if err != nil {
		return nil, &DamageError{path, manifestName, err}
	}
	m, err := parseManifest(text)
	if step, ok := stepOf(filepath.Base(path)); err == nil && ok && step != m.Step {
		err = fmt.Errorf("its step is %d, not that of the directory's name", m.Step)
	}
	if err != nil {
		return nil, &DamageError{path, manifestName, err}
	}
	return m, nil
}

// measure makes sure that files of the checkpoint at path are there and have
// the right sizes.
func measure(path string, files []fileEntry) error {
	for _, f := range files {
		info, err := os.Stat(filepath.Join(path, f.Name))
		switch {
		case err != nil:
		case !info.Mode().IsRegular():
			err = errors.New("it is not a regular file")
		case info.Size() != f.Bytes:
			err = fmt.Errorf("it has %d bytes, not the %d that were written", info.Size(), f.Bytes)
		}
		if err != nil {
			return &DamageError{path, f.Name, err}
		}
	}
	return nil
}

func parseManifest(text []byte) (*manifest, error) {
	var version struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(text, &version); err != nil {
		return nil, err
	}
	if version.Format > formatVersion {
		return nil, fmt.Errorf("its format is %d, this program knows those up to %d: use a newer one", version.Format, formatVersion)
	}
	var m manifest
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields() // a name that is damaged must not hide what it names
	if err := d.Decode(&m); err != nil {
		return nil, err
	}
	if m.Format < 1 || m.Step < 0 {
		return nil, fmt.Errorf("format %d and step %d cannot be", m.Format, m.Step)
	}
	seen := make(map[string]bool)
	for _, f := range m.files() {
		if f.Name == "" || !filepath.IsLocal(f.Name) || filepath.Base(f.Name) != f.Name || strings.ContainsAny(f.Name, "/\\\x00") || seen[f.Name] {
			return nil, fmt.Errorf("%q cannot be one of a checkpoint's files", f.Name)
		}
		seen[f.Name] = true
	}
	return &m, nil
}

// verify measures files of the checkpoint at path, reads them and compares their
// checksums.
func verify(path string, files []fileEntry) error {
	if err := measure(path, files); err != nil {
		return err
	}
	buffer := make([]byte, 1<<20)
	for _, f := range files {
		sum, err := sumFile(filepath.Join(path, f.Name), buffer)
		if err == nil && sum != f.CRC32C {
			err = fmt.Errorf("its checksum is %s, not the %s that was written", sum, f.CRC32C)
		}
		if err != nil {
			return &DamageError{path, f.Name, err}
		}
	}
	return nil
}

func sumFile(path string, buffer []byte) (checksum, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	sum := uint32(0)
	for {
		n, err := f.Read(buffer)
		sum = crc32.Update(sum, castagnoli, buffer[:n])
		if err == io.EOF {
			return checksum(sum), nil
		}
		if err != nil {
			return 0, err
		}
	}
}

// readRegular reads a small file whole.
func readRegular(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > limit {
		return nil, fmt.Errorf("it is not a regular file of at most %d bytes", limit)
	}
	return os.ReadFile(path)
}

var stepPattern = regexp.MustCompile(`^step-([0-9]{8,19})$`)

func stepName(step int64) string { return fmt.Sprintf("step-%08d", step) }

// stepOf returns the step of a checkpoint's directory name.
func stepOf(name string) (int64, bool) {
	found := stepPattern.FindStringSubmatch(name)
	if found == nil {
		return 0, false
	}
	step, err := strconv.ParseInt(found[1], 10, 64)
	return step, err == nil && stepName(step) == name
}
