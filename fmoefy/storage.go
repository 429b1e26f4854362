package fmoefy

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// Storage says how experts' weights are stored. Computing with few tokens
// takes as long as reading the weights does.
type Storage string

// The storages.
const (
	StoreFloat32  Storage = "float32"
	StoreFloat16  Storage = "float16"
	StoreBFloat16 Storage = "bfloat16"
	StoreInt8     Storage = "int8" // integers with a scale for each block of a row
	StoreInt4     Storage = "int4"
)

// Storages lists every storage.
var Storages = []Storage{StoreFloat32, StoreFloat16, StoreBFloat16, StoreInt8, StoreInt4}

// shortStorages are the short names of storages.
var shortStorages = map[Storage]Storage{"f32": StoreFloat32, "f16": StoreFloat16, "bf16": StoreBFloat16}

// completeStorage fills in the defaults of how weights are stored.
func (o *Options) completeStorage() error {
	if long, ok := shortStorages[o.ExpertWeights]; ok {
		o.ExpertWeights = long
	}
	names := make([]string, len(Storages))
	for i, s := range Storages {
		names[i] = string(s)
	}
	switch quantized := o.ExpertWeights == StoreInt8 || o.ExpertWeights == StoreInt4; {
	case o.ExpertWeights != "" && !slices.Contains(Storages, o.ExpertWeights):
		return fmt.Errorf("storage %q of experts' weights is not known; there are %v", o.ExpertWeights, names)
	case o.BlockSize != 0 && !quantized:
		return fmt.Errorf("a block size needs experts' weights of int8 or int4")
	case !quantized:
		return nil
	}
	setDefault(&o.BlockSize, moe.DefaultBlock)
	return o.quantization().Check()
}

// quantization is zero where experts' weights are floating-point.
func (o Options) quantization() moe.Quantization {
	switch o.ExpertWeights {
	case StoreInt8:
		return moe.Quantization{Bits: 8, Block: o.BlockSize}
	case StoreInt4:
		return moe.Quantization{Bits: 4, Block: o.BlockSize}
	}
	return moe.Quantization{}
}

// storage is how the weights of a block's experts are stored.
type storage struct {
	elementType onnx.DataType // uint8 where they are quantised
	moe.Quantization
}

// String returns "bfloat16" or "int4x32".
func (s storage) String() string {
	if s.Bits == 0 {
		return s.elementType.String()
	}
	return fmt.Sprintf("int%dx%d", s.Bits, s.Block)
}

// storageOf returns how the weights of experts that compute in type t are
// stored.
func (o Options) storageOf(t onnx.DataType) (storage, error) {
	switch q := o.quantization(); {
	case o.ExpertWeights == "" || o.ExpertWeights == Storage(t.String()):
		return storage{elementType: t}, nil
	case t == onnx.Float64 || o.ExpertWeights == StoreFloat32:
		return storage{}, fmt.Errorf("it computes in %s, its experts' weights cannot be %s", t, o.ExpertWeights)
	case q.Bits != 0:
		return storage{onnx.Uint8, q}, nil
	case o.ExpertWeights == StoreFloat16:
		return storage{elementType: onnx.Float16}, nil
	}
	return storage{elementType: onnx.BFloat16}, nil
}

// store returns the tensors in which a weight [experts, out, in] is stored,
// scales being nil where it is not quantised. They hold the given number of
// copies of its experts.
func (s storage) store(name, scalesName string, weight *onnx.Tensor, times int) (stored, scales *onnx.Tensor) {
	experts, out, in := weight.Dims[0]*int64(times), weight.Dims[1], weight.Dims[2]
	if s.Bits == 0 {
		stored = &onnx.Tensor{Name: name, DataType: s.elementType, Dims: []int64{experts, out, in}}
		stored.SetSource(&encodedRows{weight, times, s.elementType.Bits() / 8 * int(in), func(row []float32, to []byte) {
			tensor.ConvertFloat(&tensor.Tensor{Type: s.elementType, Shape: []int{len(row)}, Data: to}, tensor.FromSlice(row, len(row)))
		}})
		return stored, nil
	}
	blocks := s.Blocks(int(in))
	stored = &onnx.Tensor{Name: name, DataType: onnx.Uint8, Dims: []int64{experts, out, int64(blocks), int64(s.BlockBytes())}}
	stored.SetSource(&encodedRows{weight, times, blocks * s.BlockBytes(), func(row []float32, to []byte) {
		s.Quantize(row, to, make([]float32, blocks))
	}})
	scales = &onnx.Tensor{Name: scalesName, DataType: onnx.Float32, Dims: []int64{experts, out, int64(blocks)}}
	scales.SetSource(&encodedRows{weight, times, 4 * blocks, func(row []float32, to []byte) {
		list := make([]float32, blocks)
		s.Scales(row, list)
		for i, x := range list {
			binary.LittleEndian.PutUint32(to[4*i:], math.Float32bits(x))
		}
	}})
	return stored, scales
}

// encodedRows is the source of a tensor that is made of another's rows, one by
// one, all of it several times.
type encodedRows struct {
	tensor   *onnx.Tensor
	times    int
	rowBytes int
	encode   func(row []float32, to []byte)
}

func (s *encodedRows) rows() int64 {
	n := int64(1)
	for _, d := range s.tensor.Dims[:len(s.tensor.Dims)-1] {
		n *= d
	}
	return n
}

func (s *encodedRows) Size() int64 { return s.rows() * int64(s.rowBytes) * int64(s.times) }

// WriteTo implements [onnx.Source]. What is written several times is encoded
// once.
func (s *encodedRows) WriteTo(w io.Writer) (int64, error) {
	if s.times == 1 {
		e := &rowEncoder{source: s, w: w}
		_, err := s.tensor.WriteTo(e)
		return e.written, err
	}
	all := make(sliceWriter, 0, s.rows()*int64(s.rowBytes))
	if _, err := s.tensor.WriteTo(&rowEncoder{source: s, w: &all}); err != nil {
		return 0, err
	}
	written := int64(0)
	for range s.times {
		n, err := w.Write(all)
		if written += int64(n); err != nil {
			return written, err
		}
	}
	return written, nil
}

type sliceWriter []byte

func (s *sliceWriter) Write(p []byte) (int, error) {
	*s = append(*s, p...)
	return len(p), nil
}

// rowEncoder encodes the rows that are written to it, many at a time, and
// writes them on.
type rowEncoder struct {
	source  *encodedRows
	w       io.Writer
	rest    []byte // the beginning of a row
	written int64
}

func (e *rowEncoder) Write(p []byte) (int, error) {
	t := e.source.tensor
	width := int(t.Dims[len(t.Dims)-1])
	rowBytes := width * t.DataType.Bits() / 8
	if rowBytes == 0 {
		return len(p), nil
	}
	data := p
	if len(e.rest) > 0 {
		data = append(e.rest, p...)
	}
	for len(data) >= rowBytes {
		rows := min(len(data)/rowBytes, max(1, chunk/width))
		if err := e.encode(data[:rows*rowBytes], rows, width); err != nil {
			return 0, err
		}
		data = data[rows*rowBytes:]
	}
	e.rest = slices.Clone(data)
	return len(p), nil
}

func (e *rowEncoder) encode(data []byte, rows, width int) error {
	wide := tensor.New(onnx.Float32, rows, width)
	tensor.ConvertFloat(wide, &tensor.Tensor{Type: e.source.tensor.DataType, Shape: wide.Shape, Data: data})
	values, size := tensor.Of[float32](wide), e.source.rowBytes
	out := make([]byte, rows*size)
	eachShare(rows, max(1, 1<<14/width), func(lo, hi int) {
		for i := lo; i < hi; i++ {
			e.source.encode(values[i*width:][:width], out[i*size:][:size])
		}
	})
	n, err := e.w.Write(out)
	e.written += int64(n)
	return err
}

// squares returns the sum of the squares of a weight's elements, and of what
// storing it changes them by.
func (s storage) squares(weight *onnx.Tensor) (elements, errors float64, err error) {
	in := int(weight.Dims[len(weight.Dims)-1])
	sums := &encodedRows{weight, 1, 16, func(row []float32, to []byte) {
		x, e := 0.0, 0.0
		for i, back := range s.restored(row) {
			v, d := float64(row[i]), float64(row[i])-float64(back)
			x += float64(v * v)
			e += float64(d * d)
		}
		binary.LittleEndian.PutUint64(to, math.Float64bits(x))
		binary.LittleEndian.PutUint64(to[8:], math.Float64bits(e))
	}}
	if in == 0 {
		return 0, 0, nil
	}
	list := make(sliceWriter, 0, sums.Size())
	if _, err := sums.WriteTo(&list); err != nil {
		return 0, 0, err
	}
	for ; len(list) > 0; list = list[16:] {
		elements += math.Float64frombits(binary.LittleEndian.Uint64(list))
		errors += math.Float64frombits(binary.LittleEndian.Uint64(list[8:]))
	}
	return elements, errors, nil
}

// restored returns the numbers that a row becomes by being stored.
func (s storage) restored(row []float32) []float32 {
	back := make([]float32, len(row))
	if s.Bits == 0 {
		half := tensor.New(s.elementType, len(row))
		tensor.ConvertFloat(half, tensor.FromSlice(row, len(row)))
		tensor.ConvertFloat(tensor.FromSlice(back, len(row)), half)
		return back
	}
	blocks := s.Blocks(len(row))
	packed, scales := make([]byte, blocks*s.BlockBytes()), make([]float32, blocks)
	s.Quantize(row, packed, scales)
	s.Dequantize(back, packed, scales)
	return back
}
