"""The list of the zoo's files."""

from dataclasses import dataclass, field

import onnx
import torch
from torch import nn

import variants
from exporters import DYNAMO, TORCHSCRIPT, Positional, cached_inputs, cached_outputs, export
from families import FAMILIES, HEADS, LAYERS, WIDTH

# Batch, sequence and cached positions that a model is exported with, and those of its reference data.
EXAMPLE, DATA = (2, 7, 3), (3, 9, 5)
SUFFIX = {torch.float32: "", torch.float16: "-float16", torch.bfloat16: "-bfloat16"}


@dataclass
class File:
    """One file: a family, an exporter, and how it differs from a plain float32 export."""

    family: str
    exporter: str
    opset: int | None = None  # None is the exporter's default
    dtype: torch.dtype = torch.float32
    cache: bool = False
    attention: str = "eager"
    suffix: str = ""
    variant: str = ""  # how zoo.json describes it
    training: bool = False
    data: tuple[int, int, int] = DATA
    standard: bool = True  # whether all its operators are ONNX's own

    @property
    def name(self):
        return f"{self.family}-{self.exporter}{'-cache' if self.cache else ''}{SUFFIX[self.dtype]}{self.suffix}"

    @property
    def blocks(self):
        return FAMILIES[self.family].blocks

    @property
    def traps(self):
        return FAMILIES[self.family].traps

    def export(self, path):
        """Writes the model; returns data sets: inputs by name, and PyTorch's outputs for them."""
        model = self.build()
        self.write(model, path, LAYERS if self.cache else 0, self.inputs(model, EXAMPLE))
        inputs = self.inputs(model, self.data)
        return [(values(inputs), self.run(model, inputs))]

    def build(self):
        model = FAMILIES[self.family].build().to(self.dtype)
        if self.attention != "eager":
            model.set_attn_implementation(self.attention)
        if self.exporter == DYNAMO and hasattr(model, "config"):
            model.config._experts_implementation = "batched_mm"  # it cannot export the loop
        return model

    def write(self, model, path, cached_layers, inputs):
        family = FAMILIES[self.family]
        outputs = cached_outputs(family, cached_layers)
        opset = self.opset or (17 if self.exporter == TORCHSCRIPT else None)
        export(model, inputs, outputs, path, self.exporter, opset, family.constants, cached_layers, self.training)

    def run(self, model, inputs):
        family = FAMILIES[self.family]
        own = [name for name in inputs if not name.startswith("past_key_values.")]
        with torch.no_grad():
            wrapped = Positional(model, own, list(family.outputs), family.constants, LAYERS if self.cache else 0)
            return wrapped(*values(inputs).values())

    def inputs(self, model, sizes):
        batch, sequence, earlier = sizes
        family = FAMILIES[self.family]
        inputs = cached_inputs(family, model, batch, sequence, earlier) if self.cache else family.inputs(batch, sequence)
        for given in inputs.values():
            if given.value.is_floating_point():
                given.value = given.value.to(self.dtype)
        return inputs


def values(inputs):
    return {name: given.value for name, given in inputs.items()}


@dataclass
class Optimized(File):
    """An export changed by ONNX Runtime's transformer optimizer."""

    model_type: str = ""
    suffix: str = "-onnxruntime"
    standard: bool = False

    def __post_init__(self):
        self.variant = f"ONNX Runtime's optimizer for {self.model_type}"

    def export(self, path):
        data = super().export(path)
        variants.optimize(path, self.model_type, HEADS, WIDTH)
        return data


@dataclass
class Merged(File):
    """Decoders with and without a cache as the branches of an If."""

    cache: bool = True
    suffix: str = "-merged"
    variant: str = "merged decoder: If with two branches"

    @property
    def blocks(self):
        """Every block is in both branches."""
        return [block | {"count": 2 * block["count"]} for block in super().blocks]

    def export(self, path):
        model, switch = self.build(), "use_cache_branch"
        with_past, first = self.inputs(model, EXAMPLE), FAMILIES[self.family].inputs(*EXAMPLE[:2])
        self.write(model, path, LAYERS, first)
        without_cache = onnx.load(path)
        self.write(model, path, LAYERS, with_past)
        onnx.save(variants.merge_decoders(without_cache, onnx.load(path), switch), path)
        later, first = self.inputs(model, DATA), FAMILIES[self.family].inputs(*DATA[:2])
        unused = {name: given.value[:, :, :1] * 0 for name, given in later.items() if name not in first}
        return [(values(later) | {switch: torch.tensor(True)}, self.run(model, later)),
                (values(first) | unused | {switch: torch.tensor(False)}, self.run(model, first))]


@dataclass
class Functions(File):
    """Modules of every layer are calls of model-local functions."""

    modules: dict[str, str] = field(default_factory=dict)  # functions by the beginning of node names, {} for the layer
    domain: str = ""
    suffix: str = "-functions"

    def __post_init__(self):
        self.variant = "model-local functions " + ", ".join(self.modules.values())

    def export(self, path):
        data = super().export(path)
        modules = {name.format(layer): function for layer in range(LAYERS) for name, function in self.modules.items()}
        onnx.save(variants.modules_to_functions(onnx.load(path), modules, self.domain), path)
        return data


@dataclass
class Training(File):
    """An export in training mode, with Dropout nodes. Their ratio is 0, so that there is one answer."""

    suffix: str = "-training"
    variant: str = "training mode, Dropout nodes"
    training: bool = True

    def build(self):
        model = super().build()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            elif isinstance(getattr(module, "dropout", None), float):
                module.dropout = 0.0
        return model


OLDER = ["roberta", "t5-v1.0", "opt", "bart", "gpt-neox"]  # exported by TorchScript at opset 14
ONE_EXPORTER = {"megatron-gpt-swiglu": [DYNAMO],  # TorchScript has no RMS norm
                "nemotron": [DYNAMO], "modernbert": [TORCHSCRIPT], "mobilebert": [DYNAMO],
                "qwen3-moe": [TORCHSCRIPT], "olmoe": [TORCHSCRIPT]}
FILES = [File(name, exporter, 14 if exporter == TORCHSCRIPT and name in OLDER else None)
         for name in FAMILIES for exporter in (TORCHSCRIPT, DYNAMO)
         if exporter in ONE_EXPORTER.get(name, (TORCHSCRIPT, DYNAMO))]
KEPT = "key/value cache"
FILES += [File(name, TORCHSCRIPT, cache=True, variant=KEPT)
          for name in ("gpt2", "llama", "gpt-neox", "opt", "gpt-j", "bloom", "falcon")]
FILES += [File(name, DYNAMO, cache=True, variant=KEPT) for name in ("gpt2", "llama", "mistral", "qwen3", "gemma", "phi-3")]
FILES += [File("gpt2", TORCHSCRIPT, dtype=torch.float16), File("vit", TORCHSCRIPT, dtype=torch.float16),
          File("bert", DYNAMO, dtype=torch.float16), File("llama", DYNAMO, dtype=torch.float16)]
FILES += [File("mistral", TORCHSCRIPT, dtype=torch.bfloat16), File("qwen2", DYNAMO, dtype=torch.bfloat16),
          File("t5-v1.1", DYNAMO, dtype=torch.bfloat16), File("opt", TORCHSCRIPT, dtype=torch.bfloat16)]
NEWER = dict(opset=23, attention="sdpa", suffix="-opset23")
FILES += [
    File("bert", DYNAMO, **NEWER, variant="Attention"),
    File("gpt2", DYNAMO, **NEWER, variant="Attention"),
    # The exporter gives RotaryEmbedding one row of angles, which the operator allows for a batch of one.
    File("llama", DYNAMO, **NEWER, variant="Attention, RotaryEmbedding, RMSNormalization; batch 1", data=(1, 9, 5))]
FILES += [Optimized(name, TORCHSCRIPT, model_type=model_type) for name, model_type in (
    ("bert", "bert"), ("distilbert", "bert"), ("electra", "bert"), ("gpt2", "gpt2"), ("vit", "vit"), ("bart", "bart"),
    ("t5-v1.0", "t5"), ("clip", "clip"), ("llama", "gpt2"))]
FILES += [Merged("gpt2", TORCHSCRIPT), Merged("llama", TORCHSCRIPT)]
FILES += [
    Functions("bert", TORCHSCRIPT, domain="transformers.models.bert.modeling_bert", modules={
        "/model/bert/encoder/layer.{}/intermediate/": "BertIntermediate",
        "/model/bert/encoder/layer.{}/output/": "BertOutput"}),
    Functions("llama", TORCHSCRIPT, domain="transformers.models.llama.modeling_llama", modules={
        "/model/model/layers.{}/mlp/": "LlamaMLP"})]
FILES += [Training("bert", TORCHSCRIPT), Training("t5-v1.1", TORCHSCRIPT)]
