package moe

// Random is the source of a gate's random numbers. Each number depends on
// these, on the token's place in the global batch and on the number's place
// among the token's alone, so that it is the same for any number of threads
// and workers.
type Random struct {
	Seed  uint64
	Step  uint32
	Layer uint32
}
