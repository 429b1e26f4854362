//go:build !amd64 && !arm64

package tensor

// readsUnaligned: the processor reads numbers at any address.
const readsUnaligned = false
