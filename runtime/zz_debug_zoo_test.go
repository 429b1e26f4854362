package runtime_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/runtime"
)

func TestZooDump(t *testing.T) {
	files, _ := filepath.Glob("../models/zoo/*/model.onnx")
	more, _ := filepath.Glob("../../shared/models/*.onnx")
	m2, _ := filepath.Glob("../models/*/*.onnx")
	for _, f := range append(append(files, more...), m2...) {
		if only := os.Getenv("ONLY"); only != "" && !strings.Contains(f, only) {
			continue
		}
		var counts [2]map[string]int
		for i := range counts {
			s, err := runtime.Open(f, runtime.Options{Threads: 1, NoFusion: i == 0})
			if err != nil {
				t.Log(f, err)
				break
			}
			counts[i] = map[string]int{}
			for _, n := range s.NodeTypes() {
				counts[i][n]++
			}
			if i == 1 && os.Getenv("LIST") != "" {
				fmt.Println(s.Listing())
			}
			s.Close()
		}
		if counts[1] == nil {
			continue
		}
		line := []string{}
		total := [2]int{}
		for i := range counts {
			for _, n := range counts[i] {
				total[i] += n
			}
		}
		for _, k := range slices.Sorted(maps.Keys(counts[1])) {
			line = append(line, fmt.Sprintf("%s:%d", k, counts[1][k]))
		}
		fmt.Printf("%-45s %d -> %d  %s\n", strings.TrimPrefix(strings.TrimSuffix(f, "/model.onnx"), "../models/"), total[0], total[1], strings.Join(line, " "))
	}
}
