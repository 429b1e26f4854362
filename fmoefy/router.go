package fmoefy

import (
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

// GateInit says how a router's weights start.
type GateInit string

// The gate inits.
const (
	GateNormal     GateInit = "normal"     // N(0, GateStd)
	GateZeros      GateInit = "zeros"      // every token goes to the first experts until the router has learned
	GateOrthogonal GateInit = "orthogonal" // orthonormal columns, times GateScale
	GatePrompts    GateInit = "prompts"    // what an expert's prompts look like at the block, normalised, times GateScale
)

// GateInits lists every gate init.
var GateInits = []GateInit{GateNormal, GateZeros, GateOrthogonal, GatePrompts}

// completeGateInit fills in the defaults of how routers start.
func (o *Options) completeGateInit() error {
	if len(o.Prompts) > 0 {
		setDefault(&o.GateInit, GatePrompts)
	}
	setDefault(&o.GateInit, GateNormal)
	scaled := o.GateInit == GateOrthogonal || o.GateInit == GatePrompts
	switch {
	case !slices.Contains(GateInits, o.GateInit):
		names := make([]string, len(GateInits))
		for i, g := range GateInits {
			names[i] = string(g)
		}
		return fmt.Errorf("gate init %q is not known; there are %s", o.GateInit, strings.Join(names, ", "))
	case o.GateStd != 0 && o.GateInit != GateNormal:
		return fmt.Errorf("a standard deviation of the gate needs gate init normal, not %s", o.GateInit)
	case o.GateScale != 0 && !scaled:
		return fmt.Errorf("a scale of the gate needs gate init orthogonal or prompts, not %s", o.GateInit)
	case o.GateInit == GatePrompts && len(o.Prompts) == 0:
		return errors.New("gate init prompts needs prompts for each expert (--prompts FILE)")
	case len(o.Prompts) > 0 && o.GateInit != GatePrompts:
		return fmt.Errorf("prompts need gate init prompts, not %s", o.GateInit)
	case o.PromptsContrast && o.GateInit != GatePrompts:
		return errors.New("a contrast of prompts needs prompts")
	}
	setDefault(&o.GateStd, 0.02)
	setDefault(&o.GateScale, 1)
	if err := checkPositive("standard deviation of the gate", o.GateStd); err != nil {
		return err
	}
	return checkPositive("scale of the gate", o.GateScale)
}

// router returns the router as the options say, [d, experts].
func (s *site) router(experts int) (stack, error) {
	o := s.options
	dims := []int64{s.DModel, int64(experts)}
	t, normals := routerType(s.ElementType), s.normals(moe.InputGateWeight)
	switch o.GateInit {
	case GateOrthogonal:
		if int64(experts) > s.DModel {
			return stack{}, fmt.Errorf("%d experts have no orthogonal routers of %d values: use another gate init", experts, s.DModel)
		}
		return newStack(t, dims, &orthogonal{t, int(s.DModel), experts, o.GateScale, normals}), nil
	case GatePrompts:
		columns := s.rewriter.prompts[s.Block]
		if len(columns) != experts {
			return stack{}, fmt.Errorf("there are prompts for %d experts, but the router chooses among %d", len(columns), experts)
		}
		return newStack(t, dims, fixed{t, transposed(columns)}), nil
	case GateZeros:
		return gaussian(t, dims, 0, normals), nil
	}
	return gaussian(t, dims, o.GateStd, normals), nil
}

// routerType returns the element type of the router of experts of type t.
func routerType(t onnx.DataType) onnx.DataType {
	if t.Bits() < 32 {
		return onnx.Float32
	}
	return t
}

// orthogonal is the source of a router [d, experts] with orthonormal columns,
// times a scale. They are made from random ones by the Gram-Schmidt process.
type orthogonal struct {
	kind       onnx.DataType
	d, experts int
	scale      float64
	normals    normals
}

func (s *orthogonal) Size() int64 { return int64(s.d) * int64(s.experts) * int64(s.kind.Bits()/8) }

// WriteTo implements [onnx.Source].
func (s *orthogonal) WriteTo(w io.Writer) (int64, error) {
	columns := make([][]float64, s.experts)
	stride := (s.d + 3) / 4 * 4
	for e := range columns {
		column := make([]float64, s.d)
		s.normals.fill(column, uint64(e*stride))
		for range 2 { // the second round removes what rounding left of the first
			for _, other := range columns[:e] {
				along := dot(column, other)
				for i, x := range other {
					column[i] -= float64(along * x) // not fused: the same bytes on every machine
				}
			}
			normalize(column, 1)
		}
		columns[e] = column
	}
	for _, column := range columns {
		normalize(column, s.scale)
	}
	return fixed{s.kind, transposed(columns)}.WriteTo(w)
}

func dot(a, b []float64) float64 {
	sum := 0.0
	for i := range a {
		sum += float64(a[i] * b[i])
	}
	return sum
}

// normalize gives a vector the given length, unless it is zero.
func normalize(x []float64, length float64) {
	if norm := math.Sqrt(dot(x, x)); norm > 0 {
		for i := range x {
			x[i] *= length / norm
		}
	}
}

// transposed returns the elements of a matrix whose columns are given.
func transposed(columns [][]float64) []float64 {
	all := make([]float64, 0, len(columns)*len(columns[0]))
	for i := range columns[0] {
		for _, column := range columns {
			all = append(all, column[i])
		}
	}
	return all
}

// fixed is a source of numbers that are in memory.
type fixed struct {
	kind   onnx.DataType
	values []float64
}

func (s fixed) Size() int64 { return int64(len(s.values)) * int64(s.kind.Bits()/8) }

// WriteTo implements [onnx.Source].
func (s fixed) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(narrow(s.kind, s.values))
	return int64(n), err
}
