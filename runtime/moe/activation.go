package moe

// Activation names a function of one number, applied to every element.
type Activation string

// The activations, σ being the logistic function and Φ the normal
// distribution's.
const (
	Identity  Activation = "identity"   // x
	ReLU      Activation = "relu"       // max(x, 0)
	ReLU2     Activation = "relu2"      // max(x, 0)²
	GELU      Activation = "gelu"       // x·Φ(x), by the error function
	GELUTanh  Activation = "gelu_tanh"  // GELU's approximation by tanh
	QuickGELU Activation = "quick_gelu" // x·σ(1.702·x)
	SiLU      Activation = "silu"       // x·σ(x), also called swish
	Mish      Activation = "mish"       // x·tanh(ln(1 + eˣ))
	HardSwish Activation = "hard_swish" // x·clamp(x/6 + 1/2, 0, 1)
	Sigmoid   Activation = "sigmoid"    // σ(x)
	Tanh      Activation = "tanh"       // tanh(x)
)

// Activations lists every activation that an expert may have.
var Activations = []Activation{Identity, ReLU, ReLU2, GELU, GELUTanh, QuickGELU, SiLU, Mish, HardSwish, Sigmoid, Tanh}
