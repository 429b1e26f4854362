package moe

import (
	"fmt"
	"math"

	"github.com/fmoe-go/fmoe/onnx"
)

// MicrosoftDomain is the domain of ONNX Runtime's operators.
const MicrosoftDomain = "com.microsoft"

// MicrosoftLayer says in which input slots of com.microsoft::MoE or QMoE one
// layer of the experts is; 0 stands for none. Weights are out × in.
type MicrosoftLayer struct{ Weight, Bias, Scales, Zeros int }

// The slots that MoE and QMoE share.
const (
	MicrosoftX      = 0 // [N, d] or [batch, sequence, d]
	MicrosoftLogits = 1 // [N, T], before the softmax, whatever their name router_probs says
)

// MicrosoftConfig is what the attributes of a com.microsoft::MoE or QMoE node
// of version 1 say.
type MicrosoftConfig struct {
	Config // its activation is that of fc1 as far as it has a name; see SwiGLU

	Quantized bool
	Layers    [3]MicrosoftLayer // fc1, fc2, fc3

	// SwiGLU: the hidden layer is G·σ(Alpha·G)·(L + Beta), where G is fc1's
	// result, at most Limit, and L fc3's, from −Limit to Limit. Limit is
	// infinite where the node has none.
	SwiGLU             bool
	Alpha, Beta, Limit float64

	// Interleaved: fc1 has the rows of fc1 and fc3 in turn.
	Interleaved bool

	Bits      int // of a weight, where quantized: 2, 4 or 8
	BlockSize int // weights of a row that share a scale; 0: all
}

var microsoftActivations = map[string]Activation{
	"relu": ReLU, "gelu": GELUTanh, "silu": SiLU, "identity": Identity, "swiglu": SiLU,
}

// MicrosoftAttributes lists the attributes that are understood. QMoE has
// those from expert_weight_bits on besides.
var MicrosoftAttributes = []string{"activation_type", "k", "normalize_routing_weights", "use_sparse_mixer",
	"swiglu_fusion", "swiglu_limit", "activation_alpha", "activation_beta",
	"expert_weight_bits", "block_size", "quant_type", "accuracy_level", "weights_prepacked"}

// ParseMicrosoft reads the attributes of a com.microsoft::MoE or QMoE node.
// It fails for what ONNX Runtime's CPU kernel does not compute either, except
// that fc3 may be there.
func ParseMicrosoft(n *onnx.Node) (MicrosoftConfig, error) {
	c := MicrosoftConfig{
		Config:    DefaultConfig(GateNaive),
		Quantized: n.OpType == "QMoE",
		Layers:    [3]MicrosoftLayer{{Weight: 2, Bias: 3}, {Weight: 4, Bias: 5}, {Weight: 6, Bias: 7}},
		Alpha:     float64(n.Float("activation_alpha", 1)), Beta: float64(n.Float("activation_beta", 0)),
		Limit: float64(n.Float("swiglu_limit", float32(math.Inf(1)))),
	}
	kind := n.String("activation_type", "relu")
	activation, known := microsoftActivations[kind]
	c.TopK, c.Normalize = int(n.Int("k", 1)), n.Int("normalize_routing_weights", 0) != 0
	c.Activation, c.SwiGLU = activation, kind == "swiglu"
	switch fusion := n.Int("swiglu_fusion", 0); {
	case !known:
		return c, fmt.Errorf("activation_type %q is not known; there are relu, gelu, silu, identity and swiglu", kind)
	case n.Int("k", 1) < 1 || n.Int("k", 1) > maxExperts:
		return c, fmt.Errorf("k is %d, must be 1 to the number of experts", n.Int("k", 1))
	case n.Int("use_sparse_mixer", 0) != 0:
		return c, fmt.Errorf("the sparse mixer's routing is not supported")
	case c.SwiGLU && fusion != 0 && fusion != 1:
		return c, fmt.Errorf("swiglu_fusion is %d; it can be 0 (in fc1 and fc3) or 1 (rows in turn)", fusion)
	case !(c.Limit > 0):
		return c, fmt.Errorf("swiglu_limit is %v, must be positive", c.Limit)
	default:
		c.Interleaved = c.SwiGLU && fusion == 1
	}
	if !c.Quantized {
		return c, nil
	}
	c.Layers = [3]MicrosoftLayer{{2, 4, 3, 11}, {5, 7, 6, 12}, {8, 10, 9, 13}}
	c.Normalize = true // as ONNX Runtime's CPU kernel has it, whatever the attribute says
	c.Bits, c.BlockSize = int(n.Int("expert_weight_bits", 4)), int(n.Int("block_size", 0))
	switch {
	case n.String("quant_type", "int") != "int":
		return c, fmt.Errorf("quant_type %q is not supported, only int", n.String("quant_type", "int"))
	case n.Int("weights_prepacked", -1) > 0:
		return c, fmt.Errorf("prepacked weights are not supported: write weights_prepacked = 0")
	case c.Bits != 2 && c.Bits != 4 && c.Bits != 8:
		return c, fmt.Errorf("expert_weight_bits is %d; it can be 2, 4 or 8", c.Bits)
	case c.BlockSize < 0 || c.BlockSize > 0 && (c.BlockSize < 16 || c.BlockSize&(c.BlockSize-1) != 0):
		return c, fmt.Errorf("block_size is %d; it can be a power of two from 16", c.BlockSize)
	}
	return c, nil
}

// MicrosoftShape is the size of a com.microsoft::MoE or QMoE layer.
type MicrosoftShape struct {
	Experts, Model, Hidden int

	// Legacy: weights are in × out, as MoE has them before its layout changed.
	// ONNX Runtime tells the layouts apart by their shapes.
	Legacy bool
}

// Shape derives the sizes from the inputs' shapes, nil for an absent one, and
// checks that they fit one another.
func (c *MicrosoftConfig) Shape(inputs [][]int) (MicrosoftShape, error) {
	in := func(slot int) []int {
		if slot < len(inputs) {
			return inputs[slot]
		}
		return nil
	}
	x, logits, fc1, fc2 := in(MicrosoftX), in(MicrosoftLogits), in(c.Layers[0].Weight), in(c.Layers[1].Weight)
	if len(x) != 2 && len(x) != 3 || len(logits) != 2 || len(fc1) != 3 || len(fc2) != 3 {
		return MicrosoftShape{}, fmt.Errorf("inputs have shapes %v, %v, %v, %v; must be two or three dimensions, two, three and three", x, logits, fc1, fc2)
	}
	pack := 1
	if c.Quantized {
		pack = 8 / c.Bits
	}
	s := MicrosoftShape{Experts: logits[1], Model: x[len(x)-1]}
	tokens := x[0]
	if len(x) == 3 {
		tokens *= x[1]
	}
	if s.Model == 0 || fc2[1] > math.MaxInt32 || fc2[2] > math.MaxInt32/pack {
		return s, fmt.Errorf("tokens %v and fc2 %v are no mixture of experts", x, fc2)
	}
	s.Hidden = fc2[1] * fc2[2] * pack / s.Model
	width := s.Hidden
	if c.Interleaved {
		width *= 2
	}
	s.Legacy = s.Model != s.Hidden && fc2[1] == s.Hidden || s.Model == s.Hidden && c.Interleaved && fc1[1] == s.Model
	if c.TopK > s.Experts {
		return s, fmt.Errorf("k is %d, more than the %d experts", c.TopK, s.Experts)
	}
	if s.Legacy && c.Quantized {
		return s, fmt.Errorf("quantised weights of shape %v are in × out; must be out × in", fc2)
	}
	for _, check := range []struct {
		slot    int
		out, in int
	}{{c.Layers[0].Weight, width, s.Model}, {c.Layers[1].Weight, s.Model, s.Hidden}, {c.Layers[2].Weight, s.Hidden, s.Model}} {
		rows, columns := check.out, check.in
		if s.Legacy {
			rows, columns = columns, rows
		}
		if err := wantShape(check.slot, in(check.slot), s.Experts, rows, (columns+pack-1)/pack); err != nil {
			return s, err
		}
		layer := c.layer(check.slot)
		if err := wantShape(layer.Bias, in(layer.Bias), s.Experts, check.out); err != nil {
			return s, err
		}
		if in(check.slot) == nil || !c.Quantized {
			continue
		}
		scales, zeros := []int{s.Experts, check.out}, []int{s.Experts, (check.out + pack - 1) / pack}
		if c.BlockSize > 0 {
			blocks := (check.in + c.BlockSize - 1) / c.BlockSize
			scales, zeros = append(scales, blocks), []int{s.Experts, check.out, (blocks + pack - 1) / pack}
		}
		if in(layer.Scales) == nil {
			return s, fmt.Errorf("input %d, the scales of input %d, is absent", layer.Scales, check.slot)
		}
		if err := wantShape(layer.Scales, in(layer.Scales), scales...); err != nil {
			return s, err
		}
		if err := wantShape(layer.Zeros, in(layer.Zeros), zeros...); err != nil {
			return s, err
		}
	}
	if c.Interleaved == (in(c.Layers[2].Weight) != nil) && (c.SwiGLU || c.Interleaved) {
		return s, fmt.Errorf("SwiGLU needs its second branch either in fc3 or, with swiglu_fusion = 1, in fc1")
	}
	return s, wantShape(MicrosoftLogits, logits, tokens, s.Experts)
}

func (c *MicrosoftConfig) layer(weight int) MicrosoftLayer {
	for _, l := range c.Layers {
		if l.Weight == weight {
			return l
		}
	}
	return MicrosoftLayer{}
}

// wantShape checks the shape of an input that may be absent.
func wantShape(slot int, got []int, want ...int) error {
	if got == nil {
		return nil
	}
	same := len(got) == len(want)
	for i := 0; same && i < len(want); i++ {
		same = got[i] == want[i]
	}
	if !same {
		return fmt.Errorf("input %d has shape %v, must be %v", slot, got, want)
	}
	return nil
}
