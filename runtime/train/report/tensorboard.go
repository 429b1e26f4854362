package report

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// TensorBoard is a sink that writes event files, which TensorBoard shows: a
// sequence of TFRecords, each an Event of tensorflow/core/util/event.proto.
type TensorBoard struct {
	file appender
	now  func() time.Time
	data []byte // that is written next
}

// NewTensorBoard begins an event file in a directory, which is made where it
// is not there, for a run that begins or goes on after a step. TensorBoard
// forgets what earlier files in the directory have of later steps.
func NewTensorBoard(dir string, step int64) (*TensorBoard, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := createEvents(dir, time.Now())
	if err != nil {
		return nil, err
	}
	t := &TensorBoard{file: appender{file: f}, now: time.Now}
	if err := t.begin(step); err != nil {
		f.Close()
		return nil, err
	}
	return t, nil
}

const eventsPrefix = "events.out.tfevents."

// createEvents creates a file whose name is behind those of all others in the
// directory, as TensorBoard reads them in the order of their names.
func createEvents(dir string, now time.Time) (*os.File, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	seconds := now.Unix()
	for _, e := range entries {
		if rest, ok := strings.CutPrefix(e.Name(), eventsPrefix); ok {
			number, _, _ := strings.Cut(rest, ".")
			if n, err := strconv.ParseInt(number, 10, 64); err == nil && n < math.MaxInt32 {
				seconds = max(seconds, n+1)
			}
		}
	}
	for {
		f, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf("%s%010d.fmoe", eventsPrefix, seconds)), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if !errors.Is(err, fs.ErrExist) {
			return f, err
		}
		seconds++ // another run created it meanwhile
	}
}

// Fields of the messages Event, Summary, Summary.Value and SessionLog.
const (
	eventWallTime    = 1
	eventStep        = 2
	eventFileVersion = 3
	eventSummary     = 5
	eventSessionLog  = 7

	summaryValue = 1

	valueTag    = 1
	valueSimple = 2

	sessionStatus = 1
	sessionStart  = 1
)

// begin writes what a file begins with. The start of a session at a step is
// what TensorBoard forgets later steps of earlier files by.
func (t *TensorBoard) begin(step int64) error {
	t.event(0, func(b []byte) []byte {
		b = protowire.AppendTag(b, eventFileVersion, protowire.BytesType)
		return protowire.AppendString(b, "brain.Event:2")
	})
	t.event(step+1, func(b []byte) []byte {
		session := protowire.AppendTag(nil, sessionStatus, protowire.VarintType)
		session = protowire.AppendVarint(session, sessionStart)
		b = protowire.AppendTag(b, eventSessionLog, protowire.BytesType)
		return protowire.AppendBytes(b, session)
	})
	return t.flush()
}

// Step implements [Sink].
func (t *TensorBoard) Step(s Step) error {
	v := scalars{}
	v.add("loss/training", s.Loss)
	v.add("loss/balance", s.BalanceLoss)
	v.add("loss/z", s.ZLoss)
	v.add("loss/total", s.Total)
	v.add("optimizer/gradient_norm", s.GradientNorm)
	for _, group := range slices.Sorted(maps.Keys(s.LearningRates)) {
		v.add("learning_rate/"+group, s.LearningRates[group])
	}
	v.add("optimizer/skipped_steps", Number(s.Skipped))
	v.add("speed/tokens_per_second", s.TokensPerSecond)
	v.add("speed/tokens", Number(s.Tokens))
	v.add("speed/memory_bytes", Number(s.Memory))
	for _, l := range s.Layers {
		name := strings.Trim(l.Name, "/")
		v.add("load_variation/"+name, l.Variation)
		v.add("load_entropy/"+name, l.Evenness)
		v.add("dropped/"+name, l.Dropped)
		v.add("balance_loss/"+name, l.BalanceLoss)
		v.add("z_loss/"+name, l.ZLoss)
	}
	return t.write(s.Step, v)
}

// Evaluation implements [Sink].
func (t *TensorBoard) Evaluation(e Evaluation) error {
	v := scalars{}
	v.add("loss/held_out", e.Loss)
	v.add("perplexity/held_out", e.Perplexity)
	return t.write(e.Step, v)
}

// Close implements [Sink].
func (t *TensorBoard) Close() error { return t.file.close() }

// scalars is a Summary.
type scalars []byte

// add appends a value, unless it is not a number.
func (s *scalars) add(tag string, x Number) {
	if math.IsNaN(float64(x)) {
		return
	}
	value := protowire.AppendTag(nil, valueTag, protowire.BytesType)
	value = protowire.AppendString(value, tag)
	value = protowire.AppendTag(value, valueSimple, protowire.Fixed32Type)
	value = protowire.AppendFixed32(value, math.Float32bits(float32(x)))
	*s = protowire.AppendTag(*s, summaryValue, protowire.BytesType)
	*s = protowire.AppendBytes(*s, value)
}

func (t *TensorBoard) write(step int64, s scalars) error {
	t.event(step, func(b []byte) []byte {
		b = protowire.AppendTag(b, eventSummary, protowire.BytesType)
		return protowire.AppendBytes(b, s)
	})
	return t.flush()
}

// event appends an event to what is written next.
func (t *TensorBoard) event(step int64, what func([]byte) []byte) {
	e := protowire.AppendTag(nil, eventWallTime, protowire.Fixed64Type)
	e = protowire.AppendFixed64(e, math.Float64bits(float64(t.now().UnixMicro())/1e6))
	if step != 0 {
		e = protowire.AppendTag(e, eventStep, protowire.VarintType)
		e = protowire.AppendVarint(e, uint64(step))
	}
	t.data = appendTFRecord(t.data, what(e))
}

func (t *TensorBoard) flush() error {
	err := t.file.append(t.data)
	t.data = t.data[:0]
	return err
}

// appendTFRecord appends the length of data, a checksum of the length, data
// and its checksum.
func appendTFRecord(b, data []byte) []byte {
	start := len(b)
	b = binary.LittleEndian.AppendUint64(b, uint64(len(data)))
	b = binary.LittleEndian.AppendUint32(b, maskedCRC(b[start:]))
	b = append(b, data...)
	return binary.LittleEndian.AppendUint32(b, maskedCRC(data))
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// maskedCRC is CRC-32C in the form that TFRecords have.
func maskedCRC(data []byte) uint32 {
	crc := crc32.Checksum(data, castagnoli)
	return (crc>>15 | crc<<17) + 0xa282ead8
}
