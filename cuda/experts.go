//go:build fmoecuda

package cuda

import (
	"github.com/fmoe-go/fmoe/cuda/driver"
	"github.com/fmoe-go/fmoe/onnx"
)

// expertsParameters are those of experts_hopper.cu, laid out as there.
type expertsParameters struct {
	weights, rows                                                    [2]driver.TensorMap
	x, x2, y                                                         uintptr
	bias, keep                                                       [2]uintptr
	token, token2, offsets, tiles                                    uintptr
	experts, depth, width, height, most, activation, branches, gated int32
	_                                                                [8]byte // to a multiple of 64 bytes
}

// hopperTile is the most rows of a tile, and hopperShared the shared memory of
// a block: four stages of both operands, of which the first has 256 rows, room
// for turning results, barriers, and what aligns them to 1 KiB.
const (
	hopperTile   = 160
	hopperShared = 4*128*(256+hopperTile) + 2*2*16*68*4 + 2*4*8 + 1024
)

// hasHopperExperts reports whether the GPU's kernels of experts_hopper.cu take
// experts of a type and widths.
func (d *Device) hasHopperExperts(end string, t onnx.DataType, widths ...int) bool {
	for _, n := range widths {
		if n%8 != 0 {
			return false
		}
	}
	return t != onnx.Float32 && d.has("experts_forward"+end)
}

// hopperProduct is a launch of a kernel of experts_hopper.cu, with what its
// tensor maps describe.
type hopperProduct struct {
	*launch[expertsParameters]
	bfloat16      bool
	weights, rows [2]mappedTensor
}

type mappedTensor struct {
	address   uintptr // of what is described now
	dims, box [3]int
}

// newHopperProduct plans a product of kind forward, back or over_rows. A
// projection's weights are [experts, width, depth], or on the way back
// [experts, depth, width], and at most r.rows rows have depth numbers; over
// rows, each expert's result is [height, width].
func newHopperProduct(r *routing, kind, end string, t onnx.DataType, depth, width, height int, gated bool) (*hopperProduct, error) {
	d := r.device
	columns := ceilDiv(width, 256)
	if gated {
		columns = ceilDiv(width, 128)
	}
	tiles := (ceilDiv(r.rows, hopperTile) + r.experts) * columns // at most, whatever the choice
	if kind == "over_rows" {
		tiles = r.experts * columns * ceilDiv(height, 128)
	}
	l, err := newLaunch[expertsParameters](d, "experts_"+kind+end, 384, min(tiles, d.about.Processors))
	if err != nil {
		return nil, err
	}
	p := &hopperProduct{launch: l, bfloat16: t == onnx.BFloat16}
	*l.p = expertsParameters{experts: int32(r.experts), depth: int32(depth), width: int32(width), height: int32(height), most: int32(r.rows),
		branches: 1, gated: truth(gated)}
	for i := range p.weights {
		p.weights[i] = mappedTensor{dims: [3]int{depth, width, r.experts}, box: [3]int{64, 128, 1}}
		if kind == "back" {
			p.weights[i] = mappedTensor{dims: [3]int{width, depth, r.experts}, box: [3]int{64, 64, 1}}
		}
		p.rows[i] = mappedTensor{dims: [3]int{depth, r.rows, 1}, box: [3]int{64, 32, 1}}
	}
	l.aligned = true
	return p, l.share(hopperShared)
}

// describe has the tensor maps of a branch describe weights and, where they
// are not 0, rows.
func (p *hopperProduct) describe(branch int, weights, rows uintptr) error {
	for _, m := range []struct {
		tensor  *mappedTensor
		to      *driver.TensorMap
		address uintptr
	}{{&p.weights[branch], &p.p.weights[branch], weights}, {&p.rows[branch], &p.p.rows[branch], rows}} {
		if m.address == 0 || m.address == m.tensor.address {
			continue
		}
		if err := m.to.Encode(p.bfloat16, m.address, m.tensor.dims, m.tensor.box); err != nil {
			return err
		}
		m.tensor.address = m.address
	}
	return nil
}

// order tells the order of rows.
func (p *hopperProduct) order(d *dispatch, scratch uintptr) {
	p.p.offsets, p.p.tiles = d.offsets.in(scratch), d.tiles.in(scratch)
}
