package fmoefy

import (
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/moe"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// Split divides the MLP's hidden neurons among the experts, so that a token
// that gets k of T experts takes k/T of the work (Zhang et al., "MoEfication",
// arXiv 2110.01786). All experts together are the MLP: every chosen expert
// counts with weight 1, and the bias of the second projection, which is no
// expert's, is added after them.
//
// Without calibration neurons with similar weights are one expert, and a router's
// column is the mean of an expert's first projection. With it, see [split].
const Split Init = "split"

var initSplit = initKind{
	name:  Split,
	about: "parts of the MLP, which take less work",
	given: func(o *Options) string {
		if len(o.Calibration) > 0 {
			return "calibration"
		}
		return ""
	},
	complete: func(o *Options) error {
		switch {
		case o.Gate != moe.GateNaive:
			return fmt.Errorf("expert init split needs gate naive, not %s: its router is made for the experts with the largest logits", o.Gate)
		case o.Scores != nil && *o.Scores != moe.ScoresOne:
			return fmt.Errorf("expert init split needs scores one, not %s: experts add up to the MLP", *o.Scores)
		case o.GateInit != "" && o.GateInit != GateNormal || o.GateStd != 0 || o.GateScale != 0 || len(o.Prompts) > 0:
			return errors.New("expert init split makes routers of the MLP: leave out the gate init and its options")
		}
		one := moe.ScoresOne
		o.Scores = &one
		return nil
	},
	begin: beginSplit,
}

// beginSplit divides all blocks at once, since calibration runs the model.
func beginSplit(r *rewriter, blocks []*Block) (expertMaker, error) {
	experts := int64(r.options.NumExperts)
	for _, b := range blocks {
		if b.DHidden%experts != 0 {
			return nil, fmt.Errorf("block %s: its hidden width %d cannot be divided among %d experts: their number must divide it", b.Name, b.DHidden, experts)
		}
	}
	splits, worst := map[*Block]*split{}, 0.0
	if len(r.options.Calibration) > 0 {
		tokens, err := r.calibrationTokens(blocks)
		if err != nil {
			return nil, err
		}
		done := map[string]*split{}
		for _, b := range blocks {
			key := r.splitKey(b)
			if done[key] == nil {
				if done[key], err = r.calibratedSplit(b, tokens[key]); err != nil {
					return nil, fmt.Errorf("block %s: %w", b.Name, err)
				}
			}
			delete(tokens, key)
			splits[b] = done[key]
			worst = max(worst, done[key].loss)
		}
	}
	return func(s *site) (*expertPlan, error) {
		f := splits[s.Block]
		if f == nil {
			var err error
			if f, err = s.splitByWeights(); err != nil {
				return nil, err
			}
		}
		m := s.planOf(f)
		m.promise = func(c moe.Config) promise {
			switch {
			case c.Scores != moe.ScoresOne || c.RoutedScaling != 1 || c.CapacityEval != moe.Unlimited:
				return promise{changed, "experts are parts of the MLP that do not all count fully"}
			case c.TopK == int(experts):
				return promise{equal, "the experts are the parts of the MLP and a token gets all of them"}
			case len(r.options.Calibration) == 0:
				return promise{changed, fmt.Sprintf("a token gets %d of %d parts of the MLP", c.TopK, experts)}
			}
			return promise{changed, fmt.Sprintf("a token gets %d of %d parts of the MLP; on the calibration data at most %.2g %% of the variance of an MLP's results is lost", c.TopK, experts, 100*worst)}
		}
		return m, nil
	}, nil
}

// matrix returns the elements of the MLP's weight or bias in a slot.
func (b *Block) matrix(c *constant) ([]float32, error) {
	if c == nil {
		return nil, nil
	}
	c = c.as(onnx.Float32)
	elements, err := c.bytes()
	if err != nil {
		return nil, err
	}
	t := tensor.New(onnx.Float32, int(c.elements()))
	copy(t.Data, elements)
	return tensor.Of[float32](t), nil
}

// splitByWeights divides the MLP by its first projections alone.
func (s *site) splitByWeights() (*split, error) {
	experts, d := s.options.NumExperts, int(s.DModel)
	groups, err := s.clusters(experts)
	if err != nil {
		return nil, err
	}
	weight, err := s.matrix(s.fc1.weight)
	if err != nil {
		return nil, err
	}
	bias, err := s.matrix(s.fc1.bias)
	if err != nil {
		return nil, err
	}
	f := &split{order: inGroups(groups, experts), router: make([]float64, (d+1)*experts)}
	each := float64(len(groups) / experts)
	for j, g := range groups {
		for i, w := range weight[j*d:][:d] {
			f.router[i*experts+g] += float64(w) / each
		}
		if bias != nil {
			f.router[d*experts+g] += float64(bias[j]) / each
		}
	}
	return f, nil
}

// clusters returns the expert of each hidden neuron, by the direction of the
// inputs to which it responds.
func (b *Block) clusters(experts int) ([]int, error) {
	list := []*linear{b.fc1}
	if b.fc3 != nil {
		list = append(list, b.fc3)
	}
	h, d := int(b.DHidden), int(b.DModel)
	width := d * len(list)
	directions := make([]float32, h*width)
	for k, l := range list {
		weight, err := b.matrix(l.weight)
		if err != nil {
			return nil, err
		}
		for j := range h {
			row := weight[j*d:][:d]
			norm := distance(row, make([]float64, d))
			for i, w := range row {
				if norm > 0 {
					directions[j*width+k*d+i] = w / float32(math.Sqrt(norm))
				}
			}
		}
	}
	return balancedKMeans(directions, width, experts, 0), nil
}

// planOf returns the experts of a split.
func (s *site) planOf(f *split) *expertPlan {
	experts, h, d := int64(s.options.NumExperts), s.DHidden, s.DModel
	each := h / experts
	m := &expertPlan{}
	for _, slot := range expertSlots {
		dense := s.dense(slot)
		switch {
		case slot == moe.InputFC2Bias && f.bias != nil:
			m.slots[slot] = newStack(s.ElementType, []int64{experts, d}, fixed{s.ElementType, f.bias})
		case slot == moe.InputFC2Bias || dense == nil:
		case slot == moe.InputFC2Weight:
			m.slots[slot] = newStack(s.ElementType, []int64{experts, d, each}, &splitColumns{dense, f, int(each)})
		default:
			dims := append([]int64{experts, each}, dense.dims[1:]...)
			m.slots[slot] = newStack(s.ElementType, dims, &splitRows{dense, f.order})
		}
	}
	t := routerType(s.ElementType)
	cut := int(d * experts)
	m.slots[moe.InputGateWeight] = newStack(t, []int64{d, experts}, fixed{t, f.router[:cut]})
	m.slots[moe.InputGateBias] = newStack(t, []int64{experts}, fixed{t, f.router[cut:]})
	if bias := s.dense(moe.InputFC2Bias); bias != nil {
		m.beside = func(n *nodes, _, y string) string {
			return n.op("Add", []string{y, n.initializer(moe.InputNames[moe.InputFC2Bias], newStack(bias.elementType(), bias.dims, view{bias}).whole(""))})
		}
	}
	return m
}

// splitRows is the source of a dense weight's or bias's rows in another order.
type splitRows struct {
	dense *constant
	order []int
}

func (s *splitRows) Size() int64 { return s.dense.size() }

// WriteTo implements [onnx.Source].
func (s *splitRows) WriteTo(w io.Writer) (int64, error) {
	elements, err := s.dense.bytes()
	if err != nil {
		return 0, err
	}
	width := len(elements) / len(s.order)
	written := int64(0)
	for some := range slices.Chunk(s.order, max(1, chunk/max(width, 1))) {
		rows := make([]byte, 0, len(some)*width)
		for _, i := range some {
			rows = append(rows, elements[i*width:][:width]...)
		}
		n, err := w.Write(rows)
		if written += int64(n); err != nil {
			return written, err
		}
	}
	return written, nil
}

// splitColumns is the source of the second projections of experts: columns of
// the dense one, corrected.
type splitColumns struct {
	dense *constant // [out, in]
	split *split
	each  int // neurons of an expert
}

func (s *splitColumns) Size() int64 { return s.dense.size() }

// WriteTo implements [onnx.Source].
func (s *splitColumns) WriteTo(w io.Writer) (int64, error) {
	elements, err := s.dense.bytes()
	if err != nil {
		return 0, err
	}
	t := s.dense.elementType()
	out, in, width := int(s.dense.dims[0]), int(s.dense.dims[1]), t.Bits()/8
	written := int64(0)
	for first := 0; first < in; first += s.each {
		expert := make([]byte, 0, out*s.each*width)
		for i := range out {
			for _, j := range s.split.order[first:][:s.each] {
				expert = append(expert, elements[(i*in+j)*width:][:width]...)
			}
		}
		if s.split.correction != nil {
			values := widen(t, expert)
			for i := range out {
				for j := range s.each {
					values[i*s.each+j] += float64(s.split.correction[(first+j)*out+i])
				}
			}
			expert = narrow(t, values)
		}
		n, err := w.Write(expert)
		if written += int64(n); err != nil {
			return written, err
		}
	}
	return written, nil
}
