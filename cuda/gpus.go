//go:build fmoecuda

package cuda

import (
	"fmt"

	"gorgonia.org/cu"

	"github.com/fmoe-go/fmoe/cuda/driver"
)

// GPUs lists the GPUs of this machine, or says what is missing.
func GPUs() ([]GPU, error) {
	if err := driver.Status(); err != nil {
		return nil, err
	}
	n, err := cu.NumDevices()
	if err != nil {
		return nil, err
	}
	list := make([]GPU, n)
	for i := range list {
		if list[i], err = describe(cu.Device(i)); err != nil {
			return nil, fmt.Errorf("GPU %d: %w", i, err)
		}
	}
	return list, nil
}

func describe(d cu.Device) (g GPU, err error) {
	g.DriverSupports = cu.Version()
	if g.Name, err = d.Name(); err != nil {
		return g, err
	}
	if g.Memory, err = d.TotalMem(); err != nil {
		return g, err
	}
	for attribute, to := range map[cu.DeviceAttribute]*int{
		cu.ComputeCapabilityMajor: &g.Major, cu.ComputeCapabilityMinor: &g.Minor, cu.MultiprocessorCount: &g.Processors,
	} {
		if *to, err = d.Attribute(attribute); err != nil {
			return g, err
		}
	}
	return g, nil
}
