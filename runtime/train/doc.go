// Package train trains ONNX models: it finds a model's parameters, adds a loss
// to its graph, and lets a session compute the gradients, which optimizers,
// graphs too, turn into new weights.
package train
