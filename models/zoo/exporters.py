"""Exporting one model by PyTorch's two ONNX exporters, with a key/value cache where asked for."""

import warnings

import torch
from torch import nn
from transformers import DynamicCache

from families import Input

TORCHSCRIPT, DYNAMO = "torchscript", "dynamo"


class Positional(nn.Module):
    """A model whose inputs and outputs are tensors in a fixed order.

    With cached layers, a pair of tensors for each of them follows the inputs and the outputs: the
    keys and the values of earlier positions, and those of all positions.
    """

    def __init__(self, model, inputs, outputs, constants, cached_layers=0):
        super().__init__()
        self.model, self.inputs, self.outputs, self.constants = model, inputs, outputs, constants
        self.cached_layers = cached_layers

    def forward(self, *values):
        given = dict(zip(self.inputs, values)) | self.constants
        if self.cached_layers:
            cache, past = DynamicCache(), values[len(self.inputs):]
            for layer in range(len(past) // 2):
                cache.update(past[2 * layer], past[2 * layer + 1], layer)
            given |= {"past_key_values": cache, "use_cache": True}
        result = self.model(**given)
        outputs = [result[name] for name in self.outputs]
        for layer in range(self.cached_layers):
            outputs += [result.past_key_values.layers[layer].keys, result.past_key_values.layers[layer].values]
        return tuple(outputs)


def past(family, model, batch, sequence, earlier, dtype):
    """The inputs past_key_values.I.key and .value after earlier positions, as long as a first run makes them."""
    given = {name: given.value for name, given in family.inputs(batch, earlier).items()}
    with torch.no_grad():
        cache = model(**given, **family.constants, use_cache=True).past_key_values
    inputs = {}
    for layer, kept in enumerate(cache.layers):
        for kind, value in (("key", kept.keys), ("value", kept.values)):
            inputs[f"past_key_values.{layer}.{kind}"] = Input(value.to(dtype), {0: "batch", 2: "past_sequence"})
    return inputs


def cached_inputs(family, model, batch, sequence, earlier, dtype=torch.float32):
    """The family's inputs with a cache; the attention mask covers the earlier positions as well."""
    inputs = family.inputs(batch, sequence)
    mask = inputs["attention_mask"]
    before = torch.ones(batch, earlier, dtype=mask.value.dtype)
    inputs["attention_mask"] = Input(torch.cat([before, mask.value], 1), {0: "batch", 1: "total_sequence"})
    return inputs | past(family, model, batch, sequence, earlier, dtype)


def cached_outputs(family, layers):
    axes = {0: "batch", 2: "total_sequence"}
    return family.outputs | {f"present.{layer}.{kind}": axes for layer in range(layers) for kind in ("key", "value")}


def export(model, inputs, outputs, path, exporter, opset, constants=None, cached_layers=0, training=False):
    """Writes model to path. inputs are Inputs by name, outputs dynamic axes by name."""
    own_inputs = [name for name in inputs if not name.startswith("past_key_values.")]
    own_outputs = [name for name in outputs if not name.startswith("present.")]
    wrapped = Positional(model, own_inputs, own_outputs, constants or {}, cached_layers)
    wrapped.train(training)
    values = tuple(given.value for given in inputs.values())
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        if exporter == TORCHSCRIPT:
            mode = torch.onnx.TrainingMode.TRAINING if training else torch.onnx.TrainingMode.EVAL
            axes = {name: given.axes for name, given in inputs.items()} | outputs
            torch.onnx.export(wrapped, values, path, dynamo=False, opset_version=opset, training=mode,
                              do_constant_folding=not training, input_names=list(inputs), output_names=list(outputs),
                              dynamic_axes={name: dict(named) for name, named in axes.items() if named})
        else:
            torch.onnx.export(wrapped, values, path, dynamo=True, opset_version=opset, external_data=False,
                              input_names=list(inputs), output_names=list(outputs), verbose=False,
                              dynamic_shapes=(tuple(dict(given.axes) for given in inputs.values()),))
