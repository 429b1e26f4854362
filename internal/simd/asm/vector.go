package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
)

// text begins a function; doc follows its name in the comment.
func text(name, signature, doc string) {
	TEXT(name, NOSPLIT, "func"+signature)
	Pragma("noescape")
	Doc(name + " is " + doc)
}

func end() {
	VZEROUPPER()
	RET()
}

func axpy() {
	text("float32Axpy", "(alpha float32, x, y []float32)", "[Axpy].")
	alpha := broadcast("alpha")
	loop{inputs: []string{"x", "y"}, output: "y", unroll: 4, elements: func(in []vector, _ vector) vector {
		VFMADD231PS(in[0], alpha, in[1])
		return in[1]
	}}.write()
	end()
}

// arithmetic writes the operations on two slices, and on a slice and a number.
func arithmetic() {
	for _, f := range []struct {
		name string
		of   func(vector, Op) vector
	}{{"Add", add}, {"Sub", subtract}, {"Mul", multiply}, {"Div", divide}} {
		text("float32"+f.name, "(out, a, b []float32)", "["+f.name+"].")
		loop{inputs: []string{"a", "b"}, output: "out", unroll: 4, elements: func(in []vector, _ vector) vector {
			return f.of(in[0], in[1])
		}}.write()
		end()
	}

	text("float32Scale", "(x []float32, factor float32)", "[Scale].")
	factor := broadcast("factor")
	loop{inputs: []string{"x"}, output: "x", unroll: 4, elements: func(in []vector, _ vector) vector {
		return multiply(in[0], factor)
	}}.write()
	end()
}
