package routing_test

import (
	"math"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/runtime/routing"
)

func TestShortNames(t *testing.T) {
	for _, test := range []struct{ names, labels, pattern string }{
		{"layers.0.mlp layers.1.mlp layers.10.mlp", "0 1 10", "layers.*.mlp"},
		{"/encoder/0/FMoE /decoder/0/FMoE", "encoder decoder", "/*/0/FMoE"},
		{"FMoE 1|FMoE 2", "FMoE 1|FMoE 2", "*"},
		{"a b", "a b", "*"},
		{"a a", "0 1", "a …"},
		{"a.b a.b.b", "0 1", "a.b …"},
		{"layer", "0", "layer"},
	} {
		separator := " "
		if strings.Contains(test.names, "|") {
			separator = "|"
		}
		labels, pattern := routing.ShortNames(strings.Split(test.names, separator))
		if got := strings.Join(labels, separator); got != test.labels || pattern != test.pattern {
			t.Errorf("%s: labels %q and pattern %q, want %q and %q", test.names, got, pattern, test.labels, test.pattern)
		}
	}
}

func TestBars(t *testing.T) {
	for _, test := range []struct {
		load []routing.Number
		want string
	}{
		{[]routing.Number{0.25, 0.25, 0.25, 0.25}, "▄▄▄▄"},
		{[]routing.Number{0, 0, 1, 0}, "··█·"},
		{[]routing.Number{0.5, 0.375, 0.125, 0.0001}, "█▆▂▁"},
		{[]routing.Number{routing.Number(math.NaN())}, "·"},
		{make([]routing.Number, 65), ""},
	} {
		if got := routing.Bars(test.load); got != test.want {
			t.Errorf("%v: %q, want %q", test.load, got, test.want)
		}
	}
}
