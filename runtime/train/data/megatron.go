package data

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"

	"github.com/fmoe-go/fmoe/internal/memory"
	"github.com/fmoe-go/fmoe/onnx"
)

// Megatron-LM's indexed dataset, version 1, is two files of little-endian
// numbers. NAME.bin has the tokens of all sequences. NAME.idx has
//
//	9 bytes           "MMIDIDX\x00\x00"
//	uint64            version
//	uint8             code of the tokens' element type
//	uint64            n, the number of sequences
//	uint64            m, one more than the number of documents
//	int32 [n]         length of each sequence in tokens
//	int64 [n]         where each begins in NAME.bin, in bytes
//	int64 [m]         the sequence that each document begins with, and last n
//	int8 [n]          modes of the sequences, in multimodal data only
const (
	indexMagic   = "MMIDIDX\x00\x00"
	indexVersion = 1
	indexHeader  = len(indexMagic) + 8 + 1 + 8 + 8
)

// indexTypes has the codes of element types. 6 and 7 are floats.
var indexTypes = map[byte]onnx.DataType{
	1: onnx.Uint8, 2: onnx.Int8, 3: onnx.Int16, 4: onnx.Int32, 5: onnx.Int64, 8: onnx.Uint16,
}

// index is an .idx file.
type index struct {
	elements  onnx.DataType
	lengths   []byte
	pointers  []byte
	documents []byte
}

// parseIndex reads an .idx file for a .bin file of so many bytes, and checks
// that sequences follow one another, as Megatron writes them, and fill the
// .bin file.
func parseIndex(file []byte, binSize int) (*index, error) {
	if len(file) < indexHeader || string(file[:len(indexMagic)]) != indexMagic {
		if strings.HasPrefix(string(file[:min(len(file), 6)]), "TNTIDX") {
			return nil, errors.New("is in the older format TNTIDX; preprocess the data with dataset-impl mmap")
		}
		return nil, errors.New("is not the index of a Megatron dataset")
	}
	rest := file[len(indexMagic):]
	next := func() uint64 {
		v := binary.LittleEndian.Uint64(rest)
		rest = rest[8:]
		return v
	}
	if v := next(); v != indexVersion {
		return nil, fmt.Errorf("has version %d of the format; %d is known", v, indexVersion)
	}
	x := &index{elements: indexTypes[rest[0]]}
	if x.elements == onnx.Undefined {
		return nil, fmt.Errorf("has elements of type code %d; tokens are integers: 1 … 5 or 8", rest[0])
	}
	rest = rest[1:]
	n, m := next(), next()
	have := uint64(len(rest))
	if n > have/12 || m > (have-12*n)/8 {
		return nil, fmt.Errorf("ends before its %d sequences and %d documents; copy it again", n, m)
	}
	if left := have - 12*n - 8*m; left != 0 && left != n {
		return nil, fmt.Errorf("has %d bytes too many", left)
	}
	x.lengths, rest = rest[:4*n], rest[4*n:]
	x.pointers, rest = rest[:8*n], rest[8*n:]
	x.documents = rest[:8*m]
	return x, x.check(int(n), int(m), binSize)
}

func (x *index) check(n, m, binSize int) error {
	width, at := int64(x.elements.Bits()/8), int64(0)
	for i := range n {
		length, pointer := int32(binary.LittleEndian.Uint32(x.lengths[4*i:])), int64At(x.pointers, i)
		if length < 0 || pointer != at || int64(length)*width > math.MaxInt64-at {
			return fmt.Errorf("sequence %d has %d tokens at byte %d, and the one before ends at %d; write the dataset again", i, length, pointer, at)
		}
		at += int64(length) * width
	}
	if at != int64(binSize) {
		return fmt.Errorf("its sequences have %d bytes, and the .bin file has %d; the two do not belong together, or one is cut off", at, binSize)
	}
	if m == 0 || int64At(x.documents, 0) != 0 || int64At(x.documents, m-1) != int64(n) {
		return fmt.Errorf("its documents do not begin with sequence 0 and end with sequence %d", n)
	}
	for i := 1; i < m; i++ {
		if int64At(x.documents, i) < int64At(x.documents, i-1) {
			return fmt.Errorf("document %d ends before it begins", i-1)
		}
	}
	return nil
}

func int64At(b []byte, i int) int64 { return int64(binary.LittleEndian.Uint64(b[8*i:])) }

// start returns the number of tokens before a document.
func (x *index) start(document int) int {
	sequence := int(int64At(x.documents, document))
	width := x.elements.Bits() / 8
	if sequence == 0 {
		return 0
	}
	last := sequence - 1
	return int(int64At(x.pointers, last))/width + int(binary.LittleEndian.Uint32(x.lengths[4*last:]))
}

// megatronName returns the common name of the two files.
func megatronName(path string) string {
	return strings.TrimSuffix(strings.TrimSuffix(path, ".bin"), ".idx")
}

func openMegatron(path string, o Options) (Source, error) {
	name := megatronName(path)
	idx, err := memory.MapFile(name+".idx", os.Stat, os.Open)
	if err != nil {
		return nil, fmt.Errorf("a Megatron dataset has two files, .bin and .idx: %w", err)
	}
	bin, err := memory.MapFile(name+".bin", os.Stat, os.Open)
	if err != nil {
		idx.Close()
		return nil, fmt.Errorf("a Megatron dataset has two files, .bin and .idx: %w", err)
	}
	c := &corpus{path: name + ".bin", data: bin.Bytes, limit: newLimit(o.Vocabulary),
		close: func() error { return errors.Join(idx.Close(), bin.Close()) }}
	x, err := parseIndex(idx.Bytes, len(bin.Bytes))
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("%s.idx: %w", name, err)
	}
	c.elements, c.documents, c.start = x.elements, len(x.documents)/8-1, x.start
	return endedOrClosed(c, o.end())
}
