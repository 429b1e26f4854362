"""Writes runtime/train/testdata/gradients.json and steps.json: what PyTorch makes in float64 of the sample
models, dense and with mixtures of experts: losses, gradients, and losses over ten steps of AdamW.

    make build && python models/gradients.py

Weights are those of the ONNX files, and gradients have the names and the shapes of their initializers.
Of a gradient its norm, its sum and some elements are stored. Mixtures are what bin/fmoefy makes of the
samples; they are computed here by the formulas of docs/gates.md, all experts for all tokens.
"""

import argparse
import json
import math
import subprocess
import tempfile
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch import nn
from torch.nn import functional as F

import export
import gpt
from common import MODELS

TESTDATA = MODELS.parent / "runtime" / "train" / "testdata"
IGNORED = -100
ELEMENTS = 16  # of each gradient that are stored

# Fields of fmoefy.Options, and the flags of the command that set them.
FLAGS = {
    "NumExperts": "--num-experts", "TopK": "--top-k", "Init": "--init", "NoiseScale": "--noise-scale",
    "GateStd": "--gate-std", "Seed": "--seed", "Gate": "--gate", "RandomRouting": "--random-routing",
    "Jitter": "--jitter", "TokenMask": "--token-mask",
}
EXPERTS = {"NumExperts": 4, "TopK": 2, "Init": "noise", "NoiseScale": 0.3, "GateStd": 0.1, "Seed": 1}

# Powers of two, which float32 holds as they are.
SMOOTHING, Z_LOSS, BALANCE, ROUTER_Z = 2**-3, 2**-10, 2**-6, 2**-8


class UntiedGPT(nn.Module):
    """A GPT whose head has weights of its own, as the file that the TorchScript exporter wrote."""

    def __init__(self, model):
        super().__init__()
        self.language_model = model.language_model
        self.head = nn.Parameter(model.language_model.embedding.word_embeddings.weight.detach().clone())

    def forward(self, input_ids):
        x = self.language_model.embedding(input_ids)
        x = self.language_model.encoder(x, gpt.causal_mask(input_ids.shape[1], input_ids.device))
        return F.linear(x, self.head)


class FMoE(nn.Module):
    """The node ai.fmoe::FMoE in training, with weights of the router and the experts under the names of slots."""

    SLOTS = ("gate_weight", "gate_bias", "fc1_weight", "fc1_bias", "fc2_weight", "fc2_bias", "fc3_weight", "fc3_bias")
    ACTIVATIONS = {"gelu": F.gelu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"), "silu": F.silu}

    def __init__(self, node, weights):
        super().__init__()
        self.attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        self.initializers = {slot: name for slot, name in zip(self.SLOTS, node.input[1:]) if name}
        for slot in self.SLOTS:
            name = self.initializers.get(slot)
            self.register_parameter(slot, nn.Parameter(weights[name]) if name else None)
        self.activation = self.ACTIVATIONS[self.attributes["activation"].decode()]
        self.gate = getattr(self, self.attributes["gate"].decode().replace("-", "_"))
        self.masked = len(node.input) > 14 and node.input[14] != ""
        self.mask = None  # bool [batch, sequence], where self.masked

    def forward(self, x):
        tokens = x.flatten(0, -2)
        logits = tokens @ self.gate_weight
        if self.gate_bias is not None:
            logits = logits + self.gate_bias
        counted = self.mask.flatten() if self.masked else torch.ones(len(tokens), dtype=torch.bool)
        scores = torch.zeros_like(logits)
        kept, self.balance = self.gate(logits[counted], [int(n) for n in counted.view(x.shape[:-1]).sum(-1)])
        scores[counted] = kept
        self.z = torch.logsumexp(logits[counted], -1).square().mean()
        y = sum(scores[:, e, None] * self.expert(tokens, e) for e in range(logits.shape[1]))
        return y.view(x.shape)

    def expert(self, x, e):
        def project(x, number):
            bias = getattr(self, f"fc{number}_bias")
            return F.linear(x, getattr(self, f"fc{number}_weight")[e], None if bias is None else bias[e])

        hidden = self.activation(project(x, 1))
        if self.fc3_weight is not None:
            hidden = hidden * project(x, 3)
        return project(hidden, 2)

    # Gates take the logits [N, T] of the tokens that count, and how many of them each sequence has. They
    # return the scores [N, T] of all experts, 0 where an expert does not compute a token, and the balance loss.

    def naive(self, logits, _):
        values, experts = logits.topk(self.attributes["top_k"])
        return self.placed(logits, experts, F.softmax(values, -1)), logits.new_zeros(())

    def gshard(self, logits, _):
        assert self.attributes["random_routing"] == 0
        tokens, number = logits.shape
        values, experts = logits.topk(2)
        kept = self.granted(experts, number, math.ceil(self.capacity_factor() * tokens) * 2 // number)
        first = F.one_hot(experts[:, 0], number).to(logits).mean(0)
        balance = number * (first * F.softmax(logits, -1).mean(0)).sum()
        return self.placed(logits, experts, F.softmax(values, -1) * kept), balance

    def switch(self, logits, _):
        assert self.attributes["jitter"] == 0
        tokens, number = logits.shape
        probabilities = F.softmax(logits, -1)
        experts = logits.argmax(-1, keepdim=True)
        kept = self.granted(experts, number, math.ceil(self.capacity_factor() * tokens / number))
        share = (F.one_hot(experts[:, 0], number) * kept).to(logits).sum(0) / kept.sum()
        balance = number * (share * probabilities.sum(0) / kept.sum()).sum()
        return self.placed(logits, experts, probabilities.gather(1, experts) * kept), balance

    def sigmoid(self, logits, lengths):
        number, k = logits.shape[1], self.attributes["top_k"]
        values = torch.sigmoid(logits)
        chosen, experts = values.topk(k)
        balance = []
        for sequence, best in zip(values.split(lengths), experts.split(lengths)):
            share = number / (k * len(sequence)) * F.one_hot(best, number).sum((0, 1)).to(logits)
            balance.append((share * (sequence / sequence.sum(-1, keepdim=True)).mean(0)).sum())
        return self.placed(logits, experts, chosen / chosen.sum(-1, keepdim=True)), torch.stack(balance).mean()

    def expert_choice(self, logits, _):
        tokens, number = logits.shape
        probabilities = F.softmax(logits, -1)
        rows = min(tokens, math.ceil(tokens * self.attributes["top_k"] / number))
        chosen = torch.zeros_like(logits).scatter(0, probabilities.topk(rows, 0).indices, 1.0)
        return probabilities * chosen, logits.new_zeros(())

    def capacity_factor(self):
        return self.attributes.get("capacity_factor_train", 1.2)

    @staticmethod
    def placed(logits, experts, scores):
        return torch.zeros_like(logits).scatter(1, experts, scores)

    @staticmethod
    def granted(experts, number, capacity):
        """True for slots [N, k] within their experts' capacities, which are granted token by token."""
        rank = F.one_hot(experts.flatten(), number).cumsum(0).gather(1, experts.view(-1, 1)) - 1
        return (rank < capacity).view(experts.shape)


# The blocks of the samples, one after the other: set(i, module) puts a module in place of the i-th.

def set_gpt(model, i, module):
    model.language_model.encoder.layers[i].mlp = module


def set_llama(model, i, module):
    model.model.layers[i].mlp = module


def set_t5(model, i, module):
    model.encoder.block[i].layer[1].DenseReluDense = module


def set_bert(model, i, module):
    layer = model.encoder.layer[i]
    layer.intermediate, layer.output.dense = module, nn.Identity()


SETTERS = {"gpt-megatron": set_gpt, "gpt-megatron-dynamo": set_gpt, "llama": set_llama, "t5": set_t5, "bert": set_bert}


class Model:
    """A sample in float64, with the parameters by the names of the ONNX file's initializers."""

    def __init__(self, name, rewrite, fmoefy):
        sample = next(s for s in export.SAMPLES if s.name == name)
        built = sample.build()
        self.module = UntiedGPT(built) if name == "gpt-megatron" else built
        with tempfile.TemporaryDirectory() as folder:
            path = sample.path
            if rewrite:
                path = Path(folder) / "model.onnx"
                flags = [f"{FLAGS[k]}={str(v).lower() if isinstance(v, bool) else v}" for k, v in rewrite.items()]
                subprocess.run([fmoefy, sample.path, "-o", path, *flags], check=True, stdout=subprocess.DEVNULL)
            graph = onnx.load(path).graph
        weights = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
        nodes = [n for n in graph.node if n.op_type == "FMoE"]
        self.layers = [FMoE(node, weights) for node in nodes]
        for i, layer in enumerate(self.layers):
            SETTERS[name](self.module, i, layer)
        self.parameters = {}  # by initializer: the parameter, and whether it is transposed there
        for layer in self.layers:
            for slot, initializer in layer.initializers.items():
                self.parameters[initializer] = (getattr(layer, slot), False)
        self.match({n: w for n, w in weights.items() if n not in self.parameters})
        self.module.double()  # which keeps parameters

    def match(self, weights):
        """Finds the initializer of each parameter, which exporters rename, by its elements."""
        taken = {id(p) for p, _ in self.parameters.values()}
        for name, parameter in self.module.named_parameters():
            if id(parameter) in taken:
                continue
            # As it is, if possible. An untied head is its embedding transposed.
            found = [(i, transposed) for transposed in (False, True) for i, weight in weights.items()
                     if i not in self.parameters and (weight.dim() == 2 or not transposed) and (transposed or name != "head")
                     and torch.equal(weight.T if transposed else weight, parameter)]
            if not found:
                raise ValueError(f"the file has no weight {name}")
            initializer, transposed = found[0]
            self.parameters[initializer] = (parameter, transposed)

    def losses(self, loss, inputs, labels):
        """The loss of the task, and that with the routers' losses."""
        for layer in self.layers:
            if layer.masked:
                layer.mask = inputs["attention_mask"].bool()
        output = self.module(**inputs)
        if loss["kind"] == "mse":
            task = (output - sines(output.shape)).square().mean()
        else:
            logits, labels = output.flatten(0, 1), labels.flatten()
            task = F.cross_entropy(logits, labels, ignore_index=IGNORED, label_smoothing=loss.get("label_smoothing", 0.0))
            task = task + loss.get("z_loss", 0) * torch.logsumexp(logits[labels != IGNORED], -1).square().mean()
        total = task
        for layer in self.layers:
            total = total + loss.get("balance", 0) * layer.balance + loss.get("router_z", 0) * layer.z
        return task, total


def sines(shape):
    """Labels of mean squared errors: sin i for the i-th element."""
    return torch.arange(math.prod(shape), dtype=torch.float64).sin().view(shape)


def next_tokens(batch, sequence, start=0):
    """Stretches of the held-out text. Labels are the bytes that follow."""
    text = (MODELS / "gpt-megatron" / "heldout.txt").read_bytes()[start:]
    tokens = torch.tensor(list(text[: batch * (sequence + 1)])).view(batch, sequence + 1)
    return {"input_ids": tokens[:, :-1]}, tokens[:, 1:]


def some_tokens(batch, sequence):
    """Random tokens; the labels of the first third do not count."""
    inputs = export.random_tokens(batch, sequence + 1)["input_ids"]
    labels = inputs[:, 1:].clone()
    labels[:, : sequence // 3] = IGNORED
    return {"input_ids": inputs[:, :-1]}, labels


def masked_tokens(batch, sequence):
    """Padded pairs of sentences; every fourth token has a label."""
    inputs = export.sentence_pairs(batch, sequence)
    labels = torch.full((batch, sequence), IGNORED)
    labels[:, ::4] = inputs["input_ids"][:, ::4].roll(1, 0)
    return inputs, labels.where(inputs["attention_mask"] == 1, IGNORED)


def hidden_states(batch, sequence):
    return export.padded_tokens(batch, sequence), None


NEXT, MASKED, SQUARED = ({"kind": kind, "ignore_index": IGNORED} for kind in ("next-token", "masked", "mse"))


def cases():
    """Name, sample, options of fmoefy, loss, inputs and labels."""
    book, some, pairs, states = next_tokens(2, 40), some_tokens(3, 20), masked_tokens(3, 20), hidden_states(3, 20)
    yield "gpt", "gpt-megatron", None, NEXT, *book
    yield "gpt, tied head, smoothed labels and z-loss", "gpt-megatron-dynamo", None, {
        **NEXT, "label_smoothing": SMOOTHING, "z_loss": Z_LOSS}, *book
    yield "llama", "llama", None, NEXT, *some
    yield "bert", "bert", None, MASKED, *pairs
    yield "t5", "t5", None, SQUARED, *states

    yield "gpt, copies", "gpt-megatron", {"NumExperts": 4, "TopK": 2, "Seed": 1}, NEXT, *book
    yield "gpt, naive, z-loss", "gpt-megatron-dynamo", EXPERTS, {**NEXT, "router_z": ROUTER_Z}, *book
    yield "gpt, gshard", "gpt-megatron", {**EXPERTS, "Gate": "gshard", "RandomRouting": False}, {
        **NEXT, "balance": BALANCE}, *book
    yield "llama, naive", "llama", EXPERTS, NEXT, *some
    yield "llama, switch", "llama", {**EXPERTS, "TopK": 1, "Gate": "switch", "Jitter": 0}, {
        **NEXT, "balance": BALANCE, "router_z": ROUTER_Z}, *some
    yield "bert, naive", "bert", EXPERTS, MASKED, *pairs
    yield "bert, sigmoid, token mask", "bert", {**EXPERTS, "Gate": "sigmoid", "TokenMask": "attention_mask"}, {
        **MASKED, "balance": BALANCE, "router_z": ROUTER_Z}, *pairs
    yield "t5, naive", "t5", EXPERTS, SQUARED, *states
    yield "t5, expert choice", "t5", {**EXPERTS, "Gate": "expert-choice"}, {**SQUARED, "router_z": ROUTER_Z}, *states


def numbers(x):
    """x as numbers of 12 digits."""
    return [float(f"{v:.12g}") for v in x.tolist()] if x.dim() else float(f"{x.item():.12g}")


def summary(name, gradient, random):
    """Elements are drawn from those that are not zero, where there are any: tables have many zeros."""
    flat = gradient.flatten()
    candidates = flat.nonzero()[:, 0]
    if len(candidates) == 0:
        candidates = torch.arange(len(flat))
    at = candidates[torch.randperm(len(candidates), generator=random)[:ELEMENTS]].sort().values
    return {"name": name, "norm": numbers(flat.norm()), "sum": numbers(flat.sum()),
            "at": at.tolist(), "values": numbers(flat[at])}


def gradients(name, sample, rewrite, loss, inputs, labels, fmoefy):
    model = Model(sample, rewrite, fmoefy)
    random = torch.Generator().manual_seed(0)
    task, total = model.losses(loss, inputs, labels)
    total.backward()
    list = []
    for initializer, (parameter, transposed) in model.parameters.items():
        list.append(summary(initializer, parameter.grad.T if transposed else parameter.grad, random))
    print(f"{name}: loss {task:.6f}, in all {total:.6f}, {len(list)} gradients")
    return {"name": name, "model": sample, "rewrite": rewrite, "loss": loss, "inputs": lists(inputs),
            "labels": None if labels is None else labels.tolist(),
            "task": numbers(task.detach()), "total": numbers(total.detach()), "gradients": list}


def lists(inputs):
    return {name: tensor.tolist() for name, tensor in inputs.items()}


STEPS, WARMUP, MINIMUM, CLIP = 10, 3, 0.1, 1.0
ADAMW = {"kind": "adamw", "learning_rate": 1e-3, "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8}


def factor(step):
    """Of the learning rate: warm-up and a cosine, by their formulas."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    return MINIMUM + (1 - MINIMUM) * (1 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP))) / 2


def steps(name, sample, rewrite, loss, fmoefy):
    """Ten steps of AdamW, which decays matrices alone."""
    model = Model(sample, rewrite, fmoefy)
    vectors, matrices = [], []
    for initializer, (parameter, _) in model.parameters.items():
        bias = initializer.endswith("bias") or any(
            layer.initializers.get(slot) == initializer for layer in model.layers for slot in ("fc1_bias", "fc2_bias"))
        (vectors if parameter.dim() == 1 or bias else matrices).append(parameter)
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": ADAMW["weight_decay"]}, {"params": vectors, "weight_decay": 0.0}],
        lr=ADAMW["learning_rate"], betas=(ADAMW["beta1"], ADAMW["beta2"]), eps=ADAMW["epsilon"])
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    batches, losses = [], []
    for step in range(STEPS):
        inputs, labels = next_tokens(4, 32, start=1000 * step)
        optimizer.zero_grad()
        task, total = model.losses(loss, inputs, labels)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.module.parameters(), CLIP)
        optimizer.step()
        schedule.step()
        batches.append({"inputs": lists(inputs), "labels": labels.tolist()})
        losses.append({"task": numbers(task.detach()), "total": numbers(total.detach()), "norm": numbers(norm)})
    print(f"{name}: " + " ".join(f"{l['task']:.5f}" for l in losses))
    return {"name": name, "model": sample, "rewrite": rewrite, "loss": loss, "optimizer": ADAMW, "clip": CLIP,
            "schedule": {"kind": "cosine", "warmup": WARMUP, "minimum": MINIMUM}, "batches": batches, "losses": losses}


def write(name, values):
    lines = ",\n".join(json.dumps(value, separators=(",", ":")) for value in values)
    (TESTDATA / name).write_text(f"[\n{lines}\n]\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--fmoefy", type=Path, default=MODELS.parent / "bin" / "fmoefy", help="the command (default: %(default)s)")
    fmoefy = parser.parse_args().fmoefy
    write("gradients.json", [gradients(*case, fmoefy) for case in cases()])
    eight = {**EXPERTS, "NumExperts": 8}
    write("steps.json", [
        steps("gpt", "gpt-megatron", None, NEXT, fmoefy),
        steps("gpt, tied head", "gpt-megatron-dynamo", None, NEXT, fmoefy),
        steps("gpt, eight experts", "gpt-megatron", eight, {**NEXT, "router_z": ROUTER_Z}, fmoefy),
    ])


if __name__ == "__main__":
    main()
