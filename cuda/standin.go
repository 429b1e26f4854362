//go:build !fmoecuda

package cuda

import (
	"errors"

	"github.com/fmoe-go/fmoe/runtime/device"
)

// ErrNotBuilt is the answer of a program that was built without CUDA.
var ErrNotBuilt = errors.New("this program was built without CUDA; make cuda builds bin/moerun with it")

func init() {
	device.Register(Name, func(device.Options) (device.Device, error) { return nil, ErrNotBuilt })
}

// GPUs fails with ErrNotBuilt.
func GPUs() ([]GPU, error) { return nil, ErrNotBuilt }
