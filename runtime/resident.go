package runtime

import (
	goruntime "runtime"
	"slices"

	"github.com/fmoe-go/fmoe/onnx"
	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/tensor"
)

// Remote reports whether the session computes on a device with memory of its
// own, where the Data of resident tensors has addresses that mean nothing to the
// host.
func (s *Session) Remote() bool { return s.remote != nil }

// NewTensor returns zeros where the device computes, for inputs and outputs
// that are resident. The memory is given back with the tensor, or by Close.
func (s *Session) NewTensor(t onnx.DataType, shape ...int) (*tensor.Tensor, error) {
	if s.remote == nil {
		return tensor.New(t, shape...), nil
	}
	r := &tensor.Tensor{Type: t, Shape: slices.Clone(shape)}
	n := tensor.ByteSize(t, tensor.Count(shape))
	if n == 0 {
		return r, nil
	}
	var err error
	if r.Data, err = s.remote.Allocate(n); err != nil {
		return nil, err
	}
	goruntime.AddCleanup(r, func(b []byte) { _ = s.remote.Free(b) }, r.Data)
	return r, s.entered(func() error { return s.remote.Clear(r.Data) })
}

// Upload copies from the host to a resident tensor. from may change after it.
func (s *Session) Upload(to, from *tensor.Tensor) error {
	if s.remote == nil || len(from.Data) == 0 {
		copy(to.Data, from.Data)
		return nil
	}
	return s.entered(func() error { return s.remote.Upload(to.Data, from.Data) })
}

// Download copies from a resident tensor to the host, when all is done that
// has begun.
func (s *Session) Download(to, from *tensor.Tensor) error {
	if s.remote == nil || len(from.Data) == 0 {
		copy(to.Data, from.Data)
		return nil
	}
	return s.entered(func() error { return s.remote.Download(to.Data, from.Data) })
}

// Copy copies between resident tensors.
func (s *Session) Copy(to, from *tensor.Tensor) error {
	if s.remote == nil || len(from.Data) == 0 {
		copy(to.Data, from.Data)
		return nil
	}
	return s.entered(func() error { return s.remote.Copy(to.Data, from.Data) })
}

// Fetch begins to copy a resident tensor of a few bytes to the host. What it
// returns waits for that, and is to be called once.
func (s *Session) Fetch(from *tensor.Tensor) (wait func() (*tensor.Tensor, error), err error) {
	to := tensor.New(from.Type, from.Shape...)
	if s.remote == nil || len(from.Data) == 0 {
		copy(to.Data, from.Data)
		return func() (*tensor.Tensor, error) { return to, nil }, nil
	}
	var arrived func([]byte) error
	err = s.entered(func() (err error) {
		arrived, err = s.remote.Fetch(from.Data)
		return err
	})
	return func() (*tensor.Tensor, error) {
		return to, s.entered(func() error { return arrived(to.Data) })
	}, err
}

// Counts returns what the session's device was made to do since it was opened;
// false where it does not count.
func (s *Session) Counts() (device.Counts, bool) {
	c, ok := s.device.(device.Counter)
	if !ok {
		return device.Counts{}, false
	}
	return c.Counts(), true
}

func (s *Session) entered(do func() error) error {
	leave, err := s.enter()
	if err != nil {
		return err
	}
	defer leave()
	return do()
}
