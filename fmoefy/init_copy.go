package fmoefy

import "github.com/fmoe-go/fmoe/runtime/moe"

// Copy makes every expert the dense MLP, so that the model computes the same
// function (Komatsuzaki et al., "Sparse Upcycling", arXiv 2212.05055).
const Copy Init = "copy"

var initCopy = initKind{
	name:  Copy,
	about: "copies of the MLP",
	begin: eachAlone(func(s *site) (*expertPlan, error) {
		m := s.each(func(_ int, dense *constant) stack { return copies(dense, s.options.NumExperts) })
		m.promise = func(c moe.Config) promise { return ifScoresSumToOne(c, "every expert is a copy of the MLP") }
		return m, nil
	}),
}
