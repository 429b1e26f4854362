"""What is made of an export afterwards, without PyTorch."""

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, numpy_helper


def graphs(graph):
    """graph and the graphs inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from graphs(attribute.g)


def as_bfloat16(value):
    return value.astype(ml_dtypes.bfloat16) if value.dtype == np.float32 else value


def upcast(model):
    """A copy of a bfloat16 model that computes in float32."""
    model = onnx.ModelProto.FromString(model.SerializeToString())

    def widen(tensor):
        if tensor.data_type == TensorProto.BFLOAT16:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))

    for graph in graphs(model.graph):
        for tensor in graph.initializer:
            widen(tensor)
        for value in [*graph.input, *graph.output, *graph.value_info]:
            if value.type.tensor_type.elem_type == TensorProto.BFLOAT16:
                value.type.tensor_type.elem_type = TensorProto.FLOAT
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    widen(attribute.t)
                if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.BFLOAT16:
                    attribute.i = TensorProto.FLOAT
    return model
