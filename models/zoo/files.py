"""The list of the zoo's files."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from exporters import DYNAMO, TORCHSCRIPT, Positional, cached_inputs, cached_outputs, export
from families import FAMILIES, LAYERS

# Batch, sequence and cached positions that a model is exported with, and those of its reference data.
EXAMPLE, DATA = (2, 7, 3), (3, 9, 5)


@dataclass
class File:
    """One file: a family, an exporter, and how it differs from a plain float32 export."""

    family: str
    exporter: str
    opset: int | None = None  # None is the exporter's default
    dtype: torch.dtype = torch.float32
    cache: bool = False

    @property
    def name(self):
        half = {torch.float32: "", torch.float16: "-float16", torch.bfloat16: "-bfloat16"}[self.dtype]
        return f"{self.family}-{self.exporter}{'-cache' if self.cache else ''}{half}"

    @property
    def variant(self):
        return "key/value cache" if self.cache else ""

    @property
    def blocks(self):
        return FAMILIES[self.family].blocks

    @property
    def traps(self):
        return FAMILIES[self.family].traps

    def export(self, path):
        """Writes the model; returns data sets: inputs by name, and PyTorch's outputs for them."""
        family, layers = FAMILIES[self.family], LAYERS if self.cache else 0
        model = family.build().to(self.dtype)
        outputs = cached_outputs(family, layers)
        opset = self.opset or (17 if self.exporter == TORCHSCRIPT else None)
        export(model, self.inputs(model, EXAMPLE), outputs, path, self.exporter, opset, family.constants, layers)
        values = {name: given.value for name, given in self.inputs(model, DATA).items()}
        own = [name for name in values if not name.startswith("past_key_values.")]
        with torch.no_grad():
            want = Positional(model, own, list(family.outputs), family.constants, layers)(*values.values())
        return [(values, want)]

    def inputs(self, model, sizes):
        batch, sequence, earlier = sizes
        family = FAMILIES[self.family]
        inputs = cached_inputs(family, model, batch, sequence, earlier) if self.cache else family.inputs(batch, sequence)
        for given in inputs.values():
            if given.value.is_floating_point():
                given.value = given.value.to(self.dtype)
        return inputs


OLDER = ["roberta", "t5-v1.0", "opt", "bart", "gpt-neox"]  # exported by TorchScript at opset 14
FILES = [File(name, exporter, 14 if exporter == TORCHSCRIPT and name in OLDER else None)
         for name in FAMILIES for exporter in (TORCHSCRIPT, DYNAMO)]
FILES += [File(name, TORCHSCRIPT, cache=True) for name in ("gpt2", "llama", "gpt-neox", "opt", "gpt-j", "bloom", "falcon")]
FILES += [File(name, DYNAMO, cache=True) for name in ("gpt2", "llama", "mistral", "qwen3", "gemma", "phi-3")]
FILES += [File("gpt2", TORCHSCRIPT, dtype=torch.float16), File("vit", TORCHSCRIPT, dtype=torch.float16),
          File("bert", DYNAMO, dtype=torch.float16), File("llama", DYNAMO, dtype=torch.float16)]
FILES += [File("mistral", TORCHSCRIPT, dtype=torch.bfloat16), File("qwen2", DYNAMO, dtype=torch.bfloat16),
          File("t5-v1.1", DYNAMO, dtype=torch.bfloat16), File("opt", TORCHSCRIPT, dtype=torch.bfloat16)]
