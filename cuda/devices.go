package cuda

// GPU describes one that this machine has.
type GPU struct {
	Name           string
	Memory         int64 // bytes
	Major, Minor   int   // compute capability
	Processors     int   // streaming multiprocessors
	DriverSupports int   // the newest CUDA version that the driver supports, 13000 for 13.0
}
