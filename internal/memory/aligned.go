// Package memory allocates the large slices that vector code reads, and maps
// files.
package memory

import "unsafe"

// line is the size of a cache line in bytes.
const line = 64

// hugePage is the size from which an allocation asks for huge pages.
const hugePage = 2 << 20

// Aligned returns n zero bytes that start on a cache line. Where it can, it
// asks the operating system to back large slices with huge pages: code that
// streams through weights then misses the translation cache, at every 4 KB,
// no longer.
func Aligned(n int) []byte {
	if n == 0 {
		return []byte{}
	}
	b := make([]byte, n+line-1)
	if n >= hugePage {
		adviseHuge(b)
	}
	skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) & (line - 1)
	return b[skip : skip+n : skip+n]
}
