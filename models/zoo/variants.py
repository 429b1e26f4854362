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


def optimize(path, model_type, heads, width):
    """Rewrites the model at path as ONNX Runtime's transformer optimizer does for model_type."""
    from onnxruntime.transformers import optimizer
    fused = optimizer.optimize_model(str(path), model_type=model_type, num_heads=heads, hidden_size=width, opt_level=0)
    fused.save_model_to_file(str(path))


def merge_decoders(first, later, switch):
    """One model of two decoders: later, which takes a cache, where the boolean input switch is true, else first.

    As Optimum merges them, an If holds both as branches, and the graph around it the weights, each once.
    """
    shared, seen = [], {}
    branches = {}
    for label, model in (("else_branch", first), ("then_branch", later)):
        graph, renamed = model.graph, {}
        outside = {value.name for value in graph.input}
        small = []
        for tensor in graph.initializer:
            key = (tensor.data_type, tuple(tensor.dims), numpy_helper.to_array(tensor).tobytes())
            old, is_small = tensor.name, np.prod(tensor.dims) < 32
            if is_small:
                tensor.name = f"{label}.{old}"
                small.append(tensor)
            elif key not in seen:
                seen[key] = tensor.name = f"shared.{len(seen)}.{old}"
                shared.append(tensor)
            renamed[old] = tensor.name if is_small else seen[key]
        for node in graph.node:
            assert not any(attribute.HasField("g") for attribute in node.attribute)
            node.name = f"{label}.{node.name}"
            for names in (node.input, node.output):
                for position, name in enumerate(names):
                    if name and name not in outside:
                        names[position] = renamed.setdefault(name, f"{label}.{name}")
        outputs = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in graph.output]
        for value in outputs:
            value.name = renamed[value.name]
        branches[label] = onnx.helper.make_graph(list(graph.node), label, [], outputs, small)
    node = onnx.helper.make_node("If", [switch], [value.name for value in later.graph.output], "choose", **branches)
    condition = onnx.helper.make_tensor_value_info(switch, TensorProto.BOOL, [])
    graph = onnx.helper.make_graph(
        [node], "merged", [*later.graph.input, condition], list(later.graph.output), shared)
    return onnx.helper.make_model(graph, opset_imports=list(later.opset_import), ir_version=later.ir_version)


def modules_to_functions(model, modules, domain):
    """Turns the nodes of each module into a call of a model-local function.

    modules gives functions' names by the beginning of the module's nodes' names. Modules of one
    function must have equal nodes; weights and other values become inputs of the call. This is what
    PyTorch wrote with export_modules_as_functions.
    """
    calls, functions = [], {}
    nodes = list(model.graph.node)
    returned = {value.name for value in model.graph.output}
    for module, members in in_modules(nodes, modules):
        if not module:
            calls += members
            continue
        inside = {name for node in members for name in node.output}
        inputs = list(dict.fromkeys(name for node in members for name in node.input if name and name not in inside))
        elsewhere = returned | {name for node in nodes if node not in members for name in node.input}
        outputs = [name for node in members for name in node.output if name in elsewhere]
        calls.append(onnx.helper.make_node(modules[module], inputs, outputs, module.strip("/"), domain=domain))
        function = make_function(domain, modules[module], module, inputs, outputs, members, model.opset_import)
        assert functions.setdefault(function.name, function) == function, f"{module} is not as others of its kind"
    del model.graph.node[:]
    model.graph.node.extend(calls)
    del model.graph.value_info[:]
    model.functions.extend(functions.values())
    model.opset_import.append(onnx.helper.make_opsetid(domain, 1))
    return model


def in_modules(nodes, modules):
    """Runs of nodes of one module, in order, with the module or None."""
    runs = []
    for node in nodes:
        # A constant may lack its module's name, but not the node that uses it.
        named = next(user for user in nodes if node.output[0] in user.input) if node.op_type == "Constant" else node
        module = next((name for name in modules if named.name.startswith(name)), None)
        if runs and runs[-1][0] == module:
            runs[-1][1].append(node)
        else:
            runs.append((module, [node]))
    found = [module for module, _ in runs if module]
    assert sorted(found) == sorted(modules), f"the nodes of {list(modules)} are not together: {found}"
    return runs


def make_function(domain, name, module, inputs, outputs, nodes, opsets):
    """A function of nodes whose values are named by their place, so that equal modules make equal functions."""
    renamed = {value: f"input_{place}" for place, value in enumerate(inputs)}
    renamed |= {value: f"value_{place}" for place, value in enumerate(value for node in nodes for value in node.output)}
    body = []
    for node in nodes:
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        copy.name = node.name.removeprefix(module)
        copy.input[:] = [renamed.get(value, value) for value in node.input]
        copy.output[:] = [renamed[value] for value in node.output]
        body.append(copy)
    return onnx.helper.make_function(
        domain, name, [renamed[value] for value in inputs], [renamed[value] for value in outputs], body, list(opsets))
