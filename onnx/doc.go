// Package onnx holds ONNX models as Go values: it reads and writes them,
// checks them and answers questions about their graphs.
//
// A [Model] has a [Graph] of [Node] values, its constants as [Tensor] values,
// and the model-local functions that nodes may call. Fields are those of the
// messages in onnx.proto (IR version 14), to be read and changed directly. An
// [Index] finds producers and consumers in a graph, [Check] finds what is
// wrong with a model.
//
// [ReadFile] maps a file and its external data into memory, so that opening a
// model of gigabytes takes about a millisecond; [WriteFile] streams one to
// disk. What is read and written without a change keeps every field,
// including those that this package does not know and the choice between
// raw_data and the typed fields of a tensor.
//
// Files are taken to be hostile: a malformed one gives an error, allocates no
// more than a multiple of its size, and cannot read files outside its own
// directory.
package onnx
