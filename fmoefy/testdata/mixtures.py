#!/usr/bin/env python3
"""Exports tiny mixtures of experts of Hugging Face to mixtures/NAME, with reference data by ONNX Runtime.

    pip install torch onnx onnxruntime onnxscript transformers
    python mixtures.py

Makes the files of the installed transformers: 4.48 has a module for each expert, 5 stacked weights.
"""

import pathlib
import warnings

import onnx
import onnxruntime
import torch
import transformers
from onnx import numpy_helper

FOLDER = pathlib.Path(__file__).with_name("mixtures")
SIZES = dict(vocab_size=32, hidden_size=16, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2,
             num_key_value_heads=1, max_position_embeddings=64, num_experts_per_tok=2)
QWEN = SIZES | dict(num_experts=4, moe_intermediate_size=12, shared_expert_intermediate_size=20, decoder_sparse_step=1)
AXES = {0: "batch", 1: "sequence"}


class Logits(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        return self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits


def randomize(model):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:
                noise = 1 + 0.1 * noise
            elif "embed" not in name:
                noise /= parameter.shape[-1] ** 0.5
            parameter.copy_(noise.bfloat16())  # compresses well
    return Logits(model).eval()


def make(name, model, config, exporter="TorchScript", experts=None, **settings):
    settings = config(**settings)
    settings._attn_implementation = "eager"
    if experts:
        settings._experts_implementation = experts
    wrapped = randomize(model(settings))
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(0, SIZES["vocab_size"], (2, 40), generator=generator)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    folder = FOLDER / name
    data = folder / "test_data_set_0"
    data.mkdir(parents=True, exist_ok=True)
    path = folder / "model.onnx"
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        if exporter == "dynamo":
            torch.onnx.export(wrapped, tuple(inputs.values()), path, dynamo=True, opset_version=20, external_data=False, verbose=False,
                              input_names=list(inputs), output_names=["logits"], dynamic_shapes=(AXES, AXES))
        else:
            torch.onnx.export(wrapped, tuple(inputs.values()), path, dynamo=False, opset_version=17, input_names=list(inputs),
                              output_names=["logits"], dynamic_axes={n: AXES for n in (*inputs, "logits")})
        expected = wrapped(**inputs)
    exported = onnx.load(path)
    del exported.metadata_props[:]
    del exported.graph.metadata_props[:]
    del exported.graph.value_info[:]
    for item in (*exported.graph.node, *exported.graph.initializer, *exported.graph.input, *exported.graph.output):
        item.ClearField("doc_string")
        item.ClearField("metadata_props")
    onnx.save(exported, path)
    arrays = {n: x.numpy() for n, x in inputs.items()}
    logits = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, arrays)[0]
    assert abs(logits - expected.numpy()).max() < 1e-4
    for kind, tensors in (("input", arrays), ("output", {"logits": logits})):
        for i, (n, x) in enumerate(tensors.items()):
            (data / f"{kind}_{i}.pb").write_bytes(numpy_helper.from_array(x, n).SerializeToString())
    print(name, path.stat().st_size)


torch.set_num_threads(1)
mixtral = dict(SIZES, num_local_experts=4)
hf = transformers
if transformers.__version__.startswith("4."):
    make("mixtral-modules", hf.MixtralForCausalLM, hf.MixtralConfig, **mixtral)
    make("qwen2-moe-modules", hf.Qwen2MoeForCausalLM, hf.Qwen2MoeConfig, **QWEN, norm_topk_prob=False)
else:
    make("olmoe-eager", hf.OlmoeForCausalLM, hf.OlmoeConfig, experts="eager", **SIZES, num_experts=4, norm_topk_prob=False)
    make("qwen3-moe-batched-dynamo", hf.Qwen3MoeForCausalLM, hf.Qwen3MoeConfig, "dynamo", "batched_mm", **QWEN, head_dim=8, norm_topk_prob=True)
