"""Writes everything.onnx, a model that sets every field of onnx.proto that the package knows, and newer.onnx, one with
fields that it does not know. Needs onnx==1.23.2 and ml_dtypes."""

import collections.abc

import numpy as np
import onnx
from google.protobuf.message import Message
from onnx import AttributeProto, TensorProto, helper, numpy_helper

TYPES = {
    TensorProto.FLOAT: [0.5, -2.0, 3.0],
    TensorProto.UINT8: [0, 7, 255],
    TensorProto.INT8: [-128, -1, 127],
    TensorProto.UINT16: [0, 7, 65535],
    TensorProto.INT16: [-32768, -1, 32767],
    TensorProto.INT32: [-2147483648, -1, 2147483647],
    TensorProto.INT64: [-(2**63), -1, 2**63 - 1],
    TensorProto.BOOL: [True, False, True],
    TensorProto.FLOAT16: [0.5, -2.0, 65504.0],
    TensorProto.DOUBLE: [0.5, -2.0, 1e300],
    TensorProto.UINT32: [0, 7, 2**32 - 1],
    TensorProto.UINT64: [0, 7, 2**64 - 1],
    TensorProto.COMPLEX64: [0.5 + 1j, -2.0, 3j],
    TensorProto.COMPLEX128: [0.5 + 1j, -2.0, 3j],
    TensorProto.BFLOAT16: [0.5, -2.0, 3.0],
    TensorProto.FLOAT8E4M3FN: [0.5, -2.0, 3.0],
    TensorProto.FLOAT8E4M3FNUZ: [0.5, -2.0, 3.0],
    TensorProto.FLOAT8E5M2: [0.5, -2.0, 3.0],
    TensorProto.FLOAT8E5M2FNUZ: [0.5, -2.0, 3.0],
    TensorProto.UINT4: [0, 7, 15],
    TensorProto.INT4: [-8, -1, 7],
    TensorProto.FLOAT4E2M1: [0.5, -2.0, 3.0],
    TensorProto.FLOAT8E8M0: [0.5, 2.0, 4.0],
    TensorProto.UINT2: [0, 1, 2, 3, 1],
    TensorProto.INT2: [-2, -1, 0, 1, -1],
    TensorProto.FLOAT6E2M3: [0.5, -2.0, 3.0, 1.0, -1.5],
    TensorProto.FLOAT6E3M2: [0.5, -2.0, 3.0, 1.0, -1.5],
}


def tensors():
    """Each element type twice: in its typed field and in raw_data."""
    made = []
    for data_type, values in TYPES.items():
        name = TensorProto.DataType.Name(data_type)
        dtype = helper.tensor_dtype_to_np_dtype(data_type)
        exact = dtype if dtype == np.uint64 else None  # numpy would go by way of float64
        raw = numpy_helper.from_array(np.array(values, exact).astype(dtype), f"raw_{name}")
        assert raw.data_type == data_type and raw.HasField("raw_data"), name
        made += [helper.make_tensor(f"typed_{name}", data_type, [len(values)], values), raw]
    made.append(helper.make_tensor("strings", TensorProto.STRING, [2], [b"one", b""]))
    made.append(helper.make_tensor("empty", TensorProto.FLOAT, [0, 3], b"", raw=True))
    external = TensorProto(name="external", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": "weights.bin", "offset": "4096", "length": "8"}.items():
        external.external_data.add(key=key, value=value)
    made.append(external)
    made[0].doc_string = "a tensor"
    made[0].metadata_props.add(key="of", value="tensor")
    return made


def types():
    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, ["batch", 3, None, ""])
    tensor.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    tensor.tensor_type.shape.dim.add(dim_value=0)
    opaque = onnx.TypeProto()
    opaque.opaque_type.domain, opaque.opaque_type.name = "some.domain", "thing"
    denoted = helper.make_tensor_type_proto(TensorProto.INT64, [])
    denoted.denotation = "IMAGE"
    return {
        "tensor": tensor,
        "unranked": helper.make_tensor_type_proto(TensorProto.FLOAT, None),
        "scalar": denoted,
        "sparse": helper.make_sparse_tensor_type_proto(TensorProto.FLOAT, [3, 4]),
        "sequence": helper.make_sequence_type_proto(tensor),
        "optional": helper.make_optional_type_proto(helper.make_sequence_type_proto(tensor)),
        "map": helper.make_map_type_proto(TensorProto.STRING, tensor),
        "opaque": opaque,
        "unknown": onnx.TypeProto(),
    }


def sparse(name):
    return helper.make_sparse_tensor(
        helper.make_tensor(name, TensorProto.FLOAT, [2], [1.0, 2.0]),
        helper.make_tensor(name + "_indices", TensorProto.INT64, [2, 2], [0, 1, 2, 3]),
        [3, 4],
    )


def attributes():
    graph = helper.make_graph([helper.make_node("Identity", ["cond"], ["inner"])], "inner", [], [
        helper.make_tensor_value_info("inner", TensorProto.BOOL, [])])
    tensor = helper.make_tensor("t", TensorProto.INT64, [1], [5])
    type_proto = types()["tensor"]
    made = [
        helper.make_attribute("float", 1.5, doc_string="an attribute"),
        helper.make_attribute("zero_float", 0.0),
        helper.make_attribute("int", -3),
        helper.make_attribute("zero_int", 0),
        helper.make_attribute("string", "text"),
        helper.make_attribute("empty_string", ""),
        helper.make_attribute("tensor", tensor),
        helper.make_attribute("graph", graph),
        helper.make_attribute("sparse", sparse("s")),
        helper.make_attribute("type", type_proto),
        helper.make_attribute("floats", [1.0, 0.0, -1.0]),
        helper.make_attribute("ints", [1, 0, -1]),
        helper.make_attribute("strings", ["a", ""]),
        helper.make_attribute("tensors", [tensor, tensor]),
        helper.make_attribute("graphs", [graph, graph]),
        helper.make_attribute("sparses", [sparse("s1"), sparse("s2")]),
        helper.make_attribute("types", [type_proto, type_proto]),
        helper.make_attribute("no_ints", [], attr_type=AttributeProto.INTS),
    ]
    untyped = AttributeProto(name="untyped", ints=[4, 5])  # as in IR version 1
    return made + [untyped]


def function():
    node = helper.make_node("LeakyRelu", ["x"], ["y"])
    alpha = node.attribute.add(name="alpha", type=AttributeProto.FLOAT, ref_attr_name="slope")
    alpha.doc_string = ""
    made = helper.make_function("my.domain", "Leaky", ["x"], ["y"], [node], [helper.make_opsetid("", 21)], ["slope"],
        [helper.make_attribute("mode", "soft")], doc_string="a function", overload="first",
        value_info=[helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    made.metadata_props.add(key="of", value="function")
    return made


def everything():
    node = helper.make_node("Everything", ["cond", "", "typed_FLOAT"], ["", "out"], name="node", domain="my.domain",
        doc_string="a node", overload="any")
    node.attribute.extend(attributes())
    node.metadata_props.add(key="of", value="node")
    call = helper.make_node("Leaky", ["out"], ["result"], domain="my.domain", overload="first", slope=0.1)
    inputs = [helper.make_tensor_value_info("cond", TensorProto.BOOL, [], doc_string="an input")]
    inputs += [helper.make_value_info("in_" + name, t) for name, t in types().items()]
    inputs[0].metadata_props.add(key="of", value="value")
    graph = helper.make_graph([node, call], "graph", inputs, [helper.make_value_info("result", onnx.TypeProto())],
        tensors(), "a graph", [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch"])],
        sparse_initializer=[sparse("sparse")])
    graph.output[0].ClearField("type")
    graph.metadata_props.add(key="of", value="graph")
    model = helper.make_model(graph, functions=[function()], ir_version=14, producer_name="make.py",
        producer_version="1", domain="example.org", model_version=7, doc_string="",
        opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("my.domain", 1)])
    model.metadata_props.add(key="of", value="")
    return model


def newer():
    model = everything()
    model.configuration.add(name="two devices", num_devices=2)
    training = model.training_info.add()
    training.algorithm.name = "algorithm"
    annotation = model.graph.quantization_annotation.add(tensor_name="out")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="scale")
    device = model.graph.node[0].device_configurations.add(configuration_id="two devices")
    device.sharding_spec.add(tensor_name="out", device=[0, 1])
    add_unknown(model)
    return model


def add_unknown(message):
    """Adds field 1000, which onnx.proto does not have, to the message and those in it."""
    for _, value in message.ListFields():
        for item in value if isinstance(value, collections.abc.Iterable) else [value]:
            if isinstance(item, Message):
                add_unknown(item)
    message.MergeFromString(b"\xc0\x3e\x07")


for make in (everything, newer):
    with open(make.__name__ + ".onnx", "wb") as f:
        f.write(make().SerializeToString(deterministic=True))
