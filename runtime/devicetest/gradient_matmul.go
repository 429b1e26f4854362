package devicetest

import (
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
)

func init() {
	number, real := onnx.IntAttribute, onnx.FloatAttribute
	for _, s := range [][2][]int{
		{{5, 3}, {3, 4}}, {{2, 5, 3}, {3, 4}}, {{2, 1, 5, 3}, {4, 3, 4}}, {{3, 4}, {2, 4, 3}},
		{{3}, {3}}, {{3}, {3, 4}}, {{5, 3}, {3}}, {{2, 5, 3}, {3}}, {{3}, {2, 3, 4}},
	} {
		GradientCases = append(GradientCases, GradientCase{Name: fmt.Sprintf("MatMul/%v·%v", s[0], s[1]), OpType: "MatMul", Inputs: []Input{Random(s[0]...), Random(s[1]...)}})
	}
	for _, s := range []struct {
		a, b       []int
		attributes []*onnx.Attribute
	}{
		{[]int{5, 3}, []int{3, 4}, []*onnx.Attribute{real("alpha", 0.5)}},
		{[]int{3, 5}, []int{3, 4}, []*onnx.Attribute{number("transA", 1)}},
		{[]int{5, 3}, []int{4, 3}, []*onnx.Attribute{number("transB", 1)}},
		{[]int{2, 5, 3}, []int{4, 3}, []*onnx.Attribute{number("transB", 1)}},
		{[]int{2, 3, 5}, []int{3, 4}, []*onnx.Attribute{number("transA", 1)}},
		{[]int{2, 3, 5}, []int{2, 4, 3}, []*onnx.Attribute{number("transA", 1), number("transB", 1), real("alpha", -2)}},
		{[]int{5, 2, 3}, []int{2, 3, 4}, []*onnx.Attribute{number("transBatchA", 1)}},
		{[]int{2, 5, 3}, []int{4, 2, 3}, []*onnx.Attribute{number("transBatchB", 1), number("transB", 1)}},
		{[]int{3, 2, 6, 5}, []int{2, 1, 3, 4}, []*onnx.Attribute{number("transBatchA", 1), number("transA", 1)}},
		{[]int{3}, []int{4, 3}, []*onnx.Attribute{number("transB", 1)}},
	} {
		GradientCases = append(GradientCases, GradientCase{Name: "FusedMatMul" + names(s.attributes), Domain: "com.microsoft", OpType: "FusedMatMul",
			Inputs: []Input{Random(s.a...), Random(s.b...)}, Attributes: s.attributes})
	}
	gemm := func(opset int64, a, b Input, c Input, attributes ...*onnx.Attribute) {
		GradientCases = append(GradientCases, GradientCase{Name: fmt.Sprintf("Gemm/%d/C%v%s", opset, c.Shape, names(attributes)), OpType: "Gemm", Opset: opset,
			Inputs: []Input{a, b, c}, Attributes: attributes})
	}
	absent := Input{Absent: true}
	gemm(24, Random(5, 3), Random(3, 4), absent)
	gemm(24, Random(5, 3), Random(3, 4), Random(4), real("alpha", 2), real("beta", 0.5))
	gemm(24, Random(3, 5), Random(3, 4), Random(5, 1), number("transA", 1))
	gemm(24, Random(5, 3), Random(4, 3), Random(1, 4), number("transB", 1))
	gemm(24, Random(3, 5), Random(4, 3), Random(), number("transA", 1), number("transB", 1), real("alpha", -1))
	gemm(7, Random(5, 3), Random(3, 4), Random(5, 4), real("beta", 3))
	for _, activation := range []string{"Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid"} {
		attributes := []*onnx.Attribute{onnx.StringAttribute("activation", activation), number("transB", 1), real("activation_alpha", 0.25), real("activation_beta", 0.5)}
		GradientCases = append(GradientCases, GradientCase{Name: "FusedGemm/" + activation, Domain: "com.microsoft", OpType: "FusedGemm",
			Inputs: []Input{Random(5, 3), Random(4, 3), Random(4)}, Attributes: attributes})
	}
}

// names lists attributes for the name of a case.
func names(attributes []*onnx.Attribute) (s string) {
	for _, a := range attributes {
		s += "/" + a.Name
	}
	return s
}
