package op

import (
	"fmt"
	"slices"
	"strings"

	"github.com/fmoe-go/fmoe/onnx"
)

func init() {
	Register(
		// Einsum, ONNX 12: sums of products in Einstein's notation.
		Operator{Name: "Einsum", Since: []int{12}, Inputs: AtLeast(1), Outputs: Exactly(1),
			Attributes: []string{"equation"}, Infer: inferEinsum, Gradient: einsumGradient},
	)
}

// Equation is an Einsum equation for operands of known rank. Every index is a
// number 0 … Indices−1; the dimensions that an ellipsis stands for are indices
// like others.
type Equation struct {
	Indices int
	Inputs  [][]int // for each operand the index of each axis
	Output  []int
}

// einsumIndices bounds the indices of an equation: all letters and the
// dimensions behind an ellipsis.
const einsumIndices = 52 + maxListedRank

// ParseEquation reads the equation of an Einsum node for operands of the given
// ranks. Without "->" the output has the ellipsis' dimensions and then, sorted,
// the letters that occur once.
func ParseEquation(n *Node, ranks []int) (*Equation, error) {
	text := strings.ReplaceAll(n.String("equation", ""), " ", "")
	left, right, explicit := strings.Cut(text, "->")
	terms := strings.Split(left, ",")
	if len(terms) != len(ranks) {
		return nil, fmt.Errorf("equation %q has %d operands, the node has %d inputs", text, len(terms), len(ranks))
	}
	p := equationParser{text: text, letters: map[rune]int{}, uses: map[rune]int{}}
	for i, term := range terms {
		if err := p.measureEllipsis(term, ranks[i]); err != nil {
			return nil, err
		}
	}
	e := &Equation{Inputs: make([][]int, len(terms))}
	for i, term := range terms {
		hidden := max(0, ranks[i]-(len(term)-len("...")))
		if !strings.Contains(term, "...") {
			hidden = 0
		}
		var err error
		if e.Inputs[i], err = p.term(term, hidden, true); err != nil {
			return nil, err
		}
		if len(e.Inputs[i]) != ranks[i] {
			return nil, fmt.Errorf("equation %q has %d indices for input %d, which has rank %d", text, len(e.Inputs[i]), i, ranks[i])
		}
	}
	if !explicit {
		right = p.implicitOutput()
	}
	if p.hidden > 0 && !strings.Contains(right, "...") {
		return nil, fmt.Errorf("equation %q lacks in its output the ellipsis of its operands", text)
	}
	var err error
	if e.Output, err = p.term(right, p.hidden, false); err != nil {
		return nil, err
	}
	for i, index := range e.Output {
		if slices.Contains(e.Output[:i], index) {
			return nil, fmt.Errorf("equation %q has an index twice in its output", text)
		}
	}
	e.Indices = p.hidden + len(p.letters)
	return e, nil
}

// equationParser numbers indices: first the dimensions behind an ellipsis,
// counted from the right, then letters as they occur.
type equationParser struct {
	text    string
	hidden  int // the most dimensions that an ellipsis stands for
	letters map[rune]int
	uses    map[rune]int
}

func (p *equationParser) measureEllipsis(term string, rank int) error {
	if strings.Contains(term, "...") {
		p.hidden = max(p.hidden, rank-(len(term)-len("...")))
	}
	if p.hidden > maxListedRank {
		return fmt.Errorf("equation %q is used with a rank of %d, at most %d are supported", p.text, rank, maxListedRank)
	}
	return nil
}

// term returns the indices of one operand or of the output, whose ellipsis
// stands for the given number of dimensions.
func (p *equationParser) term(term string, hidden int, input bool) ([]int, error) {
	indices := []int{}
	for len(term) > 0 {
		letter := rune(term[0])
		switch {
		case strings.HasPrefix(term, "..."):
			for i := range hidden {
				indices = append(indices, p.hidden-hidden+i)
			}
			if term = term[3:]; strings.Contains(term, "...") {
				return nil, fmt.Errorf("equation %q has two ellipses in one term", p.text)
			}
			continue
		case letter < 'A' || letter > 'z' || letter > 'Z' && letter < 'a':
			return nil, fmt.Errorf("equation %q has a %q; indices are letters", p.text, term[:1])
		}
		number, known := p.letters[letter]
		if !known {
			if !input {
				return nil, fmt.Errorf("equation %q has index %q in its output only", p.text, term[:1])
			}
			number = p.hidden + len(p.letters)
			p.letters[letter] = number
		}
		if input {
			p.uses[letter]++
		}
		indices, term = append(indices, number), term[1:]
		if len(indices) > einsumIndices {
			return nil, fmt.Errorf("equation %q has too many indices in one term", p.text)
		}
	}
	return indices, nil
}

func (p *equationParser) implicitOutput() string {
	once := []rune{}
	for letter, n := range p.uses {
		if n == 1 {
			once = append(once, letter)
		}
	}
	slices.Sort(once)
	return "..." + string(once)
}

// einsumGradient: of a sum of products, that of one factor is a sum of products
// of the gradient and the other factors.
func einsumGradient(b *Backward) {
	ranks := make([]int, len(b.Inputs))
	for i, v := range b.Inputs {
		ranks[i] = b.Rank(v)
	}
	if b.err != nil {
		return
	}
	e, err := ParseEquation(b.Node, ranks)
	if err != nil {
		b.Fail(err)
		return
	}
	for i, v := range b.Inputs {
		if b.Wants(i) {
			b.Set(i, b.SumTo(b.einsumOf(e, i), v))
		}
	}
}

// einsumOf adds the gradient of operand i, as if no dimension were repeated.
func (b *Backward) einsumOf(e *Equation, i int) Value {
	operands, terms := []Value{b.Gradient(0)}, [][]int{e.Output}
	for j, v := range b.Inputs {
		if j != i {
			operands, terms = append(operands, v), append(terms, e.Inputs[j])
		}
	}
	x, target, indices := b.Input(i), []int{}, e.Indices
	for axis, index := range e.Inputs[i] {
		if slices.Contains(target, index) {
			// The gradient of a diagonal has zeros beside it: an identity
			// matrix makes two indices of one.
			length := b.Length(x, int64(axis))
			operands = append(operands, b.Op("EyeLike", b.filled(0, x, b.joined(length, length))))
			terms = append(terms, []int{index, indices})
			index, indices = indices, indices+1
		}
		target = append(target, index)
	}
	missing := func(index int) bool {
		return !slices.ContainsFunc(terms, func(t []int) bool { return slices.Contains(t, index) })
	}
	if slices.ContainsFunc(target, missing) { // the operand alone is summed along it
		operands, terms = append(operands, b.filled(1, x, b.Shape(x))), append(terms, target)
	}
	equation, err := writeEquation(terms, target)
	if err != nil {
		b.Fail(err)
	}
	return b.Add(&onnx.Node{OpType: "Einsum", Attributes: []*onnx.Attribute{onnx.StringAttribute("equation", equation)}}, operands...)
}

// writeEquation is the reverse of ParseEquation, with a letter for each index.
func writeEquation(inputs [][]int, output []int) (string, error) {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	var text strings.Builder
	for i, term := range append(inputs[:len(inputs):len(inputs)], output) {
		switch {
		case i == len(inputs):
			text.WriteString("->")
		case i > 0:
			text.WriteString(",")
		}
		for _, index := range term {
			if index >= len(letters) {
				return "", fmt.Errorf("the equation has more than %d indices", len(letters))
			}
			text.WriteByte(letters[index])
		}
	}
	return text.String(), nil
}

func inferEinsum(c *Inference) error {
	operands := make([]int, len(c.Inputs))
	ranks := make([]int, len(c.Inputs))
	known := true
	for i := range c.Inputs {
		operands[i], ranks[i] = i, len(c.Shape(i))
		known = known && c.Shape(i) != nil
	}
	t, err := c.sameType(operands...)
	if err != nil {
		return err
	}
	if !known {
		c.Set(0, t, nil)
		return nil
	}
	e, err := ParseEquation(c.Node, ranks)
	if err != nil {
		return err
	}
	dims := make([]Dim, e.Indices)
	for i := range dims {
		dims[i] = 1
	}
	for i, indices := range e.Inputs {
		for axis, index := range indices {
			d, err := c.Broadcast(dims[index:index+1], c.Shape(i)[axis:axis+1])
			if err != nil {
				return fmt.Errorf("input %d of shape %s does not fit equation %q: axis %d has %s elsewhere",
					i, FormatDims(c.Shape(i)), c.Node.String("equation", ""), axis, FormatDims(dims[index:index+1]))
			}
			dims[index] = d[0]
		}
	}
	shape := make([]Dim, len(e.Output))
	for i, index := range e.Output {
		shape[i] = dims[index]
	}
	c.Set(0, t, shape)
	return nil
}
