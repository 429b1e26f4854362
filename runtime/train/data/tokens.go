package data

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/fmoe-go/fmoe/onnx"
)

// corpus is a Source whose tokens lie in memory or in a mapped file, one after
// the other.
type corpus struct {
	path      string
	elements  onnx.DataType // an integer type, little-endian
	data      []byte
	documents int
	start     func(i int) int
	limit     uint64 // tokens are below
	close     func() error
}

func newLimit(vocabulary int) uint64 {
	if vocabulary > 0 {
		return uint64(vocabulary)
	}
	return math.MaxInt32 + 1
}

func (c *corpus) Documents() int { return c.documents }

func (c *corpus) Start(i int) int { return c.start(i) }

func (c *corpus) Close() error {
	if c.close == nil {
		return nil
	}
	c.data = nil
	return c.close()
}

func (c *corpus) Read(buffer []int32, at int) error {
	width := c.elements.Bits() / 8
	if err := checkRange(c, at, len(buffer)); err != nil {
		return fmt.Errorf("%s: %w", c.path, err)
	}
	raw := c.data[at*width:]
	for i := range buffer {
		v := integer(raw[i*width:], c.elements)
		if v >= c.limit {
			document := documentOf(c, at+i)
			return fmt.Errorf("%s: token %d of document %d is %d, needs 0 … %d; the data must be tokenised for this model",
				c.path, at+i-c.Start(document), document, int64(v), c.limit-1)
		}
		buffer[i] = int32(v)
	}
	return nil
}

// integer reads an element. Negative numbers become large ones.
func integer(raw []byte, t onnx.DataType) uint64 {
	switch t {
	case onnx.Uint8:
		return uint64(raw[0])
	case onnx.Int8:
		return uint64(int8(raw[0]))
	case onnx.Uint16:
		return uint64(binary.LittleEndian.Uint16(raw))
	case onnx.Int16:
		return uint64(int16(binary.LittleEndian.Uint16(raw)))
	case onnx.Uint32:
		return uint64(binary.LittleEndian.Uint32(raw))
	case onnx.Int32:
		return uint64(int32(binary.LittleEndian.Uint32(raw)))
	}
	return binary.LittleEndian.Uint64(raw)
}

// isInteger reports whether integer reads elements of this type.
func isInteger(t onnx.DataType) bool {
	switch t {
	case onnx.Uint8, onnx.Int8, onnx.Uint16, onnx.Int16, onnx.Uint32, onnx.Int32, onnx.Uint64, onnx.Int64:
		return true
	}
	return false
}

// narrowest returns the element type for so many different tokens.
func narrowest(size int) onnx.DataType {
	switch {
	case size <= 1<<8:
		return onnx.Uint8
	case size <= 1<<16:
		return onnx.Uint16
	}
	return onnx.Int32
}

// appendTokens appends tokens as elements of a type that narrowest returns.
func appendTokens(data []byte, t onnx.DataType, tokens []int32) []byte {
	for _, token := range tokens {
		switch t {
		case onnx.Uint8:
			data = append(data, byte(token))
		case onnx.Uint16:
			data = binary.LittleEndian.AppendUint16(data, uint16(token))
		default:
			data = binary.LittleEndian.AppendUint32(data, uint32(token))
		}
	}
	return data
}
