package train

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Group gives some parameters other settings than the rest.
type Group struct {
	// Match is a pattern of names, in which * stands for any characters; ""
	// matches all.
	Match string `json:"match,omitempty" yaml:"match,omitempty"`
	// Kind restricts the group to parameters of a kind; "" stands for all.
	Kind Kind `json:"kind,omitempty" yaml:"kind,omitempty"`
	// Freeze: the parameters stay as they are.
	Freeze bool `json:"freeze,omitempty" yaml:"freeze,omitempty"`
	// RateFactor multiplies the learning rate; nil leaves it.
	RateFactor *float64 `json:"rate_factor,omitempty" yaml:"rate_factor,omitempty"`
	// WeightDecay replaces the optimizer's; nil leaves it.
	WeightDecay *float64 `json:"weight_decay,omitempty" yaml:"weight_decay,omitempty"`
}

func (g *Group) check() error {
	if g.Kind != "" && !slices.Contains(Kinds, g.Kind) {
		return fmt.Errorf("group %q: kind %q is not known; there are %q", g.Match, g.Kind, Kinds)
	}
	if g.RateFactor != nil && !(*g.RateFactor >= 0) {
		return fmt.Errorf("group %q: rate_factor %g must be 0 or more", g.Match, *g.RateFactor)
	}
	if g.WeightDecay != nil && !(*g.WeightDecay >= 0) {
		return fmt.Errorf("group %q: weight_decay %g must be 0 or more", g.Match, *g.WeightDecay)
	}
	return nil
}

// matches reports whether the group has a parameter.
func (g *Group) matches(p *Parameter) bool {
	return (g.Kind == "" || g.Kind == p.Kind) && (g.Match == "" || wildcard(g.Match).MatchString(p.Name))
}

func wildcard(pattern string) *regexp.Regexp {
	parts := strings.Split(pattern, "*")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return regexp.MustCompile("(?s)^" + strings.Join(parts, ".*") + "$")
}

// setting is what groups say of one parameter: what the last ones that match
// it say.
type setting struct {
	freeze      bool
	rateFactor  float64
	weightDecay float64
	label       string // of the group, for reports; "" is the rest
}

// settings returns those of all parameters. Vectors have no weight decay
// unless a group gives them one.
func settings(groups []Group, o Optimizer, parameters []Parameter) ([]setting, error) {
	list := make([]setting, len(parameters))
	used := make([]bool, len(groups))
	for i := range parameters {
		p, s := &parameters[i], &list[i]
		*s = setting{rateFactor: 1, weightDecay: o.WeightDecay}
		if p.Kind == Vector {
			s.weightDecay = 0
		}
		for j := range groups {
			g := &groups[j]
			if !g.matches(p) {
				continue
			}
			used[j] = true
			s.freeze, s.label = g.Freeze, g.label()
			if g.RateFactor != nil {
				s.rateFactor = *g.RateFactor
			}
			if g.WeightDecay != nil {
				s.weightDecay = *g.WeightDecay
			}
		}
	}
	if i := slices.Index(used, false); i >= 0 {
		return nil, fmt.Errorf("group %q matches no parameter; \"moerun train MODEL --parameters\" lists them", groups[i].label())
	}
	if !slices.ContainsFunc(list, func(s setting) bool { return !s.freeze }) {
		return nil, errors.New("all parameters are frozen")
	}
	return list, nil
}

func (g *Group) label() string {
	switch {
	case g.Match == "":
		return string(g.Kind)
	case g.Kind == "":
		return g.Match
	}
	return g.Match + " " + string(g.Kind)
}
