package fmoefy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

// Init says how experts start.
type Init string

// initKind is a way to make experts of dense MLPs. Each is in a file of its
// own, init_*.go, and in the list inits.
type initKind struct {
	name  Init
	about string // what the experts are, in a few words

	// given names an option that is set and means something to this init only,
	// "" where none is. It is nil for an init without options.
	given func(o *Options) string

	// complete checks the init's options and fills in their defaults. TopK is 0
	// where it is not given, and so is NumExperts, both of which it may set. It
	// may be nil.
	complete func(o *Options) error

	// alone says why these experts have no shared expert beside them, "" where
	// they may.
	alone string

	// begin returns what makes the experts of one block after another. It sees
	// the blocks that are going to be replaced, in a model that is still dense.
	begin func(r *rewriter, blocks []*Block) (expertMaker, error)
}

// inits lists every init.
var inits = []*initKind{&initCopy, &initNoise, &initDrop, &initVirtualGroup, &initRandom, &initSplit, &initModels}

// Inits returns the names of the expert inits, and what experts are with each.
func Inits() (names []Init, about map[Init]string) {
	about = map[Init]string{}
	for _, k := range inits {
		names = append(names, k.name)
		about[k.name] = k.about
	}
	return names, about
}

// kindOf returns the init that options choose. It fails where there is none of
// the name, and for options of another init.
func kindOf(o *Options) (*initKind, error) {
	at := slices.IndexFunc(inits, func(k *initKind) bool { return k.name == o.Init })
	if at < 0 {
		names := make([]string, len(inits))
		for i, k := range inits {
			names[i] = string(k.name)
		}
		return nil, fmt.Errorf("expert init %q is not known; there are %s", o.Init, strings.Join(names, ", "))
	}
	for _, k := range inits {
		if k.name == o.Init || k.given == nil {
			continue
		}
		if option := k.given(o); option != "" {
			return nil, fmt.Errorf("%s needs expert init %s, not %s", option, k.name, o.Init)
		}
	}
	return inits[at], nil
}

// expertMaker makes the experts of a block. Nothing is computed before the
// model is written: tensors are sources.
type expertMaker func(s *site) (*expertPlan, error)

// eachAlone begins an init that looks at one block at a time.
func eachAlone(make expertMaker) func(*rewriter, []*Block) (expertMaker, error) {
	return func(*rewriter, []*Block) (expertMaker, error) { return make, nil }
}

// expertPlan is what takes the place of a block.
type expertPlan struct {
	// slots are the inputs of the FMoE node: experts' weights, out × in, and
	// biases, in the type that the block computes in. A router that is not there
	// is made as the options say.
	slots [moe.InputCount]stack

	// configure changes the attributes that the options ask for. It may be nil.
	configure func(c *moe.Config)

	// beside adds nodes that go with the FMoE node, whose input and output are x
	// and y, in the type that the block computes in, and returns their result in
	// y's place. It may be nil.
	beside func(n *nodes, x, y string) string

	// promise says what the function is, given the node's final attributes.
	promise func(c moe.Config) promise
}

// promise is what is known of the function of a rewritten block, compared with
// the dense one.
type promise struct {
	kept keeping
	why  string // a clause, in the plural where it is about experts
}

// keeping is how well a function is kept.
type keeping int

const (
	changed keeping = iota // it is another function
	nearly                 // the same but for small differences
	equal                  // the same up to rounding
)

// worse returns the weaker of two promises.
func (p promise) worse(q promise) promise {
	if q.kept < p.kept {
		return q
	}
	return p
}

// ifScoresSumToOne is the promise of experts that are equal to the MLP, or of
// groups of experts whose sum is: why says which.
func ifScoresSumToOne(c moe.Config, why string) promise {
	if reason := scoresDoNotSumToOne(c); reason != "" {
		return promise{changed, why + ", but " + reason}
	}
	return promise{equal, why + " and a token's scores sum to one"}
}

// tokenChoice are the gates of ours that choose top_k experts for a token.
var tokenChoice = []string{moe.GateNaive, moe.GateNoisy, moe.GateSigmoid, moe.GateSwipe, moe.GateTopology, moe.GateZero,
	moe.GateGShard, moe.GateDC, moe.GateSwitch}

// scoresDoNotSumToOne says why the scores of a token's experts do not always
// sum to one in evaluation, "" where they do.
func scoresDoNotSumToOne(c moe.Config) string {
	switch {
	case c.Gate == moe.GateTokenRounding:
		return "rounding to tiles adds to a token's experts or drops some"
	case c.Gate == moe.GateExpertChoice:
		return "experts choose tokens, so that a token's scores sum to anything"
	case !slices.Contains(tokenChoice, c.Gate):
		return fmt.Sprintf("nothing is known of the scores of the gate %s", c.Gate)
	case c.CapacityEval != moe.Unlimited:
		return "what exceeds an expert's capacity is dropped"
	case c.Scores == moe.ScoresOne && c.TopK > 1:
		return "every chosen expert counts fully"
	case !c.Normalize && c.Scores == moe.ScoresSoftmax:
		return "the softmax over all experts gives the chosen ones less than one in all"
	case !c.Normalize && c.Scores == moe.ScoresSigmoid:
		return "sigmoid scores are not divided by their sum"
	case c.RoutedScaling != 1:
		return fmt.Sprintf("a token's scores sum to %g", c.RoutedScaling)
	}
	return ""
}

// site is a block whose experts are being made.
type site struct {
	*Block
	options Options // complete
	layers  int     // replaceable blocks of the block's graph

	rewriter *rewriter
	names    map[int]string // of initializers, by slot
}

// name returns the name of the initializer in a slot.
func (s *site) name(slot int) string {
	if s.names[slot] == "" {
		s.names[slot] = s.rewriter.names.NewName(s.Block.Name + "." + moe.InputNames[slot])
	}
	return s.names[slot]
}

// normals returns random numbers for a slot of this block.
func (s *site) normals(slot int) normals { return newNormals(s.options.Seed, s.name(slot)) }

// dense returns the MLP's weight [out, in] or bias [out] in a slot of experts,
// in the type that they compute in, and nil where the MLP has none.
func (s *site) dense(slot int) *constant {
	var c *constant
	switch slot {
	case moe.InputFC1Weight:
		c = s.fc1.weight
	case moe.InputFC1Bias:
		c = s.fc1.bias
	case moe.InputFC2Weight:
		c = s.fc2.weight
	case moe.InputFC2Bias:
		c = s.fc2Bias
	case moe.InputFC3Weight:
		if s.fc3 != nil {
			c = s.fc3.weight
		}
	case moe.InputFC3Bias:
		if s.fc3 != nil {
			c = s.fc3.bias
		}
	}
	if c == nil {
		return nil
	}
	return c.as(s.ElementType)
}

// expertSlots are the slots of experts' weights and biases.
var expertSlots = []int{moe.InputFC1Weight, moe.InputFC1Bias, moe.InputFC2Weight, moe.InputFC2Bias, moe.InputFC3Weight, moe.InputFC3Bias}

// isWeight reports whether a slot has experts' weights.
func isWeight(slot int) bool {
	return slot == moe.InputFC1Weight || slot == moe.InputFC2Weight || slot == moe.InputFC3Weight
}

// each returns a plan whose slots are made one by one from those that the
// MLP has.
func (s *site) each(make func(slot int, dense *constant) stack) *expertPlan {
	m := &expertPlan{}
	for _, slot := range expertSlots {
		if dense := s.dense(slot); dense != nil {
			m.slots[slot] = make(slot, dense)
		}
	}
	return m
}

// nodes are the nodes that take a block's place.
type nodes struct {
	rewriter *rewriter
	block    *Block
	set      *expertSet
	list     []*onnx.Node
}

// op adds a node and returns its output.
func (n *nodes) op(opType string, inputs []string, attributes ...*onnx.Attribute) string {
	node := &onnx.Node{Name: n.rewriter.names.NewNodeName(n.block.Name + "." + opType), OpType: opType,
		Inputs: inputs, Outputs: []string{n.rewriter.names.NewName(n.block.Name + "." + strings.ToLower(opType))}, Attributes: attributes}
	n.list = append(n.list, node)
	return node.Outputs[0]
}

func (n *nodes) cast(x string, t onnx.DataType) string {
	return n.op("Cast", []string{x}, onnx.IntAttribute("to", int64(t)))
}

// rename gives the output of one of the nodes another name, which no node
// takes.
func (n *nodes) rename(from, to string) {
	for _, node := range n.list {
		if i := slices.Index(node.Outputs, from); i >= 0 {
			node.Outputs[i] = to
		}
	}
}

// initializer adds a tensor to the outermost graph under a name that ends in
// role, once for all blocks that share their experts and have values of its
// type, and returns the name.
func (n *nodes) initializer(role string, t *onnx.Tensor) string {
	key := role + " " + t.DataType.String()
	if name, ok := n.set.extra[key]; ok {
		return name
	}
	t.Name = n.rewriter.names.NewName(n.block.Name + "." + role)
	n.rewriter.model.Graph.Initializers = append(n.rewriter.model.Graph.Initializers, t)
	n.set.extra[key] = t.Name
	if len(t.Dims) > 0 { // others are numbers in formulas
		count, _ := t.ElementCount()
		n.set.parameters += count
	}
	return t.Name
}
