"""Exports the zoo and its reference data: python models/zoo/export.py [NAME ...]

zoo.json lists what the folders hold, with the MLP blocks that the architectures have.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch

sys.path.append(str(Path(__file__).resolve().parents[1]))

import variants
from common import write_data_set
from exporters import DYNAMO, TORCHSCRIPT
from files import FILES

ZOO = Path(__file__).resolve().parent
EXPORTERS = {TORCHSCRIPT: f"PyTorch {torch.__version__.partition('+')[0]} TorchScript",
             DYNAMO: f"PyTorch {torch.__version__.partition('+')[0]} dynamo"}
RUNTIME = f"ONNX Runtime {onnxruntime.__version__}"

# How far ONNX Runtime may be from PyTorch, relative to an output's largest element.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def make(file):
    """Writes the folder of file and returns its line of zoo.json."""
    folder = ZOO / file.name
    folder.mkdir(exist_ok=True)
    path = folder / "model.onnx"
    made = file.export(path)
    model = strip(onnx.load(path))
    if file.standard:
        onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    reference = RUNTIME
    if file.dtype == torch.bfloat16:  # ONNX Runtime lacks its kernels on the CPU
        model, reference = variants.upcast(model), RUNTIME + " in float32"
    session = open_unoptimized(model)
    for number, (inputs, want) in enumerate(made):
        arrays = {name: value.numpy() for name, value in inputs.items()}
        outputs = run(session, arrays)
        verify(file, outputs, want)
        if file.dtype == torch.bfloat16:
            outputs = {name: variants.as_bfloat16(value) for name, value in outputs.items()}
        write_data_set(folder / f"test_data_set_{number}", arrays, outputs)
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    return {"name": file.name, "family": file.family, "exporter": EXPORTERS[file.exporter],
            "opset": opsets[""], "dtype": str(file.dtype).removeprefix("torch."), "variant": file.variant,
            "blocks": file.blocks, "traps": file.traps, "reference": reference}


def strip(model):
    """Takes away what tools wrote for people and for debugging."""
    def clean(nodes):
        for node in nodes:
            node.ClearField("doc_string")
            node.ClearField("metadata_props")
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    graph(attribute.g)

    def graph(g):
        g.ClearField("doc_string")
        g.ClearField("metadata_props")
        clean(g.node)
        for value in [*g.input, *g.output, *g.initializer, *g.value_info]:
            value.ClearField("doc_string")
            value.ClearField("metadata_props")

    model.ClearField("metadata_props")
    graph(model.graph)
    for function in model.functions:
        function.ClearField("metadata_props")
        function.ClearField("value_info")
        clean(function.node)
    return model


def open_unoptimized(model):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(session, inputs):
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs)))


def verify(file, outputs, want):
    """Compares ONNX Runtime's outputs with PyTorch's."""
    for (name, got), expected in zip(outputs.items(), want, strict=True):
        expected = expected.float().numpy()
        got = got.astype(np.float32)
        if got.shape != expected.shape:
            raise SystemExit(f"{file.name}: {name} is {got.shape}, PyTorch's is {expected.shape}")
        difference = np.abs(got - expected).max() / np.abs(expected).max()
        print(f"{file.name}: {name} {got.shape}, {difference:.1e} from PyTorch", flush=True)
        if not difference <= TOLERANCE[file.dtype]:
            raise SystemExit(f"{file.name}: {name} differs from PyTorch's by {difference:.2e}")


def main(names):
    unknown = set(names) - {file.name for file in FILES}
    if unknown:
        raise SystemExit(f"no such file: {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    listing = ZOO / "zoo.json"
    lines = {line["name"]: line for line in json.loads(listing.read_text())} if listing.exists() else {}
    for file in FILES:
        if not names or file.name in names:
            lines[file.name] = make(file)
            ordered = [lines[known.name] for known in FILES if known.name in lines]
            listing.write_text("[\n" + ",\n".join(json.dumps(line) for line in ordered) + "\n]\n")


if __name__ == "__main__":
    main(sys.argv[1:])
