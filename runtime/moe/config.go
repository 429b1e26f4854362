package moe

import (
	"fmt"
	"iter"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/fmoe-go/fmoe/onnx"
)

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
	// experts. Sigmoid scores are divided by their sum, or left as they are.
	Normalize bool

	// Quantization is that of the experts' weights, zero where they are
	// floating-point.
	Quantization Quantization

	// Scores is how logits become scores, and RoutedScaling what all scores
	// are multiplied by.
	Scores        Scores
	RoutedScaling float64

	// CapacityTrain and CapacityEval are the capacity factors c in training
	// and in evaluation: an expert computes a number of rows that grows with c
	// as its gate has it, and drops others. They are Unlimited or positive.
	CapacityTrain, CapacityEval float64

	// RandomRouting: in training a token's second expert is dropped with a
	// probability that is larger the smaller its score is.
	RandomRouting bool

	// Jitter is ε of the numbers U(1−ε, 1+ε) that multiply logits in training.
	Jitter float64

	// Groups divides the experts into groups of equal size, and a token's
	// experts are in at most TopGroups of them; 0 stands for no groups.
	Groups, TopGroups int

	// Tile is the number of rows to multiples of which token rounding rounds.
	Tile int

	// Workers hold the experts in equal parts, WorkersPerNode of them a node;
	// Fraction is the share of tokens whose second expert may be on another
	// node.
	Workers, WorkersPerNode int
	Fraction                float64

	// Seed and Layer are two of the keys of the gate's random numbers.
	Seed, Layer int

	// FirstExpert is the number of the first expert whose weights a worker's
	// node has, and −1 where the node has those of all experts.
	FirstExpert int
}

// Unlimited is the capacity factor of experts that compute any number of rows.
const Unlimited = -1

// DefaultConfig returns what a node of a gate means that states nothing but
// its gate. A gate that is not known has the defaults of all gates.
func DefaultConfig(gate string) Config {
	c := Config{Gate: gate, Activation: GELU, Normalize: true, Scores: ScoresSoftmax, RoutedScaling: 1,
		CapacityTrain: Unlimited, CapacityEval: Unlimited, Workers: 1, WorkersPerNode: 1, FirstExpert: -1}
	if k, err := KindOf(gate); err == nil && k.Defaults != nil {
		k.Defaults(&c)
	}
	return c
}

// NaiveConfig returns the configuration of a naive gate that chooses topK
// experts.
func NaiveConfig(topK int, activation Activation) Config {
	c := DefaultConfig(GateNaive)
	c.TopK, c.Activation = topK, activation
	return c
}

// The attributes of an FMoE node; those that are not required are those of
// DefaultConfig where they are absent.
const (
	AttributeTopK           = "top_k" // int, required
	AttributeGate           = "gate"  // string, default "naive"
	AttributeActivation     = "activation"
	AttributeNormalize      = "normalize"
	AttributeExpertBits     = "expert_bits" // int, default 0: the experts' weights are floating-point
	AttributeBlockSize      = "block_size"  // int, default 32, of quantised weights only
	AttributeScores         = "scores"
	AttributeRoutedScaling  = "routed_scaling"
	AttributeCapacityTrain  = "capacity_factor_train"
	AttributeCapacityEval   = "capacity_factor_eval"
	AttributeRandomRouting  = "random_routing"
	AttributeJitter         = "jitter"
	AttributeGroups         = "groups"
	AttributeTopGroups      = "top_groups"
	AttributeTile           = "tile"
	AttributeWorkers        = "workers"
	AttributeWorkersPerNode = "workers_per_node"
	AttributeFraction       = "fraction"
	AttributeSeed           = "seed"
	AttributeLayer          = "layer"
	AttributeFirstExpert    = "first_expert" // int, of the programs of workers only
)

// attribute joins an attribute of a node with its field of Config, which is
// an *int, a *bool, a *float64 or, for any kind of string, a *string.
type attribute struct {
	name  string
	field func(c *Config) any
}

var attributes = []attribute{
	{AttributeTopK, func(c *Config) any { return &c.TopK }},
	{AttributeGate, func(c *Config) any { return &c.Gate }},
	{AttributeActivation, func(c *Config) any { return (*string)(&c.Activation) }},
	{AttributeNormalize, func(c *Config) any { return &c.Normalize }},
	{AttributeExpertBits, func(c *Config) any { return &c.Quantization.Bits }},
	{AttributeBlockSize, func(c *Config) any { return &c.Quantization.Block }},
	{AttributeScores, func(c *Config) any { return (*string)(&c.Scores) }},
	{AttributeRoutedScaling, func(c *Config) any { return &c.RoutedScaling }},
	{AttributeCapacityTrain, func(c *Config) any { return &c.CapacityTrain }},
	{AttributeCapacityEval, func(c *Config) any { return &c.CapacityEval }},
	{AttributeRandomRouting, func(c *Config) any { return &c.RandomRouting }},
	{AttributeJitter, func(c *Config) any { return &c.Jitter }},
	{AttributeGroups, func(c *Config) any { return &c.Groups }},
	{AttributeTopGroups, func(c *Config) any { return &c.TopGroups }},
	{AttributeTile, func(c *Config) any { return &c.Tile }},
	{AttributeWorkers, func(c *Config) any { return &c.Workers }},
	{AttributeWorkersPerNode, func(c *Config) any { return &c.WorkersPerNode }},
	{AttributeFraction, func(c *Config) any { return &c.Fraction }},
	{AttributeSeed, func(c *Config) any { return &c.Seed }},
	{AttributeLayer, func(c *Config) any { return &c.Layer }},
	{AttributeFirstExpert, func(c *Config) any { return &c.FirstExpert }},
}

// always is how many of the attributes are written whatever their values,
// since runtimes that run a node through its model-local function do not know
// the defaults.
const always = 4

// Attributes lists the attributes that an FMoE node may have.
var Attributes = func() []string {
	names := make([]string, len(attributes))
	for i, a := range attributes {
		names[i] = a.name
	}
	return names
}()

// ParseConfig reads the attributes of an FMoE node. It fails for attributes
// that it does not know, and for values outside what is allowed, which the
// error lists. If all that is wrong is a gate that is not registered, it
// returns the configuration with the error, [ErrUnknownGate].
func ParseConfig(n *onnx.Node) (Config, error) {
	gate := &onnx.Attribute{Name: AttributeGate, Type: onnx.AttributeString, String: []byte(GateNaive)}
	for _, a := range n.Attributes {
		if a.Name == AttributeGate {
			gate = a
		}
	}
	c := DefaultConfig(string(gate.String))
	for _, a := range n.Attributes {
		if err := c.set(a); err != nil {
			return Config{}, err
		}
	}
	if c.Quantization.Bits != 0 && c.Quantization.Block == 0 {
		c.Quantization.Block = DefaultBlock
	}
	return c, c.Check(0)
}

func (c *Config) set(a *onnx.Attribute) error {
	at := slices.IndexFunc(attributes, func(known attribute) bool { return known.name == a.Name })
	if at < 0 {
		return fmt.Errorf("attribute %q is not known; there are %s", a.Name, strings.Join(Attributes, ", "))
	}
	if a.RefName != "" {
		return fmt.Errorf("attribute %s refers to the function's attribute %q, which has no value here", a.Name, a.RefName)
	}
	want := onnx.AttributeInt
	switch field := attributes[at].field(c).(type) {
	case *int:
		*field = int(max(math.MinInt, min(a.Int, math.MaxInt)))
	case *bool:
		if a.Int != 0 && a.Int != 1 {
			return fmt.Errorf("attribute %s is %d, must be 0 or 1", a.Name, a.Int)
		}
		*field = a.Int == 1
	case *float64:
		want = onnx.AttributeFloat
		*field = decimal(a.Float)
	case *string:
		want = onnx.AttributeString
		*field = string(a.String)
	}
	if a.Type != want {
		return fmt.Errorf("attribute %s has attribute type %d, must be %d", a.Name, a.Type, want)
	}
	return nil
}

// decimal returns the shortest decimal number that float32 rounds to x: 1.2
// where a file has 1.2000000477, so that capacities are what was meant.
func decimal(x float32) float64 {
	d, _ := strconv.ParseFloat(strconv.FormatFloat(float64(x), 'g', -1, 32), 64)
	return d
}

// Encode returns the attributes of a node with this configuration: those that
// differ from the gate's defaults, and a few always.
func (c Config) Encode() []*onnx.Attribute {
	defaults := DefaultConfig(c.Gate)
	var list []*onnx.Attribute
	for i, a := range attributes {
		switch field := a.field(&c).(type) {
		case *int:
			if i < always || *field != *a.field(&defaults).(*int) {
				list = append(list, onnx.IntAttribute(a.name, int64(*field)))
			}
		case *bool:
			if i < always || *field != *a.field(&defaults).(*bool) {
				value := int64(0)
				if *field {
					value = 1
				}
				list = append(list, onnx.IntAttribute(a.name, value))
			}
		case *float64:
			if *field != *a.field(&defaults).(*float64) {
				list = append(list, onnx.FloatAttribute(a.name, float32(*field)))
			}
		case *string:
			if i < always || *field != *a.field(&defaults).(*string) {
				list = append(list, onnx.StringAttribute(a.name, *field))
			}
		}
	}
	return list
}

// All lists the attributes, those that have their defaults too, by name.
func (c Config) All() iter.Seq2[string, any] {
	return func(yield func(string, any) bool) {
		for _, a := range attributes {
			if !yield(a.name, reflect.ValueOf(a.field(&c)).Elem().Interface()) {
				return
			}
		}
	}
}

// WithGate returns c with another gate: what is as the present gate has it by
// default, or goes with other gates only, becomes the other gate's default. All
// else stays.
func (c Config) WithGate(gate string) Config {
	before, after := DefaultConfig(c.Gate), DefaultConfig(gate)
	kind, _ := KindOf(gate)
	for _, a := range attributes {
		// Fields are pointers to comparable values of one type.
		field, was, is := reflect.ValueOf(a.field(&c)).Elem(), reflect.ValueOf(a.field(&before)).Elem(), reflect.ValueOf(a.field(&after)).Elem()
		if field.Equal(was) || slices.Contains(options, a.name) && !slices.Contains(kind.Options, a.name) {
			field.Set(is)
		}
	}
	return c
}

// maxExperts bounds what a file may claim; the largest published mixtures
// have a few thousand experts in a layer.
const maxExperts = 1 << 20

// Check says what is wrong with a configuration for a number of experts, in
// one line that tells what is allowed. The number is 0 where it is not known.
func (c Config) Check(experts int) error {
	most := experts
	if experts == 0 {
		most = maxExperts
	}
	positive := func(x float64) bool { return x > 0 && !math.IsInf(x, 0) }
	switch {
	case c.TopK == 0:
		return fmt.Errorf("attribute %s is 0 or missing, must be 1 to the number of experts", AttributeTopK)
	case experts > 0 && c.TopK > experts:
		return fmt.Errorf("attribute %s is %d, more than the %d experts", AttributeTopK, c.TopK, experts)
	case c.TopK < 1 || c.TopK > most:
		return fmt.Errorf("attribute %s is %d, must be 1 to the number of experts", AttributeTopK, c.TopK)
	case !slices.Contains(Activations, c.Activation):
		return fmt.Errorf("activation %q is not known; there are %s", c.Activation, list(Activations))
	case !slices.Contains(AllScores, c.Scores):
		return fmt.Errorf("scores %q are not known; there are %s", c.Scores, list(AllScores))
	case !positive(c.RoutedScaling):
		return fmt.Errorf("attribute %s is %v, must be positive", AttributeRoutedScaling, c.RoutedScaling)
	case c.Jitter < 0 || c.Jitter >= 1 || math.IsNaN(c.Jitter):
		return fmt.Errorf("attribute %s is %v, must be 0 to below 1", AttributeJitter, c.Jitter)
	case c.Fraction < 0 || c.Fraction > 1 || math.IsNaN(c.Fraction):
		return fmt.Errorf("attribute %s is %v, must be 0 to 1", AttributeFraction, c.Fraction)
	case c.Workers < 1 || experts > 0 && c.Workers > 1 && experts%c.Workers != 0:
		return fmt.Errorf("attribute %s is %d, must divide the number of experts, %d", AttributeWorkers, c.Workers, experts)
	case c.WorkersPerNode < 1 || c.Workers%c.WorkersPerNode != 0:
		return fmt.Errorf("attribute %s is %d, must divide the number of workers, %d", AttributeWorkersPerNode, c.WorkersPerNode, c.Workers)
	case c.Groups < 0 || experts > 0 && c.Groups > 0 && experts%c.Groups != 0:
		return fmt.Errorf("attribute %s is %d, must divide the number of experts, %d", AttributeGroups, c.Groups, experts)
	case c.TopGroups < 0 || c.TopGroups > c.Groups || c.TopGroups == 0 && c.Groups > 0:
		return fmt.Errorf("attribute %s is %d, must be 1 to the number of groups, %d", AttributeTopGroups, c.TopGroups, c.Groups)
	case c.FirstExpert < -1 || experts > 0 && c.FirstExpert >= experts:
		return fmt.Errorf("attribute %s is %d, must be that of an expert, of which there are %d", AttributeFirstExpert, c.FirstExpert, experts)
	case c.Tile < 0 || c.Tile > maxExperts:
		return fmt.Errorf("attribute %s is %d, must be at least 1", AttributeTile, c.Tile)
	}
	for _, x := range []struct {
		name   string
		factor float64
	}{{AttributeCapacityTrain, c.CapacityTrain}, {AttributeCapacityEval, c.CapacityEval}} {
		if x.factor != Unlimited && !positive(x.factor) {
			return fmt.Errorf("attribute %s is %v, must be above 0, or %d for no limit", x.name, x.factor, Unlimited)
		}
	}
	if c.Quantization != (Quantization{}) {
		if err := c.Quantization.Check(); err != nil {
			return err
		}
	}
	k, err := KindOf(c.Gate)
	if err == nil {
		err = k.checkOptions(c)
	}
	if err == nil && k.Check != nil {
		err = k.Check(c, experts)
	}
	return err
}

func list[S ~string](names []S) string {
	words := make([]string, len(names))
	for i, name := range names {
		words[i] = string(name)
	}
	return strings.Join(words, ", ")
}
