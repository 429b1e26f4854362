package moe

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
)

// Gate decides which experts compute which tokens of a layer. It is made for
// one layer, and may keep memory from batch to batch.
type Gate interface {
	// Slots is the number of slots of a token: top_k, or the number of experts
	// where experts choose tokens.
	Slots() int

	// Choose decides what can be decided for the tokens lo … hi of a batch
	// each on its own: it fills their rows of Indices and Scores, best first.
	// Devices call it concurrently for parts of a batch.
	Choose(b *Batch, lo, hi int)

	// Settle decides what takes all tokens: capacities and what they drop,
	// random routing, losses. It is called once, when Choose has seen every
	// token.
	Settle(b *Batch)
}

// Batch is what a gate decides about, N tokens before T experts, and what it
// decided. Gates compute in float64, whatever type the tokens have.
type Batch struct {
	Tokens, Experts int

	// Logits [N, T] are the router's. A gate that adds noise to them changes
	// them, so that they are what it chose by.
	Logits []float64

	// Noise [N, T] is the noisy gate's second projection, before softplus,
	// which the gate overwrites. It is nil without one, and in evaluation.
	Noise []float64

	// SelectionBias [T] is added to an expert's scores where experts are
	// compared, not where outputs are weighed; nil stands for zeros.
	SelectionBias []float64

	// Mask [N] is false for tokens that no expert shall compute; nil stands
	// for none of those.
	Mask []bool

	// Training: noise, jitter and random routing apply, and the capacity of
	// training.
	Training bool

	// Random gives a gate's random numbers.
	Random Random

	// First is the place of the first token among those of all workers.
	First int64

	// Sequence is the number of consecutive tokens that are a sequence, which
	// balance losses of single sequences see; 0 stands for all of them.
	Sequence int

	// Indices and Scores [N, slots] are the chosen experts and their weights
	// in the output. An index of −1 is a dropped slot: no expert computes it,
	// its score is 0, and the token's other scores stay as they were.
	Indices []int32
	Scores  []float64

	// BalanceLoss is what the gate wants to be small for experts to be used
	// evenly, 0 of a gate that has no such loss. It is computed where WantLoss
	// is set.
	WantLoss    bool
	BalanceLoss float64
}

// row returns the logits of a token.
func (b *Batch) row(token int) []float64 {
	return b.Logits[token*b.Experts : (token+1)*b.Experts]
}

// masked reports whether no expert shall compute a token.
func (b *Batch) masked(token int) bool { return b.Mask != nil && !b.Mask[token] }

// Kind is a kind of gate, as [Register] makes it known.
type Kind struct {
	Name string

	// Summary says in a line how the gate chooses.
	Summary string

	// Options are the attributes that the gate takes, of those that only some
	// gates take: capacities and the like.
	Options []string

	// Defaults sets what differs from the defaults of all gates.
	Defaults func(c *Config)

	// Check says what is wrong with a configuration, in one line that tells
	// what is allowed; nil stands for a gate that takes any. The number of
	// experts is 0 where it is not known.
	Check func(c Config, experts int) error

	// New makes the gate of a layer.
	New func(c Config, experts int) Gate

	// Noisy: the gate takes the input noise_weight.
	Noisy bool

	// SelectionBias: the gate takes the input selection_bias.
	SelectionBias bool

	// Workers: it matters to the gate how many workers hold the experts.
	Workers bool

	// ExpertChoice: a token has a slot for each expert.
	ExpertChoice bool

	// Rows returns the most rows that the experts compute for a number of
	// tokens; nil stands for a row for each slot.
	Rows func(c Config, tokens, experts int) int
}

// Slots returns the number of slots of a token.
func (k Kind) Slots(c Config, experts int) int {
	if k.ExpertChoice {
		return experts
	}
	return c.TopK
}

// Rows returns the most rows that the experts compute for a number of tokens.
// They are in the order of [Dispatch] in what a node keeps for its gradient.
func (c Config) Rows(tokens, experts int) int {
	k, err := KindOf(c.Gate)
	if err != nil {
		return 0
	}
	slots := tokens * k.Slots(c, experts)
	if k.Rows == nil {
		return slots
	}
	return min(k.Rows(c, tokens, experts), slots)
}

var (
	kindsLock sync.RWMutex
	kinds     []Kind
)

// Register makes a gate known by its name, which a node's attribute gate and
// fmoefy's option --gate have. It panics where the name is taken or empty.
func Register(k Kind) {
	kindsLock.Lock()
	defer kindsLock.Unlock()
	if k.Name == "" || k.New == nil || slices.ContainsFunc(kinds, func(other Kind) bool { return other.Name == k.Name }) {
		panic(fmt.Sprintf("moe: gate %q has no name, no function that makes it, or is there already", k.Name))
	}
	kinds = append(kinds, k)
	slices.SortFunc(kinds, func(a, b Kind) int { return strings.Compare(a.Name, b.Name) })
}

// Gates returns the names of all gates.
func Gates() []string {
	kindsLock.RLock()
	defer kindsLock.RUnlock()
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = k.Name
	}
	return names
}

// ErrUnknownGate is wrapped by errors about gates that are not registered.
var ErrUnknownGate = errors.New("not known")

// KindOf returns the gate of a name. It fails with ErrUnknownGate for one that
// is not registered.
func KindOf(name string) (Kind, error) {
	kindsLock.RLock()
	defer kindsLock.RUnlock()
	for _, k := range kinds {
		if k.Name == name {
			return k, nil
		}
	}
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = k.Name
	}
	return Kind{}, fmt.Errorf("gate %q is %w; there are %s", name, ErrUnknownGate, strings.Join(names, ", "))
}

// options are the attributes that only gates take which say so.
var options = []string{AttributeCapacityTrain, AttributeCapacityEval, AttributeRandomRouting, AttributeJitter,
	AttributeGroups, AttributeTopGroups, AttributeTile, AttributeFraction}

// checkOptions fails where a configuration states what the gate does not take.
func (k Kind) checkOptions(c Config) error {
	defaults := DefaultConfig(k.Name)
	for _, a := range attributes {
		if !slices.Contains(options, a.name) || slices.Contains(k.Options, a.name) {
			continue
		}
		// Fields are pointers to comparable values of one type.
		if reflect.ValueOf(a.field(&c)).Elem().Equal(reflect.ValueOf(a.field(&defaults)).Elem()) {
			continue
		}
		takes := "takes none of its kind"
		if len(k.Options) > 0 {
			takes = "takes " + strings.Join(k.Options, ", ")
		}
		return fmt.Errorf("attribute %s does not go with the gate %s, which %s", a.name, k.Name, takes)
	}
	return nil
}

// NewGate makes the gate that a configuration names, for a layer of the given
// number of experts. It fails where the two do not go together.
func NewGate(c Config, experts int) (Gate, error) {
	if experts < 1 {
		return nil, fmt.Errorf("there are %d experts, must be 1 or more", experts)
	}
	if err := c.Check(experts); err != nil {
		return nil, err
	}
	k, err := KindOf(c.Gate)
	if err != nil {
		return nil, err
	}
	return k.New(c, experts), nil
}
