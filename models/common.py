"""What every sample needs: random weights, export, verification, data sets in ONNX's test layout."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from torch import nn

MODELS = Path(__file__).resolve().parent

# Of the differences that ONNX's own operator tests allow, the relative one; the absolute one is
# wider because a whole model sums up many operators' rounding.
RTOL, ATOL = 1e-3, 1e-5


@dataclass
class Sample:
    """One folder of models/: how its model is built and exported, and which inputs it takes."""

    name: str
    build: Callable[[], nn.Module]
    exporter: str  # "torchscript" or "dynamo"
    opset: int
    inputs: Callable[[int, int], dict[str, torch.Tensor]]  # of batch and sequence
    output: str
    max_sequence: int
    data_sets: tuple[tuple[int, int], ...]  # batch and sequence of each

    @property
    def path(self):
        return MODELS / self.name / "model.onnx"


def randomize(model, seed):
    """Draws weights that keep activations near unit variance, and norms and biases unlike their usual 1 and 0."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        owner = model.get_submodule(name.rpartition(".")[0])
        with torch.no_grad():
            if isinstance(owner, nn.Embedding):
                parameter.copy_(noise)
            elif parameter.dim() == 2:
                parameter.copy_(noise / parameter.shape[1] ** 0.5)
            elif name.endswith("bias"):
                parameter.copy_(0.1 * noise)
            else:
                parameter.copy_(1 + 0.1 * noise)
    return model.eval()


def export(sample, model):
    """Writes sample's model.onnx, self-contained, with dynamic batch and sequence."""
    sample.path.parent.mkdir(exist_ok=True)
    example = sample.inputs(2, 12)
    axes = {0: "batch", 1: "sequence"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        if sample.exporter == "torchscript":
            torch.onnx.export(
                model, tuple(example.values()), sample.path, dynamo=False, opset_version=sample.opset,
                input_names=list(example), output_names=[sample.output],
                dynamic_axes={name: axes for name in [*example, sample.output]})
        else:
            dimensions = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=sample.max_sequence)}
            torch.onnx.export(
                model, (), sample.path, kwargs=example, dynamo=True, opset_version=sample.opset,
                output_names=[sample.output], external_data=False, verbose=False,
                dynamic_shapes={name: dimensions for name in example})
    exported = onnx.load(sample.path)
    remove_stack_traces(exported)
    onnx.checker.check_model(exported, full_check=True)
    onnx.save(exported, sample.path)


def remove_stack_traces(model):
    """Drops what the exporters say about the exporting machine's files."""
    for node in model.graph.node:
        node.ClearField("doc_string")
        for entry in [entry for entry in node.metadata_props if "stack_trace" in entry.key]:
            node.metadata_props.remove(entry)


def open_session(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def run(session, inputs):
    """Outputs by name for inputs by name, all NumPy arrays."""
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs)))


def verify(sample, model):
    """Fails unless ONNX Runtime agrees with PyTorch in float64 at several shapes."""
    session = open_session(sample.path)
    exact = model.double()
    for batch, sequence in [(1, 1), (1, 7), (2, 12), (3, sample.max_sequence)]:
        inputs = sample.inputs(batch, sequence)
        (actual,) = run(session, {name: value.numpy() for name, value in inputs.items()}).values()
        with torch.no_grad():
            expected = exact(**inputs).numpy()
        assert actual.shape == expected.shape, (actual.shape, expected.shape)
        np.testing.assert_allclose(actual, expected, rtol=RTOL, atol=ATOL)
        print(f"{sample.name}: {batch} x {sequence}: largest difference from PyTorch "
              f"{np.abs(actual - expected).max():.1e} of {np.abs(expected).max():.1f}")
    model.float()


def write_data_sets(sample):
    """Writes test_data_set_N/input_J.pb and output_J.pb, the outputs computed by ONNX Runtime."""
    session = open_session(sample.path)
    for number, (batch, sequence) in enumerate(sample.data_sets):
        folder = sample.path.parent / f"test_data_set_{number}"
        folder.mkdir(exist_ok=True)
        inputs = {name: value.numpy() for name, value in sample.inputs(batch, sequence).items()}
        write_tensors(folder, "input", inputs)
        write_tensors(folder, "output", run(session, inputs))


def write_tensors(folder, kind, tensors):
    for index, (name, value) in enumerate(tensors.items()):
        (folder / f"{kind}_{index}.pb").write_bytes(numpy_helper.from_array(value, name).SerializeToString())


def read_tensors(folder, kind):
    """The tensors of one data set by name."""
    paths = sorted(folder.glob(f"{kind}_*.pb"), key=lambda path: int(path.stem.rpartition("_")[2]))
    tensors = [onnx.load_tensor(path) for path in paths]
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in tensors}
