package simd

// Pause tells the processor that a loop waits for another thread.
func Pause() { pause() }
