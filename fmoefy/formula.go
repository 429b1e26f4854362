package fmoefy

import (
	"fmt"
	"strconv"
	"strings"
	"text/scanner"
)

// parseFormula reads a formula such as "0.5 * x * (1 + erf(x / 1.41421356))"
// into the normal form of expressions: sums, products and quotients of
// numbers, variables and functions of one argument. Formulas are written in
// this package; it panics for a wrong one.
func parseFormula(text string) *expression {
	p := &formulaParser{text: text}
	p.scan.Init(strings.NewReader(text))
	p.next()
	e := p.sum()
	if p.token != scanner.EOF || e == nil {
		p.fail()
	}
	return e
}

type formulaParser struct {
	text  string
	scan  scanner.Scanner
	token rune
}

func (p *formulaParser) fail() { panic(fmt.Sprintf("fmoefy: formula %q is wrong", p.text)) }
func (p *formulaParser) next() { p.token = p.scan.Scan() }

func (p *formulaParser) expect(token rune) {
	if p.token != token {
		p.fail()
	}
	p.next()
}

func (p *formulaParser) sum() *expression {
	terms := []*expression{p.product()}
	for p.token == '+' {
		p.next()
		terms = append(terms, p.product())
	}
	return sumOf(terms...)
}

func (p *formulaParser) product() *expression {
	factors := []*expression{p.factor()}
	for p.token == '*' || p.token == '/' {
		divide := p.token == '/'
		p.next()
		f := p.factor()
		if divide {
			f = reciprocal(f)
		}
		factors = append(factors, f)
	}
	return multiply(factors...)
}

func (p *formulaParser) factor() *expression {
	text := p.scan.TokenText()
	switch p.token {
	case '(':
		p.next()
		e := p.sum()
		p.expect(')')
		return e
	case '-':
		p.next()
		return multiply(number64(-1), p.factor())
	case scanner.Ident:
		p.next()
		if p.token != '(' {
			return &expression{kind: variable, name: text}
		}
		p.next()
		arg := p.sum()
		p.expect(')')
		return call(text, arg)
	case scanner.Int, scanner.Float:
		p.next()
		x, err := strconv.ParseFloat(text, 64)
		if err == nil {
			return number64(x)
		}
	}
	p.fail()
	return nil
}

// substitute returns the formula with its variables replaced.
func (e *expression) substitute(variables map[string]*expression) *expression {
	switch e.kind {
	case variable:
		return variables[e.name]
	case constantNumber, leaf:
		return e
	}
	args := make([]*expression, 0, len(e.args)+1)
	for _, a := range e.args {
		replaced := a.substitute(variables)
		if replaced == nil {
			return nil
		}
		args = append(args, replaced)
	}
	switch e.kind {
	case sum:
		return sumOf(append(args, number64(e.factor))...)
	case productOf:
		return multiply(append(args, number64(e.factor))...)
	}
	return call(e.name, args[0])
}
