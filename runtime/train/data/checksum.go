package data

import (
	"encoding/binary"
	"hash/crc32"
)

// A corpus is known again by samples of its tokens.
const (
	samples      = 64
	sampleLength = 64
)

// checksum returns the CRC-32 of samples of a corpus, spread evenly from its
// beginning to its end; of a small one, of everything.
func checksum(s Source) (uint32, error) {
	n := Tokens(s)
	length, count := sampleLength, samples
	if n <= samples*sampleLength {
		length, count = n, 1
	}
	tokens, sum := make([]int32, length), crc32.NewIEEE()
	for i := range count {
		if err := s.Read(tokens, (n-length)*i/max(count-1, 1)); err != nil {
			return 0, err
		}
		_ = binary.Write(sum, binary.LittleEndian, tokens) // a hash takes everything
	}
	return sum.Sum32(), nil
}

// checksumBytes is checksum for the bytes of an array.
func checksumBytes(b []byte) uint32 {
	const edge = 1 << 16
	if len(b) > 2*edge {
		return crc32.Update(crc32.ChecksumIEEE(b[:edge]), crc32.IEEETable, b[len(b)-edge:])
	}
	return crc32.ChecksumIEEE(b)
}
