//go:build fmoecuda

package cuda

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"gorgonia.org/cu"

	"github.com/fmoe-go/fmoe/cuda/driver"
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
)

// A chain becomes a kernel of its own: CUDA C++ that NVRTC compiles when the
// chain is bound, once for each arrangement of operands. Machine code is kept
// in memory and in the user's folder for caches.

// chainInputs bounds the inputs of a generated kernel.
const chainInputs = 24

// The parameters of generated kernels, laid out as in chainHeader.
type chainParameters struct {
	x       [chainInputs]uintptr
	y       uintptr
	n, rank int32
	dims    [maxRank]int32
	strides [chainInputs][maxRank]int32
}

const chainHeader = `struct Chain { const void *x[24]; void *y; int n, rank; int dims[6], strides[24][6]; };
__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + __expf(-x)); }
__device__ __forceinline__ float softplus(float x) { return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))); }
__device__ __forceinline__ float minimum(float x, float y) { return x != x || y != y ? x + y : fminf(x, y); }
__device__ __forceinline__ float maximum(float x, float y) { return x != x || y != y ? x + y : fmaxf(x, y); }
`

// formulas are operators of float32 in CUDA C++, of operands x and y and
// attributes a and b.
var formulas = map[string]string{
	"Relu": "x < 0.0f ? 0.0f : x", "LeakyRelu": "x < 0.0f ? a * x : x", "ThresholdedRelu": "x > a ? x : 0.0f", "Elu": "x < 0.0f ? a * expm1f(x) : x",
	"Selu": "x > 0.0f ? b * x : b * a * expm1f(x)", "HardSigmoid": "fmaxf(0.0f, fminf(1.0f, a * x + b))",
	"HardSwish": "x * fminf(fmaxf(x / 6.0f + 0.5f, 0.0f), 1.0f)", "Softplus": "softplus(x)", "Softsign": "x / (1.0f + fabsf(x))", "Mish": "x * tanhf(softplus(x))",
	"Gelu":     "0.5f * x * (1.0f + erff(x * 0.70710678118654752f))",
	"GeluTanh": "0.5f * x * (1.0f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)))", "Swish": "x * sigmoid(a * x)",
	"Floor": "floorf(x)", "Ceil": "ceilf(x)", "Round": "rintf(x)", "Sqrt": "sqrtf(x)", "Reciprocal": "1.0f / x", "Exp": "expf(x)", "Log": "logf(x)", "Erf": "erff(x)",
	"Sin": "sinf(x)", "Cos": "cosf(x)", "Tan": "tanf(x)", "Asin": "asinf(x)", "Acos": "acosf(x)", "Atan": "atanf(x)", "Sinh": "sinhf(x)", "Cosh": "coshf(x)",
	"Tanh": "tanhf(x)", "Asinh": "asinhf(x)", "Acosh": "acoshf(x)", "Atanh": "atanhf(x)", "Sigmoid": "1.0f / (1.0f + expf(-x))", "Abs": "fabsf(x)", "Neg": "-x",
	"Sign": "x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x",
	"Add":  "x + y", "Sub": "x - y", "Mul": "x * y", "Div": "x / y", "Pow": "powf(x, y)", "PRelu": "x < 0.0f ? x * y : x",
	"Sum": "x + y", "Min": "minimum(x, y)", "Max": "maximum(x, y)", "SwiGLU": "x * sigmoid(a * x) * y",
	"ReluGradient":  "y > 0.0f ? x : 0.0f",
	"SwishGradient": "x * (sigmoid(a * y) * (1.0f + a * y * (1.0f - sigmoid(a * y))))",
	"GeluGradient":  "x * (0.5f * (1.0f + erff(y * 0.70710678118654752f)) + y * 0.39894228040143268f * expf(-0.5f * y * y))",
	"Equal":         "x == y", "Less": "x < y", "LessOrEqual": "x <= y", "Greater": "x > y", "GreaterOrEqual": "x >= y",
	"Not": "!x", "And": "x && y", "Or": "x || y", "Xor": "x != y",
}

// formulaDefaults are the defaults of the attributes alpha and beta, or gamma
// of Selu.
var formulaDefaults = map[string][2]float32{
	"LeakyRelu": {0.01}, "ThresholdedRelu": {1}, "Elu": {1}, "HardSigmoid": {0.2, 0.5}, "Swish": {1}, "SwiGLU": {1}, "SwishGradient": {1}, "Selu": {1.6732632, 1.050701},
}

func cType(t onnx.DataType) (string, error) {
	switch t {
	case onnx.Float32:
		return "float", nil
	case onnx.Bool:
		return "bool", nil
	}
	return "", errForm
}

// literal writes a number of float32 so that it is read as the same.
func literal(x float32) string { return strconv.FormatFloat(float64(x), 'e', 9, 32) + "f" }

// formula writes a node of operands, whose names in C++ are given.
func formula(n *op.Node, operands []string) (string, error) {
	name := n.OpType
	switch {
	case name == "Where":
		return fmt.Sprintf("%s ? %s : %s", operands[0], operands[1], operands[2]), nil
	case name == "Cast":
		return operands[0], nil
	case name == "Gelu" && n.String("approximate", "none") == "tanh":
		name = "GeluTanh"
	case name == "GeluGradient" && n.String("approximate", "none") != "none":
		return "", errForm
	case name == "QuickGelu":
		name = "Swish"
	}
	text, known := formulas[name]
	if !known || len(operands) == 0 || len(operands) > 2 && name != "Sum" && name != "Min" && name != "Max" {
		return "", errForm
	}
	defaults := formulaDefaults[name]
	if n.OpType == "QuickGelu" {
		defaults[0] = 1.702
	}
	second := "beta"
	if name == "Selu" {
		second = "gamma"
	}
	call := func(x, y string) string {
		return strings.NewReplacer("$x", x, "$y", y, "$a", literal(n.Float("alpha", defaults[0])), "$b", literal(n.Float(second, defaults[1]))).Replace(marked(text))
	}
	if len(operands) == 1 {
		if name == "Sum" || name == "Min" || name == "Max" {
			return operands[0], nil
		}
		return call(operands[0], ""), nil
	}
	out := operands[0]
	for _, next := range operands[1:] {
		out = "(" + call(out, next) + ")"
	}
	return out, nil
}

// marked puts $ before the operands and attributes of a formula.
func marked(text string) string {
	var b strings.Builder
	letter := func(c byte) bool {
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_'
	}
	for i := range len(text) {
		alone := (i == 0 || !letter(text[i-1])) && (i+1 == len(text) || !letter(text[i+1]))
		if alone && strings.IndexByte("xyab", text[i]) >= 0 {
			b.WriteByte('$')
		}
		b.WriteByte(text[i])
	}
	return b.String()
}

// How an operand is found.
const (
	dense    = iota // at the output's place
	single          // one element
	strided         // by its strides
	variants        // how many there are
)

// generate writes the kernel of a chain whose operands are found in the given
// ways. facts are those of all values.
func generate(chain *op.Chain, facts []op.Fact, ways []int) (string, error) {
	var b strings.Builder
	b.WriteString(chainHeader)
	b.WriteString("extern \"C\" __global__ void chain(Chain p) {\n    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < p.n; i += gridDim.x * blockDim.x) {\n")
	loop := ""
	for v, way := range ways {
		if way == strided {
			fmt.Fprintf(&b, "        long long at%d = 0;\n", v)
			loop += fmt.Sprintf(" at%d += (long long)k * p.strides[%d][d];", v, v)
		}
	}
	if loop != "" {
		fmt.Fprintf(&b, "        for (int d = p.rank - 1, rest = i; d >= 0; d--) { int k = rest %% p.dims[d]; rest /= p.dims[d];%s }\n", loop)
	}
	for v, way := range ways {
		t, err := cType(facts[v].Type)
		if err != nil {
			return "", err
		}
		at := [variants]string{"i", "0", fmt.Sprint("at", v)}[way]
		fmt.Fprintf(&b, "        %s v%d = ((const %s *)p.x[%d])[%s];\n", t, v, t, v, at)
	}
	for i, n := range chain.Nodes {
		operands := make([]string, len(chain.In[i]))
		for j, v := range chain.In[i] {
			if v < 0 {
				return "", errForm
			}
			operands[j] = fmt.Sprint("v", v)
		}
		text, err := formula(n, operands)
		if err != nil {
			return "", err
		}
		v := chain.Inputs + i
		t, err := cType(facts[v].Type)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "        %s v%d = %s;\n", t, v, text)
	}
	last := chain.Inputs + len(chain.Nodes) - 1
	t, _ := cType(facts[last].Type)
	fmt.Fprintf(&b, "        ((%s *)p.y)[i] = v%d;\n    }\n}\n", t, last)
	return b.String(), nil
}

// bindGenerated binds the kernel that is generated for a chain.
func bindGenerated(d *Device, chain *op.Chain, c *device.Call) (func() error, error) {
	facts, out := make([]op.Fact, len(c.In)), c.Out[0]
	for i, t := range c.In {
		facts[i] = op.Fact{Type: t.Type, Shape: op.Dims(t.Shape...)}
	}
	facts, err := chain.Infer(facts, &op.Symbols{})
	if err != nil {
		return nil, err
	}
	n := out.Len()
	if len(c.In) > chainInputs || n == 0 || n > 1<<30 {
		return nil, errForm
	}
	ways, strides := make([]int, len(c.In)), make([][]int, len(c.In))
	for i, t := range c.In {
		if strides[i], err = broadcastStrides(t.Shape, out.Shape); err != nil {
			return nil, err
		}
		switch t.Len() {
		case n:
		case 1:
			ways[i] = single
		default:
			ways[i] = strided
		}
	}
	source, err := generate(chain, facts, ways)
	if err != nil {
		return nil, err
	}
	function, err := d.generated(source)
	if err != nil {
		return nil, err
	}
	dims, strides := collapse(out.Shape, strides)
	if len(dims) > maxRank {
		return nil, errForm
	}
	l := &launch[chainParameters]{device: d, function: function, threads: blockThreads, grid: [3]int{blocks(n), 1, 1}, p: &chainParameters{n: int32(n), rank: int32(len(dims))}}
	for i, n := range dims {
		l.p.dims[i] = int32(n)
		for j := range strides {
			l.p.strides[j][i] = int32(strides[j][i])
		}
	}
	return func() error {
		for i, t := range c.In {
			l.p.x[i] = address(t)
		}
		l.p.y = address(out)
		return l.run()
	}, nil
}

// generated returns the kernel "chain" of a source, compiled once.
func (g *gpu) generated(source string) (cu.Function, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if f, known := g.functions[source]; known {
		return f, nil
	}
	load := func(image []byte) (cu.Function, error) {
		m, err := cu.LoadData(string(image))
		if err != nil {
			return cu.Function{}, err
		}
		return m.Function("chain")
	}
	file := cached(g.target, source)
	image, err := os.ReadFile(file)
	var f cu.Function
	if err == nil {
		f, err = load(image)
	}
	if err != nil {
		if image, err = driver.CompileSource(source, g.target); err != nil {
			return f, err
		}
		if f, err = load(image); err != nil {
			return f, err
		}
		_ = keep(file, image) // without it the next program compiles again
	}
	g.functions[source] = f
	return f, nil
}

// cached returns the file for the machine code of a source, "" where there is
// no folder for caches.
func cached(target, source string) string {
	dir, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "fmoe", fmt.Sprintf("chain-%x.cubin", sha256.Sum256([]byte(target+"\n"+source))))
}

// keep writes a file that appears whole or not at all.
func keep(file string, data []byte) error {
	if file == "" {
		return os.ErrNotExist
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(file), "chain-*.partial")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
