//go:build fmoecuda

package cuda

import (
	"errors"

	"github.com/fmoe-go/fmoe/cuda/driver"
	"github.com/fmoe-go/fmoe/runtime/device"
)

func init() {
	device.Register(Name, func(device.Options) (device.Device, error) {
		if err := driver.Status(); err != nil {
			return nil, err
		}
		return nil, errors.New("no operator has a kernel yet")
	})
}
