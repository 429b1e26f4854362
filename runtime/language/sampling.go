package language

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
)

// Sampling says how the next token is drawn from a model's logits.
type Sampling struct {
	// Temperature divides the logits; 0 always takes the most likely token.
	Temperature float64

	// TopK keeps the k most likely tokens; 0 keeps all.
	TopK int

	// TopP keeps the most likely tokens whose probabilities add up to p
	// (nucleus sampling, Holtzman et al. 2020); 0 and 1 keep all.
	TopP float64

	// Seed decides what is drawn: the same seed, the same text.
	Seed uint64
}

// Check fails for values out of range.
func (s Sampling) Check() error {
	switch {
	case !(s.Temperature >= 0) || math.IsInf(s.Temperature, 1):
		return fmt.Errorf("temperature %v must be 0 or more", s.Temperature)
	case s.TopK < 0:
		return fmt.Errorf("top-k %d must be 0 or more", s.TopK)
	case !(s.TopP >= 0 && s.TopP <= 1):
		return fmt.Errorf("top-p %v must be between 0 and 1", s.TopP)
	}
	return nil
}

// Sampler draws tokens.
type Sampler struct {
	sampling   Sampling
	random     *rand.Rand
	candidates []candidate
}

type candidate struct {
	token  int
	weight float64 // a logit, then a probability that is not normalised
}

// NewSampler makes a sampler.
func NewSampler(s Sampling) *Sampler {
	return &Sampler{sampling: s, random: rand.New(rand.NewPCG(s.Seed, 0))}
}

// Next draws the token that follows from its logits [vocabulary]. Among
// equally likely tokens the lower number comes first.
func (s *Sampler) Next(logits []float32) (int, error) {
	best := 0
	for i, x := range logits {
		if x != x {
			return 0, errors.New("the model's logits are not numbers")
		}
		if x > logits[best] {
			best = i
		}
	}
	if s.sampling.Temperature == 0 || len(logits) == 0 {
		return best, nil
	}
	s.rank(logits)
	top := s.candidates[0].weight
	sum := 0.0
	for i := range s.candidates {
		c := &s.candidates[i]
		c.weight = math.Exp((c.weight - top) / s.sampling.Temperature)
		sum += c.weight
	}
	kept := sum
	if p := s.sampling.TopP; p > 0 && p < 1 {
		kept = 0
		for i, c := range s.candidates {
			if kept += c.weight; kept >= p*sum {
				s.candidates = s.candidates[:i+1]
				break
			}
		}
	}
	at := s.random.Float64() * kept
	for _, c := range s.candidates {
		if at -= c.weight; at < 0 {
			return c.token, nil
		}
	}
	return s.candidates[len(s.candidates)-1].token, nil // at was rounded up
}

// rank lists the tokens that top-k keeps, the most likely first.
func (s *Sampler) rank(logits []float32) {
	s.candidates = s.candidates[:0]
	for i, x := range logits {
		s.candidates = append(s.candidates, candidate{i, float64(x)})
	}
	slices.SortStableFunc(s.candidates, func(a, b candidate) int { return cmp.Compare(b.weight, a.weight) })
	if k := s.sampling.TopK; k > 0 && k < len(s.candidates) {
		s.candidates = s.candidates[:k]
	}
}
