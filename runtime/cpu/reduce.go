package cpu

import (
	"fmt"
	"math"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	for _, name := range []string{"Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare"} {
		register("", "Reduce"+name, newReduce)
	}
}

func newReduce(d *Device, n *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
	return device.KernelFunc(func(c *device.Call) (func() error, error) {
		given := n.Ints("axes")
		if len(c.In) > 1 && c.In[1] != nil {
			var err error
			if given, err = c.In[1].Ints(); err != nil {
				return nil, err
			}
		}
		axes, err := op.ReduceAxes(n, given, c.In[0].Rank())
		if err != nil {
			return nil, err
		}
		layout := newReduceLayout(c.In[0].Shape, axes)
		switch c.In[0].Type {
		case onnx.Float32:
			return bindReduce[float32, float64](d, c, n, layout)
		case onnx.Float64:
			return bindReduce[float64, float64](d, c, n, layout)
		case onnx.Int8:
			return bindReduce[int8, int64](d, c, n, layout)
		case onnx.Int16:
			return bindReduce[int16, int64](d, c, n, layout)
		case onnx.Int32:
			return bindReduce[int32, int64](d, c, n, layout)
		case onnx.Int64:
			return bindReduce[int64, int64](d, c, n, layout)
		case onnx.Uint8, onnx.Bool:
			return bindReduce[uint8, uint64](d, c, n, layout)
		case onnx.Uint16:
			return bindReduce[uint16, uint64](d, c, n, layout)
		case onnx.Uint32:
			return bindReduce[uint32, uint64](d, c, n, layout)
		case onnx.Uint64:
			return bindReduce[uint64, uint64](d, c, n, layout)
		}
		return nil, device.UnsupportedType(c.In[0].Type)
	}), nil
}

// span is one dimension of a walk through memory: length steps, stride
// elements apart.
type span struct{ length, stride int }

// spans is a nest of dimensions, the last one fastest.
type spans []span

func (s spans) count() int {
	n := 1
	for _, d := range s {
		n *= d.length
	}
	return n
}

// offset returns where step i of the nest lies.
func (s spans) offset(i int) int {
	at := 0
	for j := len(s) - 1; j >= 0; j-- {
		at += i % s[j].length * s[j].stride
		i /= s[j].length
	}
	return at
}

// reduceLayout splits a dense tensor into the dimensions that a reduction
// keeps and those that it removes. The innermost one is apart, as columns
// where it is kept and as a line where it is removed; the other has length 1.
type reduceLayout struct {
	kept, removed spans
	columns, line int
}

func newReduceLayout(shape []int, axes []int) reduceLayout {
	remove := make([]bool, len(shape))
	for _, a := range axes {
		remove[a] = true
	}
	// Neighbours of one kind are one dimension.
	var nest spans
	var removed []bool
	stride := 1
	for i := len(shape) - 1; i >= 0; i-- {
		if shape[i] == 1 {
			continue
		}
		if last := len(nest) - 1; last >= 0 && removed[last] == remove[i] {
			nest[last].length *= shape[i]
		} else {
			nest = append(nest, span{shape[i], stride})
			removed = append(removed, remove[i])
		}
		stride *= shape[i]
	}
	l := reduceLayout{columns: 1, line: 1}
	for i := len(nest) - 1; i >= 0; i-- {
		switch {
		case i == 0 && removed[0]:
			l.line = nest[0].length
		case i == 0:
			l.columns = nest[0].length
		case removed[i]:
			l.removed = append(l.removed, nest[i])
		default:
			l.kept = append(l.kept, nest[i])
		}
	}
	return l
}

type realNumber interface {
	float32 | float64 | int8 | int16 | int32 | int64 | uint8 | uint16 | uint32 | uint64
}

type accumulator interface{ float64 | int64 | uint64 }

// reducer computes one kind of reduction of elements T in an accumulator A.
type reducer[T, A any] struct {
	start  A
	line   func(acc A, x []T) A     // takes in all of x
	rows   func(acc []A, x []T)     // takes x[j] into acc[j]
	finish func(acc A, count int) T // count elements were taken in
}

func bindReduce[T realNumber, A accumulator](d *Device, c *device.Call, n *op.Node, l reduceLayout) (func() error, error) {
	if n.OpType == "ReduceLogSumExp" {
		return runReduce(d, c, l, logSumExp[T]()), nil
	}
	r, err := newReducer[T, A](n.OpType)
	if err != nil {
		return nil, err
	}
	if c.In[0].Type == onnx.Bool && n.OpType == "ReduceMin" {
		r.start = 1
	}
	return runReduce(d, c, l, r), nil
}

// columnBlock is the number of accumulators that are kept side by side.
const columnBlock = 64

func runReduce[T realNumber, A any](d *Device, c *device.Call, l reduceLayout, r reducer[T, A]) func() error {
	if r.rows == nil {
		r.rows = func(acc []A, x []T) {
			for j := range acc {
				acc[j] = r.line(acc[j], x[j:j+1])
			}
		}
	}
	blocks := (l.columns + columnBlock - 1) / columnBlock
	steps := l.removed.count()
	count := steps * l.line
	spares := newSpares(d, func() *[columnBlock]A { return new([columnBlock]A) })
	body := func(lo, hi int) {
		x, y := tensor.Of[T](c.In[0]), tensor.Of[T](c.Out[0])
		accs := spares.take()
		defer spares.give(accs)
		for i := lo; i < hi; i++ {
			group, column := i/blocks, i%blocks*columnBlock
			acc := accs[:min(columnBlock, l.columns-column)]
			for j := range acc {
				acc[j] = r.start
			}
			at := l.kept.offset(group) + column
			for s := range steps {
				from := at + l.removed.offset(s)
				if l.columns == 1 {
					acc[0] = r.line(acc[0], x[from:from+l.line])
				} else {
					r.rows(acc, x[from:from+len(acc)])
				}
			}
			for j, a := range acc {
				y[group*l.columns+column+j] = r.finish(a, count)
			}
		}
	}
	work := l.kept.count() * blocks
	grain := max(1, 8192/max(count*min(l.columns, columnBlock), 1))
	return func() error {
		d.pool.run(work, grain, body)
		return nil
	}
}

func newReducer[T realNumber, A accumulator](opType string) (reducer[T, A], error) {
	same := func(acc A, _ int) T { return T(acc) }
	switch opType {
	case "ReduceSum":
		return reducer[T, A]{line: sumLine[T, A], rows: sumRows[T, A], finish: same}, nil
	case "ReduceMean":
		return reducer[T, A]{line: sumLine[T, A], rows: sumRows[T, A], finish: func(acc A, count int) T {
			if count == 0 && A(1)/2 == 0 { // integers have no NaN
				return 0
			}
			return T(acc / A(count))
		}}, nil
	case "ReduceMax":
		return reducer[T, A]{start: A(lowest[T]()), line: maxLine[T, A], finish: same}, nil
	case "ReduceMin":
		return reducer[T, A]{start: A(highest[T]()), line: minLine[T, A], finish: same}, nil
	case "ReduceProd":
		return reducer[T, A]{start: 1, line: productLine[T, A], finish: same}, nil
	case "ReduceL1":
		return reducer[T, A]{line: absoluteLine[T, A], finish: same}, nil
	case "ReduceL2":
		return reducer[T, A]{line: squareLine[T, A], rows: squareRows[T, A], finish: func(acc A, _ int) T {
			return T(math.Sqrt(float64(acc)))
		}}, nil
	case "ReduceLogSum":
		return reducer[T, A]{line: sumLine[T, A], rows: sumRows[T, A], finish: func(acc A, _ int) T {
			return T(math.Log(float64(acc)))
		}}, nil
	case "ReduceSumSquare":
		return reducer[T, A]{line: squareLine[T, A], rows: squareRows[T, A], finish: same}, nil
	}
	return reducer[T, A]{}, fmt.Errorf("reduction %s is %w", opType, device.ErrUnsupported)
}

// sumLine adds in four lanes, which the processor can overlap.
func sumLine[T realNumber, A accumulator](acc A, x []T) A {
	var a, b, c, d A
	for ; len(x) >= 4; x = x[4:] {
		a += A(x[0])
		b += A(x[1])
		c += A(x[2])
		d += A(x[3])
	}
	for _, v := range x {
		a += A(v)
	}
	return acc + ((a + b) + (c + d))
}

func sumRows[T realNumber, A accumulator](acc []A, x []T) {
	x = x[:len(acc)]
	for j := range acc {
		acc[j] += A(x[j])
	}
}

func squareLine[T realNumber, A accumulator](acc A, x []T) A {
	var a, b, c, d A
	for ; len(x) >= 4; x = x[4:] {
		a += A(x[0]) * A(x[0])
		b += A(x[1]) * A(x[1])
		c += A(x[2]) * A(x[2])
		d += A(x[3]) * A(x[3])
	}
	for _, v := range x {
		a += A(v) * A(v)
	}
	return acc + ((a + b) + (c + d))
}

func squareRows[T realNumber, A accumulator](acc []A, x []T) {
	x = x[:len(acc)]
	for j := range acc {
		acc[j] += A(x[j]) * A(x[j])
	}
}

func absoluteLine[T realNumber, A accumulator](acc A, x []T) A {
	for _, v := range x {
		if v < 0 {
			acc -= A(v)
		} else {
			acc += A(v)
		}
	}
	return acc
}

func productLine[T realNumber, A accumulator](acc A, x []T) A {
	for _, v := range x {
		acc *= A(v)
	}
	return acc
}

func maxLine[T realNumber, A accumulator](acc A, x []T) A {
	for _, v := range x {
		acc = max(acc, A(v))
	}
	return acc
}

func minLine[T realNumber, A accumulator](acc A, x []T) A {
	for _, v := range x {
		acc = min(acc, A(v))
	}
	return acc
}

// exponentials is a sum of exponentials, kept relative to the largest
// exponent so that it neither overflows nor vanishes.
type exponentials struct{ top, sum float64 }

func logSumExp[T realNumber]() reducer[T, exponentials] {
	return reducer[T, exponentials]{
		start: exponentials{top: math.Inf(-1)},
		line: func(acc exponentials, x []T) exponentials {
			for _, v := range x {
				switch e := float64(v); {
				case e > acc.top:
					acc.sum = acc.sum*math.Exp(acc.top-e) + 1
					acc.top = e
				case e == acc.top: // also where both are infinite
					acc.sum++
				default:
					acc.sum += math.Exp(e - acc.top)
				}
			}
			return acc
		},
		finish: func(acc exponentials, _ int) T { return T(acc.top + math.Log(acc.sum)) },
	}
}

// lowest returns the smallest value of a type, −∞ where there is one.
func lowest[T realNumber]() T {
	switch any(*new(T)).(type) {
	case float32, float64:
		return T(math.Inf(-1))
	case int8:
		v := int64(math.MinInt8)
		return T(v)
	case int16:
		v := int64(math.MinInt16)
		return T(v)
	case int32:
		v := int64(math.MinInt32)
		return T(v)
	case int64:
		v := int64(math.MinInt64)
		return T(v)
	}
	return 0
}

// highest returns the largest value of a type, +∞ where there is one.
func highest[T realNumber]() T {
	switch any(*new(T)).(type) {
	case float32, float64:
		return T(math.Inf(1))
	}
	return -(lowest[T]() + 1)
}
