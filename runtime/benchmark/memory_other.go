//go:build !linux

package benchmark

// PeakMemory is not known here.
func PeakMemory() int64 { return 0 }
