package routing

import (
	"math"
	"slices"
	"strconv"
	"strings"
)

// ShortNames returns what tells the names of layers apart, or their numbers, and
// what they have in common, with * for the rest.
func ShortNames(names []string) (labels []string, pattern string) {
	switch len(names) {
	case 0:
		return nil, ""
	case 1:
		return []string{"0"}, names[0]
	}
	first := names[0]
	prefix, suffix := len(first), len(first)
	for _, name := range names[1:] {
		prefix, suffix = min(prefix, common(first, name, false)), min(suffix, common(first, name, true))
	}
	// Whole words only, so that 1 and 10 do not become "" and "0".
	prefix = strings.LastIndexAny(first[:prefix], "./") + 1
	end := first[len(first)-suffix:]
	if at := strings.IndexAny(end, "./"); at >= 0 {
		end = end[at:]
	} else {
		end = ""
	}
	for _, name := range names {
		label := name[prefix:max(prefix, len(name)-len(end))]
		if label == "" || slices.Contains(labels, label) {
			return numbered(len(names)), first + " …"
		}
		labels = append(labels, label)
	}
	return labels, first[:prefix] + "*" + end
}

// common returns how many bytes at the beginning, or the end, of two names are
// equal.
func common(a, b string, end bool) (n int) {
	for n < min(len(a), len(b)) {
		i, j := n, n
		if end {
			i, j = len(a)-1-n, len(b)-1-n
		}
		if a[i] != b[j] {
			break
		}
		n++
	}
	return n
}

func numbered(n int) (labels []string) {
	for i := range n {
		labels = append(labels, strconv.Itoa(i))
	}
	return labels
}

const (
	bars    = "▁▂▃▄▅▆▇█"
	nothing = '·'
	maxBars = 64
)

// BarsLegend says what Bars draws.
const BarsLegend = "▄ an even share, █ twice that or more, · nothing"

// Bars draws the load [T] of a layer as a line of T letters, half a letter
// for an even share. It is empty where there are more than 64 experts.
func Bars(load []Number) string {
	if len(load) > maxBars {
		return ""
	}
	letters := []rune(bars)
	line := make([]rune, len(load))
	for e, share := range load {
		line[e] = nothing
		if share > 0 {
			height := int(math.Round(4*float64(share)*float64(len(load)))) - 1
			line[e] = letters[min(max(height, 0), len(letters)-1)]
		}
	}
	return string(line)
}

// none stands for what is not a number.
const none = "–"

// Text writes a number with so many decimals, a dash where it is none.
func (x Number) Text(decimals int) string {
	if math.IsNaN(float64(x)) {
		return none
	}
	return strconv.FormatFloat(float64(x), 'f', decimals, 64)
}

// Percent writes a share.
func (x Number) Percent() string {
	if math.IsNaN(float64(x)) {
		return none
	}
	return (100 * x).Text(1) + " %"
}
