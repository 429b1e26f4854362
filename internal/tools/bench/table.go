package main

import (
	"fmt"
	"strings"
)

// table is a Markdown table. Columns but the first are aligned to the right.
type table struct {
	head []string
	rows [][]string
}

func (t *table) row(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) String() string {
	if len(t.rows) == 0 {
		return "Not measured yet.\n"
	}
	var b strings.Builder
	line := func(cells []string) { b.WriteString("| " + strings.Join(cells, " | ") + " |\n") }
	line(t.head)
	b.WriteString("| ---" + strings.Repeat(" | ---:", len(t.head)-1) + " |\n")
	for _, r := range t.rows {
		line(r)
	}
	return b.String()
}

// none is the cell of what was not measured.
const none = "–"

// milliseconds writes a time with three digits that count.
func milliseconds(x float64, ok bool) string {
	switch {
	case !ok:
		return none
	case x < 10:
		return fmt.Sprintf("%.2f", x)
	case x < 100:
		return fmt.Sprintf("%.1f", x)
	}
	return fmt.Sprintf("%.0f", x)
}

func percent(x float64, ok bool) string {
	if !ok {
		return none
	}
	return fmt.Sprintf("%.0f %%", 100*x)
}

func times(x float64, ok bool) string {
	if !ok {
		return none
	}
	return fmt.Sprintf("%.2f ×", x)
}

// target is a cell that says what is to be reached and whether it is.
type target struct {
	bound float64
	most  bool // the bound is not to be exceeded
	of    func(x float64, ok bool) string
}

func (t target) cell(x float64, ok bool) string {
	if t.of == nil || !ok {
		return none
	}
	sign, met := "≥", x >= t.bound
	if t.most {
		sign, met = "≤", x <= t.bound
	}
	mark := "✓"
	if !met {
		mark = "✗"
	}
	return fmt.Sprintf("%s %s %s", sign, t.of(t.bound, true), mark)
}

func atLeast(factor float64) target { return target{bound: factor, of: times} }
func atMost(factor float64) target  { return target{bound: factor, most: true, of: times} }
func share(least float64) target    { return target{bound: least, of: percent} }
