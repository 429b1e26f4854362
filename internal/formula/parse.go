package formula

import (
	"fmt"
	"strconv"
	"strings"
	"text/scanner"
)

// Parse reads a formula such as "0.5 * x * (1 + erf(x / 1.41421356))": sums,
// products and quotients of numbers, variables and functions of one argument.
// Formulas are written in programs; it panics for a wrong one.
func Parse[K comparable](text string) *Expression[K] {
	p := &parser[K]{text: text}
	p.scan.Init(strings.NewReader(text))
	p.next()
	e := p.sum()
	if p.token != scanner.EOF || e == nil {
		p.fail()
	}
	return e
}

type parser[K comparable] struct {
	text  string
	scan  scanner.Scanner
	token rune
}

func (p *parser[K]) fail() { panic(fmt.Sprintf("formula %q is wrong", p.text)) }
func (p *parser[K]) next() { p.token = p.scan.Scan() }

func (p *parser[K]) expect(token rune) {
	if p.token != token {
		p.fail()
	}
	p.next()
}

func (p *parser[K]) sum() *Expression[K] {
	terms := []*Expression[K]{p.product()}
	for p.token == '+' {
		p.next()
		terms = append(terms, p.product())
	}
	return SumOf(terms...)
}

func (p *parser[K]) product() *Expression[K] {
	factors := []*Expression[K]{p.factor()}
	for p.token == '*' || p.token == '/' {
		divide := p.token == '/'
		p.next()
		f := p.factor()
		if divide {
			f = Reciprocal(f)
		}
		factors = append(factors, f)
	}
	return Multiply(factors...)
}

func (p *parser[K]) factor() *Expression[K] {
	text := p.scan.TokenText()
	switch p.token {
	case '(':
		p.next()
		e := p.sum()
		p.expect(')')
		return e
	case '-':
		p.next()
		return Multiply(Number[K](-1), p.factor())
	case scanner.Ident:
		p.next()
		if p.token != '(' {
			return &Expression[K]{Kind: Variable, Name: text}
		}
		p.next()
		arg := p.sum()
		p.expect(')')
		return Call(text, arg)
	case scanner.Int, scanner.Float:
		p.next()
		x, err := strconv.ParseFloat(text, 64)
		if err == nil {
			return Number[K](x)
		}
	}
	p.fail()
	return nil
}
