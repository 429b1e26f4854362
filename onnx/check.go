package onnx

func Check(m *Model) error { return nil }
