//go:build fmoecuda

// Package kernels holds the device's kernels as they were compiled by make
// cuda.
package kernels

import (
	"embed"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
)

//go:embed images/*
var images embed.FS

// Images returns the compiled files for a GPU of the given compute capability,
// such as 9, 0, by the names of their sources without ".cu": machine code where
// there is some for it, else PTX, which the driver compiles.
func Images(major, minor int) (map[string]string, error) {
	best, target := -1, ""
	entries, err := fs.ReadDir(images, "images")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		t := targetOf(e.Name())
		if s := suits(t, major, minor); s > best {
			best, target = s, t
		}
	}
	if best < 0 {
		return nil, fmt.Errorf("no kernel was compiled for compute capability %d.%d", major, minor)
	}
	found := map[string]string{}
	for _, e := range entries {
		if targetOf(e.Name()) != target {
			continue
		}
		image, err := images.ReadFile(path.Join("images", e.Name()))
		if err != nil {
			return nil, err
		}
		name, _, _ := strings.Cut(e.Name(), ".")
		found[name] = string(image)
	}
	return found, nil
}

// targetOf returns sm_90a of "softmax.sm_90a.cubin".
func targetOf(file string) string {
	_, rest, _ := strings.Cut(file, ".")
	return strings.TrimSuffix(rest, path.Ext(rest))
}

// suits says how well a target suits a GPU: below 0 not at all. Machine code
// runs on GPUs of the same major version and no lower minor one, that with an
// "a" on this GPU alone; PTX on all that are not older.
func suits(target string, major, minor int) int {
	kind, number, _ := strings.Cut(target, "_")
	exact := strings.HasSuffix(number, "a")
	n, err := strconv.Atoi(strings.TrimSuffix(number, "a"))
	if err != nil {
		return -1
	}
	has := major*10 + minor
	switch {
	case kind == "compute" && n <= has:
		return 0
	case kind == "sm" && exact && n == has:
		return 2
	case kind == "sm" && !exact && n/10 == major && n <= has:
		return 1
	}
	return -1
}
