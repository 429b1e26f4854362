package fmoefy

import (
	"math"
	"slices"

	"github.com/fmoe-go/fmoe/internal/simd"
)

// The steps of gradient descent that improve a router.
const (
	routerSteps  = 200
	routerBatch  = 2048
	routerTokens = 1 << 14 // that it sees at most
	routerRate   = 0.02

	// routerSpread is the standard deviation of logits. It says how near two
	// logits have to be for the choice between them to be open.
	routerSpread = 2
)

// improve returns a router that chooses better, given the experts as they are
// corrected. Whether an expert i that is chosen should give way to another one,
// j, depends on the loss δ that would be added. With σ(zⱼ − zᵢ) for the
// probability that it does, zᵢ and zⱼ being their logits, the sum of
// δ·σ(zⱼ − zᵢ) over all such pairs is made smaller, by Adam (Kingma and Ba,
// arXiv 1412.6980). The neurons are in order.
func (s *activity) improve(f *split, experts, topK int) []float64 {
	n := s.width + 1
	stride := (s.tokens + routerTokens - 1) / routerTokens
	batches := max(1, s.tokens/stride/routerBatch)
	var tokens []int // batch by batch, each of tokens from everywhere
	for b := range batches {
		for t := b * stride; t < s.tokens; t += batches * stride {
			tokens = append(tokens, t)
		}
	}
	x := rows(s.x, n, tokens)
	gram := s.grams(f, experts, tokens)
	router := spread(x, f.router, experts)

	first, second := make([]float64, len(router)), make([]float64, len(router))
	from := 0
	for step := 1; step <= routerSteps; step++ {
		b := (step - 1) % batches
		if b == 0 {
			from = 0
		}
		size := (s.tokens - b*stride + batches*stride - 1) / (batches * stride)
		gradient := make([]float64, len(router))
		xs := x[from*n : (from+size)*n]
		z := logits(xs, router, experts)
		addProduct(gradient, xs, n, slopes(z, gram[from*(experts+1)*(experts+1):], experts, topK), experts)
		from += size
		rate := routerRate * (1 - float64(step)/(routerSteps+1))
		for i, g := range gradient {
			g /= float64(size)
			first[i] += 0.1 * (g - first[i])
			second[i] += 0.01 * (g*g - second[i])
			mean := first[i] / (1 - math.Pow(0.9, float64(step)))
			square := second[i] / (1 - math.Pow(0.99, float64(step)))
			router[i] -= rate * mean / (math.Sqrt(square) + 1e-12)
		}
	}
	return router
}

// spread returns a router that makes the same choices, whose logits have mean
// 0 for every token and in all the standard deviation routerSpread.
func spread(x []float32, router []float64, experts int) []float64 {
	centred := slices.Clone(router)
	for row := range slices.Chunk(centred, experts) {
		mean := 0.0
		for _, w := range row {
			mean += w / float64(experts)
		}
		for e := range row {
			row[e] -= mean
		}
	}
	z := logits(x, centred, experts)
	squares := 0.0
	for _, v := range z {
		squares += float64(v) * float64(v) / float64(len(z))
	}
	if squares > 0 {
		for i := range centred {
			centred[i] *= routerSpread / math.Sqrt(squares)
		}
	}
	return centred
}

// slopes returns the derivatives of what improve makes smaller by the logits of
// tokens, given the inner products of what grams returns.
func slopes(z, gram []float32, experts, topK int) []float32 {
	slope := make([]float32, len(z))
	m := experts + 1
	eachShare(len(z)/experts, 256, func(lo, hi int) {
		rest := make([]float32, experts) // inner products of an expert and what is missing
		list := make([]int, 0, topK)
		for t := lo; t < hi; t++ {
			z, slope := z[t*experts:][:experts], slope[t*experts:][:experts]
			g := gram[t*m*m:][:m*m]
			list = largest(z, topK, list)
			for e := range experts {
				rest[e] = g[e*m+experts]
				for _, c := range list {
					rest[e] -= g[e*m+c]
				}
			}
			for _, i := range list {
				for j := range experts {
					if slices.Contains(list, j) {
						continue
					}
					loss := 2*(rest[i]-rest[j]) + g[i*m+i] + g[j*m+j] - 2*g[i*m+j]
					p := 1 / (1 + math.Exp(float64(z[i]-z[j])))
					d := loss * float32(p*(1-p))
					slope[j] += d
					slope[i] -= d
				}
			}
		}
	})
	return slope
}

// grams returns for each of some tokens the inner products of what the experts
// contribute, the last one being the whole MLP, [experts + 1, experts + 1], in
// units of the mean square of the MLP's results.
func (s *activity) grams(f *split, experts int, tokens []int) []float32 {
	each, m := s.hidden/experts, experts+1
	second := slices.Clone(s.second)
	for i, v := range f.correction {
		second[i] += v
	}
	gram := make([]float32, len(tokens)*m*m)
	const share = 256
	squares := make([]float64, (len(tokens)+share-1)/share)
	eachOf(len(squares), func(part int) {
		some := tokens[part*share : min((part+1)*share, len(tokens))]
		y := make([]float32, m*len(some)*s.width) // [experts + 1, tokens, width]
		of := func(e, t int) []float32 { return y[(e*len(some)+t)*s.width:][:s.width] }
		work := make([]float32, max(simd.WorkLen[float32](len(some), s.hidden, s.width), simd.WorkLen[float32](len(some), each, s.width)))
		a := rows(s.a, s.hidden, some)
		for e := range experts {
			block := simd.RowMajor(a, len(some), s.hidden).Block(0, e*each, len(some), each)
			simd.Multiply(y[e*len(some)*s.width:], s.width, block, simd.RowMajor(second[e*each*s.width:], each, s.width), work)
			for t := range some {
				for i, v := range f.bias[e*s.width:][:s.width] {
					of(e, t)[i] += float32(v)
				}
			}
		}
		simd.Multiply(y[experts*len(some)*s.width:], s.width, simd.RowMajor(a, len(some), s.hidden), simd.RowMajor(s.second, s.hidden, s.width), work)
		for t := range some {
			g := gram[(part*share+t)*m*m:][:m*m]
			for i := range m {
				for j := range i + 1 {
					g[i*m+j] = simd.Dot(of(i, t), of(j, t))
					g[j*m+i] = g[i*m+j]
				}
			}
			squares[part] += float64(g[m*m-1])
		}
	})
	sum := 0.0
	for _, x := range squares {
		sum += x / float64(len(tokens))
	}
	if sum > 0 {
		simd.Scale(gram, float32(1/sum))
	}
	return gram
}
