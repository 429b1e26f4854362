package fmoefy

import (
	"fmt"
	"math"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// routing is what a gate does in evaluation. Gates that differ in training
// alone have equal routings, and nodes that have them the same function.
type routing struct {
	choice            choice
	groups, topGroups int // 0 for none
	scores            moe.Scores
	normalize         bool
	scaling           float64
	capacity          capacity
	nodes             nodesOfWorkers
}

// nodesOfWorkers says which experts are near a token. Its zero value is one
// node.
type nodesOfWorkers struct {
	workers, nodes int
	fraction       float64 // of a worker's tokens, that may use an expert on another node
}

// choice is how tokens and experts come together.
type choice int

const (
	largestLogits   choice = iota // a token takes the k experts of its largest logits
	largestSigmoids               // the same with sigmoids, to which the selection bias is added
	expertsChoose                 // an expert takes the tokens that prefer it most
	firstExpert                   // every token takes expert 0
)

// capacity is how many rows an expert computes at most. Its zero value is no
// limit.
type capacity struct {
	rule    string // of a gate's name
	factor  float64
	workers int
}

// maxParts bounds the workers for whose tokens a body has nodes of their own.
const maxParts = 256

// routingOf returns what a node of a configuration does in evaluation. It
// fails where that has no body.
func routingOf(c moe.Config) (routing, error) {
	r := routing{scores: c.Scores, normalize: c.Normalize, scaling: c.RoutedScaling}
	if r.scores == moe.ScoresOne {
		r.normalize = false // means nothing
	}
	limit := capacity{c.Gate, c.CapacityEval, 1}
	switch c.Gate {
	case moe.GateNaive, moe.GateNoisy, moe.GateSwipe, moe.GateTokenRounding:
	case moe.GateSigmoid:
		r.choice, r.groups, r.topGroups = largestSigmoids, c.Groups, c.TopGroups
	case moe.GateZero:
		return routing{choice: firstExpert, scaling: c.RoutedScaling}, nil
	case moe.GateSwitch:
		r.capacity = limit
	case moe.GateGShard, moe.GateDC:
		limit.workers = c.Workers
		r.capacity = limit
	case moe.GateExpertChoice:
		r.choice, r.capacity = expertsChoose, limit
		if limit.factor != moe.Unlimited {
			r.capacity.factor *= float64(c.TopK)
		}
		return r, nil
	case moe.GateTopology:
		if nodes := c.Workers / c.WorkersPerNode; nodes > 1 {
			r.nodes = nodesOfWorkers{c.Workers, nodes, c.Fraction}
		}
	default:
		return r, fmt.Errorf("the gate %s has no model-local function, so that other runtimes cannot run it", c.Gate)
	}
	if r.capacity.factor == moe.Unlimited {
		r.capacity = capacity{}
	}
	if max(r.capacity.workers, r.nodes.workers) > maxParts {
		return r, fmt.Errorf("the gate %s of %d workers has no model-local function, which has at most %d, so that other runtimes cannot run it", c.Gate, c.Workers, maxParts)
	}
	return r, nil
}

// countsTopK reports whether top_k, too, says what the gate does.
func (r routing) countsTopK() bool { return r.choice == largestLogits || r.choice == largestSigmoids }

// words describe the routing in a variant's description.
func (r routing) words() []string {
	var words []string
	switch r.choice {
	case largestSigmoids:
		words = append(words, "largest_sigmoids")
	case expertsChoose:
		words = append(words, "experts_choose")
	case firstExpert:
		words = append(words, "first_expert")
	}
	if r.groups > 0 {
		words = append(words, fmt.Sprintf("%d_of_%d_groups", r.topGroups, r.groups))
	}
	switch {
	case r.scores == moe.ScoresOne:
		words = append(words, "scores_one")
	case r.scores == moe.ScoresSigmoid && r.normalize:
		words = append(words, "sigmoid_scores")
	case r.scores == moe.ScoresSigmoid:
		words = append(words, "sigmoid_scores_not_normalized")
	case !r.normalize && r.scores != "":
		words = append(words, "softmax_over_all")
	}
	if r.scaling != 1 {
		words = append(words, fmt.Sprintf("scaling_%g", r.scaling))
	}
	if c := r.capacity; c.rule != "" {
		words = append(words, fmt.Sprintf("%s_capacity_%g", c.rule, c.factor))
		if c.workers > 1 {
			words = append(words, fmt.Sprintf("%d_workers", c.workers))
		}
	}
	if n := r.nodes; n.nodes > 0 {
		words = append(words, fmt.Sprintf("%d_nodes %d_workers fraction_%g", n.nodes, n.workers, n.fraction))
	}
	return words
}

// gates returns the weights [T, N, 1] with which each token's experts count.
// The router computes in float32 where the experts have a narrower type.
func (b *body) gates(tokens string) string {
	weight, bias := "gate_weight", "gate_bias"
	t := b.routerType()
	narrow := t != b.elementType
	if narrow {
		tokens, weight = b.cast(tokens, t), b.cast(weight, t)
	}
	logits := b.op("MatMul", []string{tokens, weight}) // [N, T]
	if b.gateBias {
		if narrow {
			bias = b.cast(bias, t)
		}
		logits = b.op("Add", []string{logits, bias})
	}
	gates := b.route(logits) // [N, T]
	if narrow {
		gates = b.cast(gates, b.elementType)
	}
	return b.overAxis("Unsqueeze", b.transpose(gates, 1, 0), 2)
}

func (b *body) routerType() onnx.DataType { return routerType(b.elementType) }

// route returns the weights [N, T] of experts in the output for the router's
// logits [N, T].
func (b *body) route(logits string) string {
	r := b.routing
	shape := b.op("Shape", []string{logits})
	switch r.choice {
	case firstExpert:
		first := b.op("OneHot", []string{b.ints(0), b.experts(shape), b.constant(tensor.FromSlice([]float32{0, float32(r.scaling)}))}) // [1, T]
		if b.routerType() != onnx.Float32 {
			first = b.cast(first, b.routerType())
		}
		return b.masked(b.op("Expand", []string{first, shape}))
	case expertsChoose:
		chosen := b.chosenTokens(logits, shape) // [N, T]
		return b.op("Where", []string{chosen, b.weighChosen(logits, chosen), b.constant(b.router(0))})
	}
	indices := b.choose(logits, shape) // [N, k]
	if r.nodes.nodes > 0 {
		indices = b.withinNodes(logits, indices, shape)
	}
	weights := b.masked(b.weigh(logits, indices)) // [N, k]
	if r.capacity.rule != "" {
		weights = b.op("Where", []string{b.withinCapacity(indices, shape), weights, b.constant(b.router(0))})
	}
	return b.op("ScatterElements", []string{b.filled(shape, b.router(0)), indices, weights}, axis1)
}

var axis1 = onnx.IntAttribute("axis", 1)

// experts and tokens return T and N, vectors of one element, of the logits'
// shape.
func (b *body) experts(shape string) string {
	return b.op("Slice", []string{shape, b.ints(1), b.ints(2)})
}

func (b *body) tokens(shape string) string {
	return b.op("Slice", []string{shape, b.ints(0), b.ints(1)})
}

// filled returns a tensor of one number.
func (b *body) filled(shape string, x *tensor.Tensor) string {
	return b.op("ConstantOfShape", []string{shape}, onnx.TensorAttribute("value", x.ToONNX("")))
}

// choose returns the experts [N, k] of each token, the best first.
func (b *body) choose(logits, shape string) (indices string) {
	scores := logits
	if b.routing.choice == largestSigmoids {
		scores = b.op("Sigmoid", []string{logits})
	}
	if b.selectionBias {
		bias := moe.InputNames[moe.InputSelectionBias]
		if b.routerType() != b.elementType {
			bias = b.cast(bias, b.routerType())
		}
		scores = b.op("Add", []string{scores, bias})
	}
	if b.routing.groups > 0 {
		scores = b.inBestGroups(scores, shape)
	}
	_, indices = b.top(scores, b.k(), 1)
	return indices
}

// inBestGroups returns scores [N, T] with those of experts that are not in
// one of the best groups behind all others. Groups are ranked by the sum of
// their two best scores.
func (b *body) inBestGroups(scores, shape string) string {
	groups := int64(b.routing.groups)
	size := b.op("Div", []string{b.experts(shape), b.ints(groups)})
	dims := b.op("Concat", []string{b.ints(0, groups), size}, onnx.IntAttribute("axis", 0))
	grouped := b.op("Reshape", []string{scores, dims}) // [N, groups, T/groups]
	two := b.op("Where", []string{b.op("Less", []string{size, b.ints(2)}), size, b.ints(2)})
	best, _ := b.top(grouped, two, 2)
	sums := b.overAxis("ReduceSum", best, 2, onnx.IntAttribute("keepdims", 0)) // [N, groups]
	_, indices := b.top(sums, b.ints(int64(b.routing.topGroups)), 1)
	in := b.op("ScatterElements", []string{b.filled(b.op("Shape", []string{sums}), b.router(0)), indices,
		b.filled(b.op("Shape", []string{indices}), b.router(1))}, axis1)
	in = b.overAxis("Unsqueeze", b.op("Greater", []string{in, b.constant(b.router(0))}), 2)
	kept := b.op("Where", []string{in, grouped, b.constant(b.router(math.Inf(-1)))})
	return b.op("Reshape", []string{kept, shape})
}

// top returns the k largest values along an axis and where they are.
func (b *body) top(x, k string, axis int64) (values, indices string) {
	values, indices = fmt.Sprintf("top_values_%d", len(b.nodes)), fmt.Sprintf("top_indices_%d", len(b.nodes))
	b.add("TopK", []string{x, k}, values, indices).Attributes = []*onnx.Attribute{onnx.IntAttribute("axis", axis)}
	return values, indices
}

// weigh returns the weights [N, k] of the chosen experts.
func (b *body) weigh(logits, indices string) (weights string) {
	chosen := func(of string) string { return b.op("GatherElements", []string{of, indices}, axis1) }
	r := b.routing
	switch {
	case r.scores == moe.ScoresOne:
		return b.filled(b.op("Shape", []string{indices}), b.router(r.scaling))
	case r.scores == moe.ScoresSigmoid:
		weights = b.op("Sigmoid", []string{chosen(logits)})
		if r.normalize {
			weights = b.shares(weights)
		}
	case r.normalize:
		weights = b.op("Softmax", []string{chosen(logits)}, axis1)
	default:
		weights = chosen(b.op("Softmax", []string{logits}, axis1))
	}
	return b.scaled(weights)
}

// weighChosen is weigh for experts that a matrix [N, T] of bool chooses. What
// it returns for others, [N, T], means nothing.
func (b *body) weighChosen(logits, chosen string) (weights string) {
	r := b.routing
	only := func(x string, otherwise float64) string {
		return b.op("Where", []string{chosen, x, b.constant(b.router(otherwise))})
	}
	switch {
	case r.scores == moe.ScoresOne:
		return b.constant(b.router(r.scaling))
	case r.scores == moe.ScoresSigmoid:
		weights = b.op("Sigmoid", []string{logits})
		if r.normalize {
			weights = b.shares(only(weights, 0))
		}
	case r.normalize:
		weights = b.op("Softmax", []string{only(logits, math.Inf(-1))}, axis1)
	default:
		weights = b.op("Softmax", []string{logits}, axis1)
	}
	return b.scaled(weights)
}

// shares returns the shares of the rows' sums.
func (b *body) shares(x string) string {
	return b.op("Div", []string{x, b.overAxis("ReduceSum", x, 1, onnx.IntAttribute("keepdims", 1))})
}

func (b *body) scaled(weights string) string {
	if b.routing.scaling == 1 {
		return weights
	}
	return b.op("Mul", []string{weights, b.constant(b.router(b.routing.scaling))})
}

// chosenTokens returns a matrix [N, T] of bool: the tokens that each expert
// takes.
func (b *body) chosenTokens(logits, shape string) string {
	affinities := "Softmax"
	if b.routing.scores == moe.ScoresSigmoid {
		affinities = "Sigmoid"
	}
	var attributes []*onnx.Attribute
	if affinities == "Softmax" {
		attributes = append(attributes, axis1)
	}
	byExpert := b.transpose(b.maskedBy(b.op(affinities, []string{logits}, attributes...), -1), 1, 0) // [T, N]
	_, indices := b.top(byExpert, b.limit(b.unmasked(b.tokens(shape), ""), b.experts(shape)), 1)
	zeros := b.filled(b.op("Shape", []string{byExpert}), b.router(0))
	ones := b.filled(b.op("Shape", []string{indices}), b.router(1))
	chosen := b.op("ScatterElements", []string{zeros, indices, ones}, axis1)
	return b.op("Greater", []string{b.transpose(chosen, 1, 0), b.constant(b.router(0))})
}

// withinCapacity returns a matrix [N, k] of bool: whether an expert still
// computes what chose it, token by token, a token's best choice first. Each
// worker has a part of the tokens, and of each expert's capacity.
func (b *body) withinCapacity(indices, shape string) string {
	tokens, experts := b.tokens(shape), b.experts(shape)
	workers := 1
	if b.routing.capacity.rule == moe.GateGShard {
		workers = b.routing.capacity.workers
	}
	mask := b.maskAs(onnx.Int64, 1, 1)
	return b.eachPart(workers, tokens, func(_ int, rows func(x string) string, tokens string) string {
		return b.withinPart(rows(indices), rows(mask), tokens, experts)
	})
}

// maskAs returns the token mask [N, dims…] in a type, "" where there is none.
func (b *body) maskAs(t onnx.DataType, dims ...int64) string {
	if !b.mask {
		return ""
	}
	return b.op("Reshape", []string{b.cast(moe.InputNames[moe.InputMask], t), b.ints(append([]int64{-1}, dims...)...)})
}

// eachPart joins what part returns for the tokens of each worker. rows takes
// those of a tensor [N, …].
func (b *body) eachPart(workers int, tokens string, part func(worker int, rows func(x string) string, tokens string) string) string {
	if workers == 1 {
		return part(0, func(x string) string { return x }, tokens)
	}
	var parts []string
	for w, lo := 0, b.ints(0); w < workers; w++ {
		hi := b.op("Div", []string{b.op("Mul", []string{tokens, b.ints(int64(w + 1))}), b.ints(int64(workers))})
		first := lo
		rows := func(x string) string {
			if x == "" {
				return ""
			}
			return b.op("Slice", []string{x, first, hi, b.ints(0)})
		}
		parts = append(parts, part(w, rows, b.op("Sub", []string{hi, lo})))
		lo = hi
	}
	return b.op("Concat", parts, onnx.IntAttribute("axis", 0))
}

// withinNodes moves choices [N, 2] to the experts of the tokens' nodes, where
// more tokens than a fraction of a worker's prefer another node's: only the
// fraction whose preference is largest keeps it, as the second choice.
func (b *body) withinNodes(logits, indices, shape string) string {
	n := b.routing.nodes
	size := b.op("Div", []string{b.experts(shape), b.ints(int64(n.nodes))}) // experts of a node
	mask, counted := b.maskAs(onnx.Bool, 1), b.maskAs(onnx.Int64, 1)
	op := func(opType string, inputs ...string) string { return b.op(opType, inputs) }
	return b.eachPart(n.workers, b.tokens(shape), func(worker int, rows func(x string) string, tokens string) string {
		column := func(x string, j int64) string { return op("Slice", x, b.ints(j), b.ints(j+1), b.ints(1)) }
		first := op("Mul", size, b.ints(int64(worker/(n.workers/n.nodes))))
		end := op("Add", first, size)
		logits, indices := rows(logits), rows(indices)
		preferred := column(indices, 0) // [n, 1]
		outside := op("Or", op("Less", preferred, first), op("Not", op("Less", preferred, end)))
		if b.mask {
			outside = op("And", outside, rows(mask))
		}
		count := op("Reshape", b.overAxis("ReduceSum", b.cast(outside, onnx.Int64), 0, onnx.IntAttribute("keepdims", 1)), b.ints(1))
		share := op("Mul", b.cast(b.unmasked(tokens, rows(counted)), onnx.Float64), b.constant(tensor.FromSlice([]float64{n.fraction})))
		limit := b.cast(share, onnx.Int64)
		few := op("Less", count, limit)

		preference := b.op("GatherElements", []string{logits, preferred}, axis1)
		preference = op("Where", outside, preference, b.constant(b.router(math.Inf(-1))))
		_, kept := b.top(preference, op("Where", few, count, limit), 0) // [count, 1]
		zeros := b.filled(op("Shape", preferred), b.router(0))
		ones := b.filled(op("Shape", kept), b.router(1))
		keeps := b.op("ScatterElements", []string{zeros, kept, ones}, onnx.IntAttribute("axis", 0))
		_, near := b.top(op("Slice", logits, first, end, b.ints(1)), b.ints(2), 1)
		near = op("Add", near, first)
		second := op("Where", op("Greater", keeps, b.constant(b.router(0))), preferred, column(near, 1))
		moved := b.op("Concat", []string{column(near, 0), second}, axis1)
		return op("Where", few, indices, moved)
	})
}

// withinPart is withinCapacity for tokens [n, k] of one worker.
func (b *body) withinPart(indices, mask, tokens, experts string) string {
	choices := b.op("OneHot", []string{indices, experts, b.ints(0, 1)}) // [n, k, T]
	if mask != "" {
		choices = b.op("Mul", []string{choices, mask})
	}
	choices = b.op("Flatten", []string{choices}, onnx.IntAttribute("axis", 2)) // [n·k, T]
	places := b.op("CumSum", []string{choices, b.constant(tensor.Scalar(int64(0)))})
	place := b.overAxis("ReduceSum", b.op("Mul", []string{places, choices}), 1, onnx.IntAttribute("keepdims", 0)) // [n·k], from 1
	kept := b.op("Not", []string{b.op("Greater", []string{place, b.limit(b.unmasked(tokens, mask), experts)})})
	return b.op("Reshape", []string{kept, b.op("Shape", []string{indices})})
}

// unmasked returns the number of tokens that experts compute, a vector of one
// element, of tokens whose mask is given, or of all.
func (b *body) unmasked(tokens, mask string) string {
	if !b.mask {
		return tokens
	}
	if mask == "" {
		mask = b.op("Reshape", []string{b.cast(moe.InputNames[moe.InputMask], onnx.Int64), b.ints(-1)})
	} else {
		mask = b.op("Reshape", []string{mask, b.ints(-1)})
	}
	return b.overAxis("ReduceSum", mask, 0, onnx.IntAttribute("keepdims", 1))
}

// limit returns how many rows an expert computes of so many tokens, as the
// gates compute it, in double precision.
func (b *body) limit(tokens, experts string) string {
	double := func(x string) string { return b.cast(x, onnx.Float64) }
	number := func(x float64) string { return b.constant(tensor.FromSlice([]float64{x})) }
	c := b.routing.capacity
	if c.factor == moe.Unlimited {
		return tokens
	}
	rows := b.op("Mul", []string{double(tokens), number(c.factor)})
	switch c.rule {
	case moe.GateGShard:
		most := double(b.op("Mul", []string{tokens, experts}))
		rows = b.cast(b.op("Min", []string{b.op("Ceil", []string{rows}), most}), onnx.Int64)
		return b.op("Div", []string{b.op("Mul", []string{rows, b.ints(2)}), experts})
	case moe.GateDC:
		rows = b.op("Div", []string{rows, number(float64(c.workers))})
	default:
		rows = b.op("Div", []string{rows, double(experts)})
	}
	return b.cast(b.op("Min", []string{b.op("Ceil", []string{rows}), double(tokens)}), onnx.Int64)
}

// masked returns x [N, …] with zeros for tokens that no expert computes.
func (b *body) masked(x string) string { return b.maskedBy(x, 0) }

func (b *body) maskedBy(x string, otherwise float64) string {
	if !b.mask {
		return x
	}
	mask := b.op("Reshape", []string{moe.InputNames[moe.InputMask], b.ints(-1, 1)})
	return b.op("Where", []string{mask, x, b.constant(b.router(otherwise))})
}

// router returns a vector of one element of the router's type.
func (b *body) router(x float64) *tensor.Tensor {
	t := b.routerType()
	return &tensor.Tensor{Type: t, Shape: []int{1}, Data: narrow(t, []float64{x})}
}

// k returns the number of experts for each token as a vector of one element,
// which TopK takes.
func (b *body) k() string {
	if b.topK > 0 {
		return b.ints(int64(b.topK))
	}
	value := &onnx.Attribute{Name: "value_int", Type: onnx.AttributeInt, RefName: moe.AttributeTopK}
	return b.op("Reshape", []string{b.op("Constant", nil, value), b.ints(1)})
}
