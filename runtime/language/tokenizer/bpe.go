package tokenizer

import (
	"container/heap"
	"fmt"
	"strings"
	"unicode/utf8"
)

// BPE is a byte-pair encoding tokenizer. It may be used by several
// goroutines.
type BPE struct {
	normalize normalizer
	split     splitter
	template  template
	join      joiner
	added     addedTokens

	model    model
	merges   map[[2]int]mergeRule
	unknown  int // −1 where there is none
	spelling map[int]string
}

// mergeRule says that a pair becomes a token; rules of lower rank come first.
type mergeRule struct{ rank, token int }

func (t *BPE) setModel(m model) error {
	if m.Vocabulary == nil {
		return fmt.Errorf("it has no vocabulary")
	}
	t.model, t.unknown = m, -1
	t.spelling = make(map[int]string, len(m.Vocabulary))
	for s, id := range m.Vocabulary {
		if id < 0 {
			return fmt.Errorf("token %q has the number %d", s, id)
		}
		t.spelling[id] = s
	}
	t.merges = make(map[[2]int]mergeRule, len(m.Merges))
	for rank, pair := range m.Merges {
		a, okA := m.Vocabulary[pair[0]]
		b, okB := m.Vocabulary[pair[1]]
		second := pair[1]
		if n := len(m.ContinuingPrefix); len(second) >= n {
			second = second[n:]
		}
		merged, ok := m.Vocabulary[pair[0]+second]
		if !okA || !okB || !ok {
			return fmt.Errorf("merge %q %q is not of tokens in the vocabulary", pair[0], pair[1])
		}
		if _, ok := t.merges[[2]int{a, b}]; !ok {
			t.merges[[2]int{a, b}] = mergeRule{rank, merged}
		}
	}
	if m.Unknown != nil {
		id, ok := m.Vocabulary[*m.Unknown]
		if !ok {
			return fmt.Errorf("the unknown token %q is not in the vocabulary", *m.Unknown)
		}
		t.unknown = id
	}
	return nil
}

// Encode implements [Tokenizer].
func (t *BPE) Encode(text string) []int {
	var tokens []int
	seen := map[string][2]int{} // where the tokens of a word begin and end, as most words come again
	first := true
	for _, s := range t.added.cut(text) {
		if s.added {
			tokens = append(tokens, s.token)
		} else {
			for _, word := range t.split([]string{t.normalize(s.text)}, first) {
				if at, ok := seen[word]; ok {
					tokens = append(tokens, tokens[at[0]:at[1]]...)
					continue
				}
				from := len(tokens)
				tokens = t.word(tokens, word)
				seen[word] = [2]int{from, len(tokens)}
			}
		}
		first = false
	}
	return t.template.apply(tokens)
}

// Decode implements [Tokenizer].
func (t *BPE) Decode(tokens []int) string {
	var pieces []string
	for _, id := range tokens {
		if a, ok := t.added.byID[id]; ok {
			if !a.Special {
				pieces = append(pieces, a.Content)
			}
		} else if s, ok := t.spelling[id]; ok {
			pieces = append(pieces, s)
		}
	}
	return strings.Join(t.join(pieces), "")
}

// Size returns one more than the largest token, of those added too.
func (t *BPE) Size() int {
	size := 0
	for id := range t.spelling {
		size = max(size, id+1)
	}
	for id := range t.added.byID {
		size = max(size, id+1)
	}
	return size
}

// Token returns the token that is spelled so in the tokenizer.json, such as
// "<|endoftext|>", and whether there is one.
func (t *BPE) Token(spelling string) (int, bool) {
	if added, ok := t.added.byContent[spelling]; ok {
		return added.ID, true
	}
	id, ok := t.model.Vocabulary[spelling]
	return id, ok
}

// word appends the tokens of a word.
func (t *BPE) word(tokens []int, word string) []int {
	if word == "" {
		return tokens
	}
	if t.model.IgnoreMerges {
		if id, ok := t.model.Vocabulary[word]; ok {
			return append(tokens, id)
		}
	}
	return t.merge(tokens, t.characters(word))
}

// characters returns the tokens of a word's single characters: the start from
// which pairs are merged.
func (t *BPE) characters(word string) []int {
	var ids []int
	for i, r := range word {
		size := utf8.RuneLen(r)
		if r == utf8.RuneError {
			_, size = utf8.DecodeRuneInString(word[i:])
		}
		raw := word[i : i+size]
		s := raw
		if i > 0 {
			s = t.model.ContinuingPrefix + s
		}
		if i+size == len(word) {
			s += t.model.WordSuffix
		}
		if id, ok := t.model.Vocabulary[s]; ok {
			ids = append(ids, id)
			continue
		}
		if bytes, ok := t.fallback(raw); ok {
			ids = append(ids, bytes...)
			continue
		}
		if t.unknown >= 0 && !(t.model.FuseUnknown && len(ids) > 0 && ids[len(ids)-1] == t.unknown) {
			ids = append(ids, t.unknown)
		}
	}
	return ids
}

// fallback returns the tokens of a character's bytes.
func (t *BPE) fallback(character string) ([]int, bool) {
	if !t.model.ByteFallback {
		return nil, false
	}
	ids := make([]int, len(character))
	for i := range ids {
		id, ok := t.model.Vocabulary[byteToken(character[i])]
		if !ok {
			return nil, false
		}
		ids[i] = id
	}
	return ids, true
}

// merge joins neighbours, the rule of lowest rank and then the leftmost pair
// first, until no rule applies, and appends what is left to tokens.
func (t *BPE) merge(tokens, ids []int) []int {
	next, previous := make([]int, len(ids)), make([]int, len(ids))
	var queue candidates
	push := func(at int) {
		if at >= 0 && next[at] < len(ids) {
			pair := [2]int{ids[at], ids[next[at]]}
			if rule, ok := t.merges[pair]; ok {
				heap.Push(&queue, candidate{rule, at, pair})
			}
		}
	}
	for i := range ids {
		next[i], previous[i] = i+1, i-1
	}
	for i := range ids {
		push(i)
	}
	const gone = -1
	for len(queue) > 0 {
		c := heap.Pop(&queue).(candidate)
		if ids[c.at] != c.pair[0] || next[c.at] >= len(ids) || ids[next[c.at]] != c.pair[1] {
			continue // one of the pair was merged meanwhile
		}
		second := next[c.at]
		ids[c.at], ids[second] = c.rule.token, gone
		next[c.at] = next[second]
		if next[second] < len(ids) {
			previous[next[second]] = c.at
		}
		push(previous[c.at])
		push(c.at)
	}
	for _, id := range ids {
		if id != gone {
			tokens = append(tokens, id)
		}
	}
	return tokens
}

// candidate is a pair that may be merged.
type candidate struct {
	rule mergeRule
	at   int
	pair [2]int
}

// candidates is a heap.
type candidates []candidate

func (c candidates) Len() int      { return len(c) }
func (c candidates) Swap(i, j int) { c[i], c[j] = c[j], c[i] }
func (c candidates) Less(i, j int) bool {
	if c[i].rule.rank != c[j].rule.rank {
		return c[i].rule.rank < c[j].rule.rank
	}
	return c[i].at < c[j].at
}
func (c *candidates) Push(x any) { *c = append(*c, x.(candidate)) }
func (c *candidates) Pop() any {
	old := *c
	last := old[len(old)-1]
	*c = old[:len(old)-1]
	return last
}
