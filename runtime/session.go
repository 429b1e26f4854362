package runtime

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"

	_ "github.com/fmoe-go/fmoe/cuda" // a device, or a stand-in that says how to build it
	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/comm"
	"github.com/fmoe-go/fmoe/runtime/cpu"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// Options configure a session. The zero value is good for most uses.
type Options struct {
	// Device is the name of the device that computes: "cpu" or "cuda". "" is
	// what the environment has in FMOE_DEVICE, else "cpu".
	Device string
	// Threads is the number of CPU threads; 0 means one for each processor.
	Threads int
	// MaxMemory bounds the bytes of memory that a run may plan for; 0 means
	// 80 % of the machine's.
	MaxMemory int64
	// Profile collects the time of each node; see [Session.Profile].
	Profile bool
	// NoFusion runs the nodes that the model has, one by one, instead of
	// recognising what several compute together: for comparing and debugging.
	NoFusion bool
	// Gradient asks for gradients beside the outputs.
	Gradient *Gradient
	// Resident names inputs and outputs that lie where the device computes,
	// which is memory of [Session.NewTensor]. Others are the host's.
	Resident []string
	// Beside is a session whose device with memory of its own this one uses
	// too, so that both may share memory, and what one begins comes after all
	// that the other has begun. It is to be closed later, and its device must
	// be of the same name.
	Beside *Session
	// Worker is the number of this worker on its machine; see [device.Options].
	Worker int
	// Precision is the type in which products of float32 read and write
	// numbers: BFloat16 or Float16. Undefined leaves them as they are.
	Precision onnx.DataType
	// Workers are the groups of workers that compute the model's mixtures of
	// experts together, each for its own tokens; nil for one that is alone.
	// All of them run models with the same nodes at the same time, one run after
	// the other.
	Workers *comm.Groups
}

// Session is a model ready to run. It may be used by several goroutines.
type Session struct {
	model     *onnx.Model
	ownsModel bool
	device    device.Device
	remote    device.Remote // the device, where it has memory of its own
	shared    bool          // the device is another session's
	residents residents
	staying   []string   // names of resident inputs and outputs
	host      *evaluator // on the CPU, for constants, shapes and what the device does not take
	memory    *budget
	main      *program
	inputs    []*onnx.ValueInfo
	outputs   []*onnx.ValueInfo
	plans     planStore
	runners   runnerStore
	profile   *profile // nil unless asked for
	weights   int64
	planned   atomic.Int64 // bytes of the largest plan so far
}

// Open reads and compiles the model at path. Nodes that cannot be run are
// listed all at once by an [*UnsupportedError].
func Open(path string, o Options) (*Session, error) {
	m, err := onnx.ReadFile(path)
	if err != nil {
		return nil, err
	}
	s, err := New(m, o)
	if err != nil {
		m.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	s.ownsModel = true
	return s, nil
}

// New compiles a model, which must stay open and unchanged for as long as the
// session is used.
func New(m *onnx.Model, o Options) (*Session, error) {
	if err := onnx.Check(m); err != nil {
		return nil, err
	}
	o.Device = cmp.Or(o.Device, os.Getenv("FMOE_DEVICE"), cpu.Name)
	s := &Session{model: m.Clone(), memory: newBudget(o.MaxMemory)}
	release := func(b []byte) { s.model.Evict(b) }
	if b := o.Beside; b != nil && b.remote != nil {
		s.device, s.shared = b.device, true
	} else {
		var err error
		if s.device, err = device.Open(o.Device, device.Options{Threads: o.Threads, Worker: o.Worker, Release: release, Workers: o.Workers}); err != nil {
			return nil, err
		}
	}
	s.host = &evaluator{device: s.device, memory: s.memory}
	if remote, ok := s.device.(device.Remote); ok {
		s.remote, s.host.device = remote, cpu.New(device.Options{Threads: o.Threads, Release: release, Workers: o.Workers})
		s.staying = o.Resident
	}
	if o.Profile {
		s.profile = &profile{index: map[*node]int{}}
	}
	if err := s.compile(o); err != nil {
		return nil, errors.Join(err, s.closeDevices())
	}
	return s, nil
}

func (s *Session) compile(o Options) error {
	g := s.model.Graph
	c := &compiler{model: s.model, device: s.device, host: s.host, noFusion: o.NoFusion, gradient: o.Gradient, precision: o.Precision, weights: newWeights(s.model)}
	if err := s.model.Inline(func(n *onnx.Node) bool { return c.supports(n.Domain, n.OpType) }); err != nil {
		return err
	}
	if err := o.Gradient.check(g); err != nil {
		return err
	}
	if o.Precision != onnx.Undefined && o.Precision != onnx.BFloat16 && o.Precision != onnx.Float16 {
		return fmt.Errorf("precision %s is not supported; it can be bfloat16 or float16", o.Precision)
	}
	var err error
	if s.main, err = c.compile(); err != nil {
		return err
	}
	for _, v := range s.main.inputs {
		s.inputs = append(s.inputs, s.main.declaration(g.Inputs, v))
	}
	s.outputs = slices.Clone(g.Outputs)
	for _, v := range s.main.outputs[len(g.Outputs):] {
		s.outputs = append(s.outputs, s.main.declaration(nil, v))
	}
	s.weights = c.weights.size()
	g.Initializers, g.Nodes = nil, nil // for the collector
	return nil
}

// Inputs returns what a run needs: name, type and shape of each input. With
// gradients, the initializers in [Gradient.With] come first.
func (s *Session) Inputs() []*onnx.ValueInfo { return s.inputs }

// Outputs returns what a run gives: the model's outputs, in its order, and
// gradients in that of [Gradient.With].
func (s *Session) Outputs() []*onnx.ValueInfo { return s.outputs }

// Run computes the outputs of the model for the named inputs. The outputs are
// new tensors; see [Runner] for runs that allocate nothing. It stops between
// nodes when ctx is done.
func (s *Session) Run(ctx context.Context, inputs map[string]*tensor.Tensor) (map[string]*tensor.Tensor, error) {
	list := make([]*tensor.Tensor, len(s.inputs))
	for i, v := range s.inputs {
		t, ok := inputs[v.Name]
		if !ok || t == nil {
			return nil, fmt.Errorf("input %q is missing; the model needs %s", v.Name, s.inputNames())
		}
		if err := s.admits(i, t); err != nil {
			return nil, err
		}
		list[i] = t
	}
	if len(inputs) > len(list) {
		for name := range inputs {
			if !slices.ContainsFunc(s.inputs, func(v *onnx.ValueInfo) bool { return v.Name == name }) {
				return nil, fmt.Errorf("there is no input %q; the model has %s", name, s.inputNames())
			}
		}
	}
	out, err := s.execute(ctx, s.main, list, nil)
	if err != nil {
		return nil, err
	}
	outputs := make(map[string]*tensor.Tensor, len(out))
	for i, v := range s.outputs {
		outputs[v.Name] = out[i]
	}
	return outputs, nil
}

// admits fails where a tensor is not what the graph declares of input i.
func (s *Session) admits(i int, t *tensor.Tensor) error {
	v := s.inputs[i]
	if t == nil || !fits(v, t) {
		return fmt.Errorf("input %q is %s, the model needs %s", v.Name, t, v.Type)
	}
	return nil
}

func (s *Session) inputNames() string {
	names := make([]string, len(s.inputs))
	for i, v := range s.inputs {
		names[i] = fmt.Sprintf("%s %s", v.Name, v.Type)
	}
	return strings.Join(names, ", ")
}

// Close ends the device's threads, and closes the model if the session opened
// it.
func (s *Session) Close() error {
	err := s.closeDevices()
	if s.ownsModel {
		err = errors.Join(err, s.model.Close())
	}
	return err
}

func (s *Session) closeDevices() (err error) {
	if !s.shared {
		err = s.device.Close()
	}
	if s.remote != nil {
		err = errors.Join(err, s.host.device.Close())
	}
	return err
}
