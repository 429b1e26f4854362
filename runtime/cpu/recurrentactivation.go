package cpu

import (
	"fmt"
	"math"
	"strings"

	"github.com/fmoe-go/fmoe/runtime/device"
	"github.com/fmoe-go/fmoe/runtime/op"
)

// recurrentActivation is an activation of a recurrent layer: its value y at x,
// and its derivative there.
type recurrentActivation struct {
	value func(x float64) float64
	slope func(x, y float64) float64
}

// recurrentActivations makes the activations that ONNX defines for recurrent
// layers from alpha and beta, whose defaults stand beside.
var recurrentActivations = map[string]struct {
	alpha, beta float32
	parameters  int // how many of alpha and beta it takes
	make        func(alpha, beta float64) recurrentActivation
}{
	"relu": {make: func(_, _ float64) recurrentActivation {
		return recurrentActivation{relu, func(x, _ float64) float64 { return reluSlope(x) }}
	}},
	"tanh": {make: func(_, _ float64) recurrentActivation {
		return recurrentActivation{math.Tanh, func(_, y float64) float64 { return 1 - y*y }}
	}},
	"sigmoid": {make: func(_, _ float64) recurrentActivation {
		return recurrentActivation{
			func(x float64) float64 { return 1 / (1 + math.Exp(-x)) },
			func(_, y float64) float64 { return y * (1 - y) },
		}
	}},
	"affine": {1, 0, 2, func(alpha, beta float64) recurrentActivation {
		return recurrentActivation{
			func(x float64) float64 { return alpha*x + beta },
			func(_, _ float64) float64 { return alpha },
		}
	}},
	"leakyrelu": {0.01, 0, 1, func(alpha, _ float64) recurrentActivation {
		return recurrentActivation{
			func(x float64) float64 { return max(x, 0) + alpha*min(x, 0) },
			func(x, _ float64) float64 {
				if x > 0 {
					return 1
				}
				return alpha
			},
		}
	}},
	"thresholdedrelu": {1, 0, 1, func(alpha, _ float64) recurrentActivation {
		return recurrentActivation{
			func(x float64) float64 {
				if x < alpha {
					return 0
				}
				return x
			},
			func(x, _ float64) float64 {
				if x < alpha {
					return 0
				}
				return 1
			},
		}
	}},
	"scaledtanh": {1, 1, 2, func(alpha, beta float64) recurrentActivation {
		return recurrentActivation{
			func(x float64) float64 { return alpha * math.Tanh(beta*x) },
			func(x, _ float64) float64 {
				y := math.Tanh(beta * x)
				return alpha * beta * (1 - y*y)
			},
		}
	}},
	"hardsigmoid": {0.2, 0.5, 2, func(alpha, beta float64) recurrentActivation {
		return recurrentActivation{
			func(x float64) float64 { return min(max(alpha*x+beta, 0), 1) },
			func(_, y float64) float64 {
				if y > 0 && y < 1 {
					return alpha
				}
				return 0
			},
		}
	}},
	"elu": {1, 0, 1, func(alpha, _ float64) recurrentActivation {
		return recurrentActivation{
			func(x float64) float64 { return max(x, 0) + alpha*math.Expm1(min(x, 0)) },
			func(x, y float64) float64 {
				if x > 0 {
					return 1
				}
				return y + alpha
			},
		}
	}},
	"softsign": {make: func(_, _ float64) recurrentActivation {
		return recurrentActivation{
			func(x float64) float64 { return x / (1 + math.Abs(x)) },
			func(x, _ float64) float64 { return 1 / ((1 + math.Abs(x)) * (1 + math.Abs(x))) },
		}
	}},
	"softplus": {make: func(_, _ float64) recurrentActivation {
		return recurrentActivation{
			softplus,
			func(x, _ float64) float64 { return 1 / (1 + math.Exp(-x)) },
		}
	}},
}

// readActivations returns the activations of all directions of a node. Each
// takes alphas and betas from the front of their lists as it needs them.
func readActivations(n *op.Node, directions int) ([]recurrentActivation, error) {
	_, defaults := op.RecurrentGates(n)
	var names []string
	if a := n.Attribute("activations"); a != nil {
		for _, name := range a.Strings {
			names = append(names, string(name))
		}
	} else {
		for range directions {
			names = append(names, defaults...)
		}
	}
	if len(names) != len(defaults)*directions {
		return nil, fmt.Errorf("activations are %q, needs %d", names, len(defaults)*directions)
	}
	lists := map[string][]float32{}
	for _, list := range []string{"activation_alpha", "activation_beta"} {
		if a := n.Attribute(list); a != nil {
			lists[list] = a.Floats
		}
	}
	next := func(list string, needed bool, value float32) float64 {
		if needed && len(lists[list]) > 0 {
			value, lists[list] = lists[list][0], lists[list][1:]
		}
		return float64(value)
	}
	activations := make([]recurrentActivation, len(names))
	for i, name := range names {
		a, known := recurrentActivations[strings.ToLower(name)]
		if !known {
			return nil, fmt.Errorf("activation %q is %w", name, device.ErrUnsupported)
		}
		activations[i] = a.make(next("activation_alpha", a.parameters > 0, a.alpha), next("activation_beta", a.parameters > 1, a.beta))
	}
	return activations, nil
}
