package moe

import (
	"fmt"
	"slices"
	"strings"

	"github.com/fmoe-go/fmoe/onnx"
)

// The attributes of an FMoE node.
const (
	AttributeTopK       = "top_k"       // int, required
	AttributeGate       = "gate"        // string, default "naive"
	AttributeActivation = "activation"  // string, default "gelu"
	AttributeNormalize  = "normalize"   // int, default 1
	AttributeExpertBits = "expert_bits" // int, default 0: the experts' weights are floating-point
	AttributeBlockSize  = "block_size"  // int, default 32, of quantised weights only
)

// Attributes lists the attributes that an FMoE node may have.
var Attributes = []string{AttributeTopK, AttributeGate, AttributeActivation, AttributeNormalize, AttributeExpertBits, AttributeBlockSize}

// Config is what the attributes of an FMoE node say.
type Config struct {
	// TopK is the number of experts for each token, 1 … T.
	TopK int

	// Gate names the rule that picks experts, one of Gates.
	Gate string

	// Activation is the function between an expert's two projections.
	Activation Activation

	// Normalize: a token's scores are the softmax over its chosen logits and
	// sum to 1. Otherwise they are the chosen entries of the softmax over all
	// experts.
	Normalize bool

	// Quantization is that of the experts' weights, zero where they are
	// floating-point.
	Quantization Quantization
}

// ParseConfig reads the attributes of an FMoE node. It fails for attributes
// that it does not know, and for values outside what is allowed, which the
// error lists.
func ParseConfig(n *onnx.Node) (Config, error) {
	c := Config{Gate: GateNaive, Activation: GELU, Normalize: true}
	for _, a := range n.Attributes {
		if err := c.set(a); err != nil {
			return Config{}, err
		}
	}
	if c.Quantization.Bits != 0 && c.Quantization.Block == 0 {
		c.Quantization.Block = DefaultBlock
	}
	return c, c.check()
}

func (c *Config) set(a *onnx.Attribute) error {
	var want onnx.AttributeType
	switch a.Name {
	case AttributeTopK, AttributeNormalize, AttributeExpertBits, AttributeBlockSize:
		want = onnx.AttributeInt
	case AttributeGate, AttributeActivation:
		want = onnx.AttributeString
	default:
		return fmt.Errorf("attribute %q is not known; there are %s", a.Name, strings.Join(Attributes, ", "))
	}
	if a.RefName != "" {
		return fmt.Errorf("attribute %s refers to the function's attribute %q, which has no value here", a.Name, a.RefName)
	}
	if a.Type != want {
		return fmt.Errorf("attribute %s has attribute type %d, must be %d", a.Name, a.Type, want)
	}
	switch a.Name {
	case AttributeTopK:
		if a.Int < 1 || a.Int > maxExperts {
			return fmt.Errorf("attribute top_k is %d, must be 1 to the number of experts", a.Int)
		}
		c.TopK = int(a.Int)
	case AttributeNormalize:
		if a.Int != 0 && a.Int != 1 {
			return fmt.Errorf("attribute normalize is %d, must be 0 or 1", a.Int)
		}
		c.Normalize = a.Int == 1
	case AttributeExpertBits:
		c.Quantization.Bits = int(a.Int)
	case AttributeBlockSize:
		c.Quantization.Block = int(a.Int)
	case AttributeGate:
		c.Gate = string(a.String)
	case AttributeActivation:
		c.Activation = Activation(a.String)
	}
	return nil
}

// maxExperts bounds what a file may claim; the largest published mixtures
// have a few thousand experts in a layer.
const maxExperts = 1 << 20

func (c *Config) check() error {
	if c.TopK == 0 {
		return fmt.Errorf("attribute top_k is missing")
	}
	if !slices.Contains(Gates, c.Gate) {
		return fmt.Errorf("gate %q is not known; there are %s", c.Gate, strings.Join(Gates, ", "))
	}
	if !slices.Contains(Activations, c.Activation) {
		names := make([]string, len(Activations))
		for i, a := range Activations {
			names[i] = string(a)
		}
		return fmt.Errorf("activation %q is not known; there are %s", c.Activation, strings.Join(names, ", "))
	}
	if c.Quantization == (Quantization{}) {
		return nil
	}
	return c.Quantization.Check()
}

// Encode returns the attributes of a node with this configuration. All that
// apply are written out, since runtimes that run the node through its
// model-local function do not know the defaults.
func (c Config) Encode() []*onnx.Attribute {
	normalize := int64(0)
	if c.Normalize {
		normalize = 1
	}
	attributes := []*onnx.Attribute{
		onnx.IntAttribute(AttributeTopK, int64(c.TopK)),
		onnx.StringAttribute(AttributeGate, c.Gate),
		onnx.StringAttribute(AttributeActivation, string(c.Activation)),
		onnx.IntAttribute(AttributeNormalize, normalize),
	}
	if q := c.Quantization; q.Bits != 0 {
		attributes = append(attributes, onnx.IntAttribute(AttributeExpertBits, int64(q.Bits)), onnx.IntAttribute(AttributeBlockSize, int64(q.Block)))
	}
	return attributes
}
