//go:build fmoecuda

package cuda

import (
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() { register(moe.Domain, bindChain, "Chain") }

// bindChain makes one kernel of a chain where it can be generated and compiled.
func bindChain(d *Device, n *op.Node, c *device.Call) (func() error, error) {
	chain, err := op.ParseChain(n.Node)
	if err != nil {
		return nil, err
	}
	if run, err := bindGenerated(d, chain, c); err == nil {
		return run, nil
	}
	return bindNodes(d, chain, c)
}

// bindNodes runs the nodes of a chain one after the other, with what is between
// them in scratch memory, where values that nobody reads any more make place
// for others.
func bindNodes(d *Device, chain *op.Chain, c *device.Call) (func() error, error) {
	var err error
	facts := make([]op.Fact, len(c.In))
	for i, t := range c.In {
		facts[i] = op.Fact{Type: t.Type, Shape: op.Dims(t.Shape...)}
	}
	if facts, err = chain.Infer(facts, &op.Symbols{}); err != nil {
		return nil, err
	}
	last := map[int]int{} // by value: the last node that reads it
	for i, in := range chain.In {
		for _, v := range in {
			last[v] = i
		}
	}
	var memory layout
	type kept struct {
		tensor *tensor.Tensor
		at     place
		size   int
	}
	values, free := slices.Clone(c.In), map[int][]place{}
	var between []kept
	var steps []func() error
	for i, inner := range chain.Nodes {
		bind := binders[kernelKey{onnx.CanonicalDomain(inner.Domain), inner.OpType}]
		if bind == nil {
			return nil, errForm
		}
		call := &device.Call{In: make([]*tensor.Tensor, len(chain.In[i])), Scratch: &device.Scratch{}}
		for j, v := range chain.In[i] {
			if v >= 0 {
				call.In[j] = values[v]
			}
		}
		out := c.Out[0]
		if i < len(chain.Nodes)-1 {
			f := &facts[chain.Inputs+i]
			out = &tensor.Tensor{Type: f.Type, Shape: f.Ints()}
			k := kept{tensor: out, size: out.Len() * out.Type.Bits() / 8}
			if list := free[k.size]; len(list) > 0 {
				k.at, free[k.size] = list[len(list)-1], list[:len(list)-1]
			} else {
				k.at = memory.take(k.size)
			}
			between = append(between, k)
		}
		values, call.Out = append(values, out), []*tensor.Tensor{out}
		step, err := bind(d, inner, call)
		if err != nil {
			return nil, err
		}
		if call.Scratch.Size() > 0 {
			return nil, errForm
		}
		steps = append(steps, step)
		for j, v := range chain.In[i] {
			if v >= chain.Inputs && last[v] == i && !slices.Contains(chain.In[i][:j], v) {
				k := between[v-chain.Inputs]
				free[k.size] = append(free[k.size], k.at)
			}
		}
	}
	c.Scratch.Reserve(memory.size)
	run := inOrder(steps...)
	return func() error {
		scratch := c.Scratch.Bytes()
		for _, k := range between {
			k.tensor.Data = scratch[k.at-1:][:k.size]
		}
		return run()
	}, nil
}
