package onnx

import (
	"slices"
	"strings"
)

// findCycle returns the names of nodes that depend on one another in a cycle,
// as "a → b → a", or "" where there is none.
func findCycle(nodes []*Node) string {
	producers := make(map[string]int)
	for i, n := range nodes {
		for _, out := range n.Outputs {
			if out != "" {
				producers[out] = i
			}
		}
	}
	needs := make([][]int, len(nodes))
	users := make([][]int, len(nodes))
	waiting := make([]int, len(nodes)) // how many of needs have not run
	for i, n := range nodes {
		for _, in := range slices.Concat(n.Inputs, captures(n)) {
			if p, ok := producers[in]; ok {
				needs[i] = append(needs[i], p)
				users[p] = append(users[p], i)
				waiting[i]++
			}
		}
	}
	var ready []int
	for i := range nodes {
		if waiting[i] == 0 {
			ready = append(ready, i)
		}
	}
	for len(ready) > 0 {
		i := ready[len(ready)-1]
		ready = ready[:len(ready)-1]
		for _, user := range users[i] {
			if waiting[user]--; waiting[user] == 0 {
				ready = append(ready, user)
			}
		}
	}
	blocked := func(i int) bool { return waiting[i] > 0 }
	at := slices.IndexFunc(waiting, func(n int) bool { return n > 0 })
	if at < 0 {
		return ""
	}
	// What blocks a node is blocked itself, so going back comes round.
	seen := make(map[int]int)
	var path []int
	for {
		if start, again := seen[at]; again {
			return cycleNames(nodes, path[start:])
		}
		seen[at] = len(path)
		path = append(path, at)
		at = needs[at][slices.IndexFunc(needs[at], blocked)]
	}
}

// cycleNames writes a path that goes from users to producers the other way
// round, as the values flow, from the node that comes first in the file.
func cycleNames(nodes []*Node, path []int) string {
	const most = 8
	slices.Reverse(path)
	first := slices.Index(path, slices.Min(path))
	path = slices.Concat(path[first:], path[:first])
	var names []string
	for i, n := range path {
		if i == most {
			names = append(names, "…")
			break
		}
		names = append(names, label(nodes[n], n))
	}
	return strings.Join(append(names, label(nodes[path[0]], path[0])), " → ")
}
