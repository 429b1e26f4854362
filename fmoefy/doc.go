// Package fmoefy turns the MLP blocks of an ONNX Transformer into mixtures of
// experts.
//
// [Find] lists the blocks that look like a Transformer's MLP, with the reason
// where one cannot be replaced. [Rewrite] replaces them by FMoE nodes
// (package runtime/moe says what those mean) whose experts start from the
// dense weights ("sparse upcycling", Komatsuzaki et al. 2023). With the
// default options every expert is a copy and a token's expert weights sum to
// one, so that the rewritten model computes the same function.
//
// A rewritten model carries the meaning of its FMoE nodes as a model-local
// function of standard operators, so that it runs in any ONNX runtime.
// [Export] writes them as ONNX Runtime's own mixtures of experts or without
// functions, and [Import] makes FMoE nodes of mixtures that others wrote.
package fmoefy
