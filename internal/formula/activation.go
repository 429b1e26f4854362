package formula

import "github.com/fmoe-go/fmoe/runtime/moe"

// Activations says how exporters write each activation, as a function of x.
// What is only a matter of order, of division against multiplication, or of
// intermediate powers, is one formula.
var Activations = []struct {
	Activation moe.Activation
	Formula    string
}{
	{moe.ReLU, "relu(x)"},
	{moe.ReLU2, "relu(x) * relu(x)"},
	{moe.GELU, "gelu(x)"},
	{moe.GELU, "0.5 * x * (1 + erf(x / 1.4142135623730951))"},
	{moe.GELUTanh, "gelu_tanh(x)"},
	{moe.GELUTanh, "0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x*x*x)))"},
	{moe.GELUTanh, "0.5 * x * (1 + tanh(0.7978845608028654 * x * (1 + 0.044715 * x*x)))"},
	{moe.QuickGELU, "x * sigmoid(1.702 * x)"},
	{moe.SiLU, "x * sigmoid(x)"},
	{moe.SiLU, "x / (1 + exp(-x))"},
	{moe.Mish, "mish(x)"},
	{moe.Mish, "x * tanh(softplus(x))"},
	{moe.HardSwish, "hardswish(x)"},
	{moe.Sigmoid, "sigmoid(x)"},
	{moe.Tanh, "tanh(x)"},
}
