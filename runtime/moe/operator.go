// Package moe says what a mixture-of-experts node means, for every device:
// the FMoE operator's slots and attributes, the gates that choose experts, and
// the order in which tokens are dispatched to experts and combined again.
package moe

// The FMoE operator, version 1.
//
// A router scores T experts for each token, a gate picks k of them, each
// expert is a two-layer perceptron
//
//	expert(x) = fc2 · activation(fc1 · x + fc1_bias) + fc2_bias
//
// or, where fc3 is present, a gated one whose hidden layer is
// activation(fc1 · x + fc1_bias) * (fc3 · x + fc3_bias), and the output is the
// sum of the picked experts' outputs weighted by the gate's scores.
const (
	Domain  = "ai.fmoe"
	OpType  = "FMoE"
	Version = 1
)

// The input slots of an FMoE node. T is the number of experts, d the model's
// width, h the experts' hidden width; … stands for any leading dimensions.
// Inputs up to fc2_bias that are not marked optional must be there. All have
// X's element type, but the router's may be float32 where that is float16 or
// bfloat16: which experts are chosen should not depend on rounding.
//
// The experts' weights alone may be stored in fewer bits, since few tokens take
// as long as reading them does. They are float16 or bfloat16, whatever X has,
// or with the attribute expert_bits integers as [Quantization] describes them:
// [T, out, blocks, bytes of a block] uint8, and scales [T, out, blocks]
// float32. All that an expert computes, it computes in X's type, or in float32
// where that is narrower.
const (
	InputX             = iota // […, d] tokens
	InputGateWeight           // [d, T] router
	InputGateBias             // [T], optional
	InputFC1Weight            // [T, h, d], out × in
	InputFC1Bias              // [T, h], optional
	InputFC2Weight            // [T, d, h]
	InputFC2Bias              // [T, d], optional
	InputFC3Weight            // [T, h, d], optional: makes the experts gated
	InputFC3Bias              // [T, h], optional
	InputNoiseWeight          // [d, T], of gates that add noise, which need it in training
	InputFC1Scales            // [T, h, d/block_size], of quantised weights only
	InputFC2Scales            // [T, d, h/block_size], of quantised weights only
	InputFC3Scales            // [T, h, d/block_size], of quantised weights only
	InputSelectionBias        // [T], optional, of gates that take it: added to an expert's scores where experts are compared
	InputMask                 // bool, as many elements as X has tokens, optional: false for tokens that no expert computes
	InputStep                 // int64 scalar, optional: the step of training; without it the node is in evaluation
	InputCount
)

// The output slots of an FMoE node. A token has top_k slots, or T where experts
// choose tokens. Losses, scores and logits have X's type, or float32 where that
// is narrower.
const (
	OutputY             = iota // […, d], as X
	OutputAuxLoss              // scalar, optional: the gate's balance loss
	OutputExpertCount          // [T] int64, optional: rows that each expert computed
	OutputZLoss                // scalar, optional: the router z-loss
	OutputExpertIndices        // […, slots] int64, optional: the chosen experts, −1 for a dropped slot
	OutputExpertScores         // […, slots], optional: their weights in Y
	OutputRouterLogits         // […, T], optional: the router's results
	OutputHidden               // [rows, h], optional: of fc1 before the activation, for the gradient; see Rows
	OutputFactor               // [rows, h], optional: of fc3, likewise, of gated experts
	OutputCount
)

// InputNames are the names of the input slots, as documentation and
// model-local functions spell them.
var InputNames = [InputCount]string{"X", "gate_weight", "gate_bias", "fc1_weight", "fc1_bias",
	"fc2_weight", "fc2_bias", "fc3_weight", "fc3_bias", "noise_weight", "fc1_scales", "fc2_scales", "fc3_scales", "selection_bias", "mask", "step"}

// Scales returns the input slot of the scales of an expert's weight.
func Scales(weight int) int { return InputFC1Scales + (weight-InputFC1Weight)/2 }

// OutputNames are the names of the output slots.
var OutputNames = [OutputCount]string{"Y", "aux_loss", "expert_count", "z_loss", "expert_indices", "expert_scores", "router_logits", "hidden", "factor"}

// The operator FMoEGradient, version 1, has the gradients of a loss by the
// inputs of an FMoE node as outputs. Its attributes and first inputs are those
// of the node; then come the gradients by the node's outputs, of their shapes
// and types, each of them optional and zero where it is absent, and three
// outputs themselves. Output i is the gradient by input i, of its shape and
// type, and optional; quantised weights, and those of fewer bits than X, have
// none.
const (
	GradientOpType = "FMoEGradient"

	GradientCount = InputNoiseWeight + 1 // outputs
)

// The input slots of an FMoEGradient node behind those of FMoE.
const (
	GradientY = InputCount + iota
	GradientAuxLoss
	GradientZLoss
	GradientExpertScores
	GradientRouterLogits
	SavedRouterLogits // the node's router_logits
	SavedHidden       // the node's hidden
	SavedFactor       // the node's factor, where it has fc3_weight
	GradientInputCount
)
