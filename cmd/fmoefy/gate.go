package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/fmoe-go/fmoe/fmoefy"
	"github.com/fmoe-go/fmoe/runtime/moe"
)

// registerGate declares the flags that say how a gate chooses experts, which
// is the given one by default.
func registerGate(flags *pflag.FlagSet, o *fmoefy.GateOptions, gate string) {
	flags.StringVar(&o.Gate, "gate", gate, "rule that picks experts: "+strings.Join(moe.Gates(), ", "))
	optionalVar(flags, &o.CapacityTrain, "capacity-train", parseCapacity, "capacity `factor` in training, or unlimited: what experts compute beyond is dropped")
	optionalVar(flags, &o.CapacityEval, "capacity-eval", parseCapacity, "capacity `factor` in evaluation, or unlimited")
	optionalVar(flags, &o.RandomRouting, "random-routing", strconv.ParseBool, "in training drop second experts at random, the more often the smaller their scores (gshard and dc do)")
	optionalVar(flags, &o.Jitter, "jitter", parseFloat, "in training multiply logits by random numbers from 1−`ε` to 1+ε")
	optionalVar(flags, &o.Scores, "scores", parseScores, "`kind` of weights that logits become: softmax, sigmoid or one")
	optionalVar(flags, &o.RoutedScaling, "routed-scaling", parseFloat, "multiply the weights of experts by this `factor`")
	optionalVar(flags, &o.Normalize, "softmax-over-all", parseNot, "weigh a token's experts by a softmax over all experts, not over its own")
	optionalVar(flags, &o.Groups, "groups", strconv.Atoi, "divide the experts into this `number` of groups")
	optionalVar(flags, &o.TopGroups, "top-groups", strconv.Atoi, "`number` of groups from which a token takes experts")
	optionalVar(flags, &o.Tile, "tile", strconv.Atoi, "`rows` of which an expert's are rounded to multiples")
	optionalVar(flags, &o.WorkersPerNode, "workers-per-node", strconv.Atoi, "`number` of workers that share a fast network")
	optionalVar(flags, &o.Fraction, "fraction", parseFloat, "`share` of tokens whose second expert may be on another node")
	optionalVar(flags, &o.GateSeed, "gate-seed", strconv.Atoi, "`seed` of the gate's random numbers in training")
	flags.StringVar(&o.TokenMask, "token-mask", "", "`value` of the graph, such as attention_mask, that is false or 0 for tokens that no expert computes")
	optionalVar(flags, &o.SelectionBias, "selection-bias", strconv.ParseBool, "give gates a bias, zero at first, by which training balances experts")
}

func parseFloat(s string) (float64, error) { return strconv.ParseFloat(s, 64) }

// parseNot reads a switch that turns something off.
func parseNot(s string) (bool, error) {
	on, err := strconv.ParseBool(s)
	return !on, err
}

func parseScores(s string) (moe.Scores, error) { return moe.Scores(s), nil }

// parseCapacity reads a capacity factor.
func parseCapacity(s string) (float64, error) {
	if s == "unlimited" {
		return moe.Unlimited, nil
	}
	return parseFloat(s)
}

// optionalVar declares a flag that sets *at to a new value where it is given.
func optionalVar[T any](flags *pflag.FlagSet, at **T, name string, parse func(string) (T, error), usage string) {
	f := flags.VarPF(&optional[T]{at, parse}, name, "", usage)
	if _, isSwitch := any(*new(T)).(bool); isSwitch {
		f.NoOptDefVal = "true"
	}
}

// optional is the value of a flag that differs from all others where it is not
// given.
type optional[T any] struct {
	at    **T
	parse func(string) (T, error)
}

func (v *optional[T]) Set(s string) error {
	x, err := v.parse(s)
	if err == nil {
		*v.at = &x
	}
	return err
}

func (v *optional[T]) String() string {
	if v.at == nil || *v.at == nil {
		return ""
	}
	return fmt.Sprint(**v.at)
}

func (v *optional[T]) Type() string {
	if _, isSwitch := any(*new(T)).(bool); isSwitch {
		return "bool"
	}
	return "value"
}
