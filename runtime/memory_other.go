//go:build !linux

package runtime

// machineMemory stands for what cannot be asked portably.
func machineMemory() uint64 { return 4 << 30 }
