package cpu

import (
	"math"
	"math/rand/v2"
	"sync/atomic"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

func init() {
	for _, name := range []string{"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli"} {
		register("", name, newRandom)
	}
}

// randomSource gives each run of a node a stream of its own.
type randomSource struct {
	seed uint64
	runs atomic.Uint64
}

// newRandomSource starts from the attribute seed, an integer or a float, or
// from a number that nobody chose where the node has none.
func newRandomSource(n *op.Node) *randomSource {
	seed := rand.Uint64()
	if a := n.Attribute("seed"); a != nil {
		seed = uint64(a.Int) ^ uint64(math.Float32bits(a.Float))<<32
	}
	return &randomSource{seed: scramble(seed)}
}

func (s *randomSource) stream() randomStream {
	return randomStream(scramble(s.seed ^ scramble(s.runs.Add(1))))
}

// randomStream gives the i-th number of a sequence without those before it, so
// that the elements of a tensor do not depend on the threads that draw them.
type randomStream uint64

// uniform returns number i, from 0 to below 1.
func (s randomStream) uniform(i int) float64 {
	return float64(scramble(uint64(s)^scramble(uint64(i)))>>11) * 0x1p-53
}

// normal returns number i with the standard normal distribution (Box and
// Muller 1958), from the uniform numbers 2i and 2i+1.
func (s randomStream) normal(i int) float64 {
	radius := math.Sqrt(-2 * math.Log(1-s.uniform(2*i)))
	return radius * math.Cos(2*math.Pi*s.uniform(2*i+1))
}

// scramble is the step of SplitMix64 (Steele, Lea and Flood 2014).
func scramble(z uint64) uint64 {
	z += 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

func newRandom(d *Device, n *op.Node, _ []*tensor.Tensor) (device.Kernel, error) {
	source := newRandomSource(n)
	return device.KernelFunc(func(c *device.Call) (func() error, error) {
		draw, err := newDraw(n, c)
		if err != nil {
			return nil, err
		}
		put := newStore[float64](c.Out[0].Type, tensor.Rounding{})
		if put == nil {
			return nil, device.UnsupportedType(c.Out[0].Type)
		}
		var stream randomStream
		buffers := newBuffers[float64](d)
		run := d.overChunks(c.Out[0], func(lo, hi int) {
			buffer := buffers.take()
			for i := lo; i < hi; i++ {
				buffer[i-lo] = draw(stream, i)
			}
			put(c.Out[0], lo, buffer[:hi-lo])
			buffers.give(buffer)
		})
		return func() error {
			stream = source.stream()
			return run()
		}, nil
	}), nil
}

// newDraw returns what gives element i of a node's output.
func newDraw(n *op.Node, c *device.Call) (func(s randomStream, i int) float64, error) {
	switch n.OpType {
	case "RandomNormal", "RandomNormalLike":
		mean, scale := float64(n.Float("mean", 0)), float64(n.Float("scale", 1))
		return func(s randomStream, i int) float64 { return mean + scale*s.normal(i) }, nil
	case "RandomUniform", "RandomUniformLike":
		low, high := float64(n.Float("low", 0)), float64(n.Float("high", 1))
		return func(s randomStream, i int) float64 { return low + (high-low)*s.uniform(i) }, nil
	}
	switch t := c.In[0].Type; t {
	case onnx.Float32:
		return bernoulli[float32](c), nil
	case onnx.Float64:
		return bernoulli[float64](c), nil
	default:
		return nil, device.UnsupportedType(t)
	}
}

func bernoulli[T float](c *device.Call) func(s randomStream, i int) float64 {
	return func(s randomStream, i int) float64 {
		if s.uniform(i) < float64(tensor.Of[T](c.In[0])[i]) {
			return 1
		}
		return 0
	}
}
