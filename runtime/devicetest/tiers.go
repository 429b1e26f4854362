package devicetest

import "strings"

// The operators of ONNX that Transformers need, by how many exports would
// fail without them.
var tiers = map[string]string{
	"1, nothing runs without them": `Constant MatMul Gemm Add Mul Sub Div Pow Sqrt Reshape Transpose Gather
		Concat Slice Unsqueeze Squeeze Shape Cast Softmax ReduceMean LayerNormalization Identity Where Expand
		Equal ConstantOfShape Erf Tanh Sigmoid Relu Split Range Neg Reciprocal Cos Sin`,
	"2, masks, positions, caches": `Greater Less GreaterOrEqual LessOrEqual And Or Not Trilu ScatterND GatherND
		GatherElements Tile CumSum ReduceSum ReduceMax Min Max Abs Log Exp Clip Mod Floor Ceil Dropout CastLike
		Flatten Conv IsNaN Size`,
	"3, heads and control flow": `Gelu If Loop TopK ScatterElements NonZero OneHot Einsum ArgMax LogSoftmax
		ReduceL2 Pad Resize Softplus LeakyRelu HardSwish GlobalAveragePool BatchNormalization
		InstanceNormalization Sign Scan`,
	"4, fused operators": `RMSNormalization Attention RotaryEmbedding Swish TensorScatter LinearAttention SwiGLU
		Mish GroupNormalization`,
	"6, quantisation": `DequantizeLinear QuantizeLinear DynamicQuantizeLinear MatMulInteger`,
}

// Tier returns the tier of an operator of ONNX's own domain, "" for others.
func Tier(opType string) string {
	for tier, list := range tiers {
		for name := range strings.FieldsSeq(list) {
			if name == opType {
				return tier
			}
		}
	}
	return ""
}
