"""Exports the sample models and their reference data: python models/export.py [NAME ...]"""

import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

import bert
import gpt
import llama
import t5
from common import ATOL, MODELS, RTOL, open_session, run, write_data_set

GPT = MODELS / "gpt-megatron" / "model.onnx"


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
    def path(self) -> Path:
        return MODELS / self.name / "model.onnx"


def load_gpt():
    """The trained GPT, its weights read back from the TorchScript export.

    That exporter keeps a parameter's name, except for a weight that it stores transposed for a
    MatMul: there the node carries the module's path.
    """
    graph = onnx.load(GPT).graph
    stored = {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in stored:
            module = node.name.strip("/").removesuffix("/MatMul").replace("/", ".")
            stored[f"language_model.{module}.weight"] = stored[node.input[1]].T
    model = gpt.GPT()
    model.load_state_dict({name: stored[name] for name in model.state_dict()})
    return model.eval()


def build_bert():
    return randomize(bert.BERT(), seed=2)


def build_llama():
    return randomize(llama.Llama(), seed=3)


def build_t5():
    model = randomize(t5.T5Encoder(), seed=5)
    for block in model.encoder.block:
        with torch.no_grad():
            block.layer[0].SelfAttention.q.weight /= t5.HEAD ** 0.5
    return model


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


def book_bytes(batch, sequence):
    """The first bytes of the held-out text, one stretch for each row."""
    text = (MODELS / "gpt-megatron" / "heldout.txt").read_bytes()[: batch * sequence]
    return {"input_ids": torch.tensor(list(text)).view(batch, sequence)}


def random_tokens(batch, sequence):
    generator = torch.Generator().manual_seed(batch * 1000 + sequence)
    return {"input_ids": torch.randint(256, (batch, sequence), generator=generator)}


def padded_tokens(batch, sequence):
    """Random tokens; each row after the first is padded by one token more."""
    length = (sequence - torch.arange(batch)).clamp(min=1)
    mask = (torch.arange(sequence)[None, :] < length[:, None]).long()
    return {**random_tokens(batch, sequence), "attention_mask": mask}


def sentence_pairs(batch, sequence):
    types = (torch.arange(sequence) >= sequence // 2).long().expand(batch, sequence).clone()
    return {**padded_tokens(batch, sequence), "token_type_ids": types}


SAMPLES = [
    Sample("gpt-megatron", load_gpt, "torchscript", 17, book_bytes, "logits", gpt.CONTEXT, ((2, 32), (1, 64))),
    Sample("gpt-megatron-dynamo", load_gpt, "dynamo", 18, book_bytes, "logits", gpt.CONTEXT, ((2, 32), (1, 64))),
    Sample("bert", build_bert, "torchscript", 17, sentence_pairs, "logits", bert.CONTEXT, ((2, 12), (3, 20))),
    Sample("llama", build_llama, "dynamo", 18, random_tokens, "logits", 256, ((2, 12), (1, 40))),
    Sample("t5", build_t5, "torchscript", 17, padded_tokens, "last_hidden_state", 256, ((2, 12), (3, 40))),
]


def make(sample, model):
    """Writes sample's folder from model: the ONNX file and, once that is verified, its data sets."""
    export(sample, model)
    session = open_session(sample.path)
    verify(sample, model, session)
    for number, (batch, sequence) in enumerate(sample.data_sets):
        inputs = arrays(sample.inputs(batch, sequence))
        write_data_set(sample.path.parent / f"test_data_set_{number}", inputs, run(session, inputs))


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
    """Drops what the dynamo exporter says about files on the exporting machine."""
    for node in model.graph.node:
        for entry in [entry for entry in node.metadata_props if "stack_trace" in entry.key]:
            node.metadata_props.remove(entry)


def verify(sample, model, session):
    """Fails unless ONNX Runtime agrees with PyTorch in float64 at several shapes."""
    exact = model.double()
    for batch, sequence in [(1, 1), (1, 7), (2, 12), (3, sample.max_sequence)]:
        inputs = sample.inputs(batch, sequence)
        actual = run(session, arrays(inputs))[sample.output]
        with torch.no_grad():
            expected = exact(**inputs).numpy()
        np.testing.assert_allclose(actual, expected, rtol=RTOL, atol=ATOL)
        print(f"{sample.name}: {batch} x {sequence}: largest difference from PyTorch "
              f"{np.abs(actual - expected).max():.1e}, largest element {np.abs(expected).max():.1f}")
    model.float()


def arrays(tensors):
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def main():
    names = sys.argv[1:] or [sample.name for sample in SAMPLES]
    unknown = set(names) - {sample.name for sample in SAMPLES}
    if unknown:
        sys.exit(f"no sample is called {', '.join(unknown)}: there are {', '.join(s.name for s in SAMPLES)}")
    for sample in SAMPLES:
        if sample.name in names:
            make(sample, sample.build())


if __name__ == "__main__":
    main()
