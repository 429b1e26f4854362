// Package runtime executes ONNX models, those with FMoE nodes above all.
//
// A model goes through three stages. It is compiled once into a program:
// functions inlined, operators resolved, constants folded, kernels made
// (compile.go). A program is bound to input shapes, giving a plan: every
// shape known, shape arithmetic done, all memory laid out in one arena
// (bind.go, arena.go). A plan is run any number of times without allocating
// (execute.go). What a plan cannot know beforehand, such as the number of
// non-zero elements, is bound while it runs.
package runtime
