package fmoefy

import (
	"errors"
	"fmt"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// constant is a value that is the same in every run: the elements of an
// initializer or Constant node, seen through the Identity, Cast, Transpose
// and shape nodes between it and its use. Nothing is copied until bytes.
type constant struct {
	tensor        *onnx.Tensor
	casts         []onnx.DataType
	dims, strides []int64 // in elements; a stride of 0 repeats
	offset        int64
	scale         float64
}

func newConstant(t *onnx.Tensor) *constant {
	c := &constant{tensor: t, dims: slices.Clone(t.Dims), scale: 1}
	c.strides = rowMajor(c.dims)
	return c
}

func rowMajor(dims []int64) []int64 {
	strides := make([]int64, len(dims))
	step := int64(1)
	for i := len(dims) - 1; i >= 0; i-- {
		strides[i] = step
		step *= dims[i]
	}
	return strides
}

func (c *constant) elementType() onnx.DataType {
	if len(c.casts) > 0 {
		return c.casts[len(c.casts)-1]
	}
	return c.tensor.DataType
}

func (c *constant) elements() int64 {
	n := int64(1)
	for _, d := range c.dims {
		n *= d
	}
	return n
}

// size returns how many bytes the elements take.
func (c *constant) size() int64 { return c.elements() * int64(c.elementType().Bits()/8) }

// computable reports whether arithmetic on elements of type t is possible
// here.
func computable(t onnx.DataType) bool {
	return t == onnx.Float32 || t == onnx.Float64 || t == onnx.Float16 || t == onnx.BFloat16
}

func (c *constant) cast(to onnx.DataType) error {
	from := c.elementType()
	if from == to {
		return nil
	}
	if !computable(from) || !computable(to) {
		return fmt.Errorf("a cast from %s to %s is not supported in front of weights", from, to)
	}
	c.casts = append(c.casts, to)
	return nil
}

// transpose permutes the axes; an empty permutation reverses them.
func (c *constant) transpose(perm []int64) error {
	rank := len(c.dims)
	if len(perm) == 0 {
		for i := range rank {
			perm = append(perm, int64(rank-1-i))
		}
	}
	if len(perm) != rank {
		return fmt.Errorf("permutation %v of a tensor of rank %d", perm, rank)
	}
	dims, strides := make([]int64, rank), make([]int64, rank)
	seen := make([]bool, rank)
	for i, p := range perm {
		if p < 0 || p >= int64(rank) || seen[p] {
			return fmt.Errorf("permutation %v of a tensor of rank %d", perm, rank)
		}
		seen[p] = true
		dims[i], strides[i] = c.dims[p], c.strides[p]
	}
	c.dims, c.strides = dims, strides
	return nil
}

func (c *constant) reshape(dims []int64) error {
	if n, err := onnx.ElementCount(dims); err != nil || n != c.elements() {
		return fmt.Errorf("%v does not have the elements of %v", dims, c.dims)
	}
	if !c.contiguous() {
		return errors.New("a reshape of a transposed weight is not supported")
	}
	c.dims, c.strides = slices.Clone(dims), rowMajor(dims)
	return nil
}

// contiguous reports whether the elements lie in memory as they are counted.
func (c *constant) contiguous() bool {
	for i, stride := range rowMajor(c.dims) {
		if c.dims[i] != 1 && c.strides[i] != stride {
			return false
		}
	}
	return true
}

// part returns rows start, start+step … of c, count in all.
func (c *constant) part(p part) *constant { return c.along(0, p) }

// along is part for another axis.
func (c *constant) along(axis int, p part) *constant {
	view := *c
	view.dims, view.strides = slices.Clone(c.dims), slices.Clone(c.strides)
	view.offset += p.start * c.strides[axis]
	view.dims[axis] = p.count
	view.strides[axis] *= p.step
	return &view
}

// permuted returns c with its axes in another order.
func (c *constant) permuted(perm ...int64) *constant {
	view := *c
	if view.transpose(perm) != nil {
		panic("fmoefy: permutation of another rank")
	}
	return &view
}

// shards cuts an axis of c into n equal parts and returns them along a new
// first axis.
func (c *constant) shards(axis int, n int64) *constant {
	view := *c
	width := c.dims[axis] / n
	view.dims, view.strides = slices.Insert(slices.Clone(c.dims), 0, n), slices.Insert(slices.Clone(c.strides), 0, width*c.strides[axis])
	view.dims[axis+1] = width
	return &view
}

// vector returns c as [n]: a tensor whose dims but the last are 1, or a
// single element repeated. It returns nil for any other.
func (c *constant) vector(n int64) *constant {
	view := *c
	view.dims, view.strides = []int64{n}, []int64{0}
	if c.elements() == 1 {
		return &view
	}
	if last := len(c.dims) - 1; last >= 0 && c.dims[last] == n && c.elements() == n {
		view.strides[0] = c.strides[last]
		return &view
	}
	return nil
}

// times returns c with every element multiplied by f.
func (c *constant) times(f float64) *constant {
	view := *c
	view.scale *= f
	return &view
}

// as returns c with elements of floating-point type t.
func (c *constant) as(t onnx.DataType) *constant {
	view := *c
	if c.elementType() != t {
		view.casts = append(slices.Clone(c.casts), t)
	}
	return &view
}

// key identifies the content: two constants of the same tensor seen the same
// way have equal keys.
func (c *constant) key() string {
	return fmt.Sprintf("%p", c.tensor) + c.view()
}

// view is the part of key that says how the tensor is seen.
func (c *constant) view() string {
	return fmt.Sprintf(" %v %v %v %d %g", c.casts, c.dims, c.strides, c.offset, c.scale)
}

// bytes returns the elements, row-major and little-endian. They alias the
// tensor where nothing has to be moved or converted.
func (c *constant) bytes() ([]byte, error) {
	t, err := tensor.FromONNX(c.tensor)
	if err != nil {
		return nil, err
	}
	for _, to := range c.casts {
		if !computable(t.Type) || !computable(to) {
			return nil, fmt.Errorf("tensor %q of %s cannot be cast to %s", c.tensor.Name, t.Type, to)
		}
		cast := tensor.New(to, t.Shape...)
		tensor.ConvertFloat(cast, t)
		t = cast
	}
	var data []byte
	switch width := int64(t.Type.Bits() / 8); {
	case width == 0:
		return nil, fmt.Errorf("tensor %q has element type %s", c.tensor.Name, t.Type)
	case c.contiguous():
		data = t.Data[c.offset*width:][:c.elements()*width]
	case width == 2:
		data = gather[uint16](c, t)
	case width == 4:
		data = gather[uint32](c, t)
	case width == 8:
		data = gather[uint64](c, t)
	default:
		return nil, fmt.Errorf("tensor %q of %s cannot be transposed", c.tensor.Name, t.Type)
	}
	if c.scale == 1 {
		return data, nil
	}
	if !computable(t.Type) {
		return nil, fmt.Errorf("tensor %q of %s cannot be scaled", c.tensor.Name, t.Type)
	}
	values := widen(t.Type, data)
	for i := range values {
		values[i] *= c.scale
	}
	return narrow(t.Type, values), nil
}

// gather copies the elements of a strided view of t in their order. It visits
// matrices in tiles, since one of the two sides is read across its rows.
func gather[T tensor.Element](c *constant, t *tensor.Tensor) []byte {
	const tile = 64
	dims, strides := c.dims, c.strides
	for len(dims) < 2 {
		dims, strides = append([]int64{1}, dims...), append([]int64{0}, strides...)
	}
	shape := make([]int, len(dims))
	for i, d := range dims {
		shape[i] = int(d)
	}
	out := tensor.New(t.Type, shape...)
	from, to := tensor.Of[T](t), tensor.Of[T](out)
	rows, columns := dims[len(dims)-2], dims[len(dims)-1]
	rowStride, columnStride := strides[len(dims)-2], strides[len(dims)-1]
	outer := make([]int64, len(dims)-2)
	for ; len(to) > 0; to = to[rows*columns:] {
		start := c.offset
		for axis, i := range outer {
			start += i * strides[axis]
		}
		for r0 := int64(0); r0 < rows; r0 += tile {
			for c0 := int64(0); c0 < columns; c0 += tile {
				for r := r0; r < min(r0+tile, rows); r++ {
					for k := c0; k < min(c0+tile, columns); k++ {
						to[r*columns+k] = from[start+r*rowStride+k*columnStride]
					}
				}
			}
		}
		for axis := len(outer) - 1; axis >= 0; axis-- {
			if outer[axis]++; outer[axis] < dims[axis] {
				break
			}
			outer[axis] = 0
		}
	}
	return out.Data
}

// widen returns the values of floating-point elements.
func widen(t onnx.DataType, data []byte) []float64 {
	count := len(data) / (t.Bits() / 8)
	values := tensor.New(onnx.Float64, count)
	tensor.ConvertFloat(values, &tensor.Tensor{Type: t, Shape: []int{count}, Data: data})
	return tensor.Of[float64](values)
}

// narrow returns values as elements of type t, rounded to nearest.
func narrow(t onnx.DataType, values []float64) []byte {
	elements := tensor.New(t, len(values))
	tensor.ConvertFloat(elements, tensor.FromSlice(values, len(values)))
	return elements.Data
}

// number returns the only element of c as a float64.
func (c *constant) number() (float64, bool) {
	if c.elements() != 1 {
		return 0, false
	}
	if list, ok := c.integers(); ok {
		return float64(list[0]), true
	}
	b, err := c.bytes()
	if err != nil || !computable(c.elementType()) {
		return 0, false
	}
	return widen(c.elementType(), b)[0], true
}

// integers returns the elements of a constant integer tensor.
func (c *constant) integers() ([]int64, bool) {
	t := c.elementType()
	if t != onnx.Int64 && t != onnx.Int32 {
		return nil, false
	}
	b, err := c.bytes()
	if err != nil {
		return nil, false
	}
	list, err := (&tensor.Tensor{Type: t, Shape: []int{int(c.elements())}, Data: b}).Ints()
	return list, err == nil
}
