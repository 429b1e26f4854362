package runtime

import "golang.org/x/sys/unix"

// machineMemory returns the bytes of memory that the machine has.
func machineMemory() uint64 {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return fallbackMemory
	}
	return uint64(info.Totalram) * uint64(info.Unit)
}

const fallbackMemory = 4 << 30
