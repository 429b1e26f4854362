package runtime

import (
	"fmt"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// evaluator computes single nodes whose inputs are all known, for constant
// folding and for nodes that can be bound only while they run.
type evaluator struct {
	device device.Device
	memory *budget
}

// fold computes the outputs of a node whose inputs are all known, unless they
// are known already, are larger than limit bytes in all, or the node is not
// one to fold. A nil kernel is compiled when it is needed.
func (e *evaluator) fold(n *op.Node, kernel device.Kernel, inputs, outputs []op.Fact, limit int) error {
	if n.Operator.Nondeterministic || controls[n.OpType] != nil || allKnown(outputs) {
		return nil
	}
	for i := range inputs {
		if inputs[i].Value == nil && n.Input(i) != "" {
			return nil
		}
	}
	in := make([]*tensor.Tensor, len(inputs))
	for i := range inputs {
		in[i] = inputs[i].Value
	}
	size := 0
	for i := range outputs {
		if n.Output(i) == "" && i > 0 {
			continue
		}
		if !outputs[i].Concrete() {
			return nil
		}
		count, err := tensor.CheckedCount(outputs[i].Type, outputs[i].Ints())
		if err != nil {
			return err
		}
		width := outputs[i].Type.Bits()
		if outputs[i].Type == onnx.String {
			width = 128
		}
		if size += count * width / 8; size > limit {
			return nil
		}
	}
	if n.Operator.View {
		outputs[0].Value = &tensor.Tensor{Type: outputs[0].Type, Shape: outputs[0].Ints(), Data: in[0].Data, Strings: in[0].Strings}
		return nil
	}
	if kernel == nil {
		var err error
		if kernel, err = e.device.Compile(n, in); err != nil {
			return err
		}
	}
	out, err := e.run(n, kernel, in, outputs)
	if err != nil {
		return err
	}
	for i, t := range out {
		if t != nil {
			outputs[i].Value = t
		}
	}
	return nil
}

// run computes a node for the given inputs into new tensors.
func (e *evaluator) run(n *op.Node, kernel device.Kernel, in []*tensor.Tensor, outputs []op.Fact) ([]*tensor.Tensor, error) {
	call := device.Call{In: in, Out: make([]*tensor.Tensor, len(outputs)), Scratch: &device.Scratch{}}
	for i := range outputs {
		if n.Output(i) == "" && i > 0 {
			continue
		}
		if outputs[i].Type == onnx.Undefined {
			return nil, fmt.Errorf("the type of output %d cannot be inferred", i)
		}
		if !outputs[i].Concrete() {
			call.Out[i] = &tensor.Tensor{Type: outputs[i].Type}
			continue
		}
		shape := outputs[i].Ints()
		if err := e.memory.admit(outputs[i].Type, shape); err != nil {
			return nil, err
		}
		call.Out[i] = tensor.New(outputs[i].Type, shape...)
	}
	compute, err := kernel.Bind(&call)
	if err != nil {
		return nil, err
	}
	return call.Out, compute()
}
