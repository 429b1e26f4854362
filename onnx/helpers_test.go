package onnx

import (
	"os"
	"runtime"
	"slices"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

// must returns the first of two results, for values that cannot fail here.
func must[T, U any](v T, _ U) T { return v }

func readTestFile(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func decodeTestFile(t testing.TB, name string) *Model {
	t.Helper()
	m, err := Decode(readTestFile(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// bytesAllocated returns what run allocates in all, freed again or not.
func bytesAllocated(run func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	run()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// The encoded fields that hand-made files are joined from.

func join(fields ...[]byte) []byte { return slices.Concat(fields...) }

func varint(number protowire.Number, x uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, number, protowire.VarintType), x)
}

func fixed32(number protowire.Number, x uint32) []byte {
	return protowire.AppendFixed32(protowire.AppendTag(nil, number, protowire.Fixed32Type), x)
}

func blobOf(number protowire.Number, content string) []byte {
	return protowire.AppendString(protowire.AppendTag(nil, number, protowire.BytesType), content)
}

func packed(number protowire.Number, list ...uint64) []byte {
	var content []byte
	for _, x := range list {
		content = protowire.AppendVarint(content, x)
	}
	return blobOf(number, string(content))
}
