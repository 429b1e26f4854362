"""Trains the sample GPT further, on each half of a text: python models/train_halves.py --out DIR [--steps N]

The text is source code of Go's standard library, one half in Go and one in assembly. DIR gets, for each half,
HALF.onnx, the sample with new weights, and HALF.txt, the last tenth of the half, which is not trained on; and
prompts.jsonl, pieces of what is trained on, as fmoefy --prompts reads them. The sample's embeddings stay as they are.
NumPy computes all of it, so that nothing larger has to be installed: each half in a process with one thread.
"""

import argparse
import json
import math
import os
import subprocess
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # NumPy reads it when it is imported

import numpy as np
import onnx
from onnx import numpy_helper

from common import MODELS

SAMPLE = MODELS / "gpt-megatron" / "model.onnx"
HALVES = {"go": "net/http/*.go", "assembly": "runtime/[!z]*.s"}  # zcallback*.s is one line, thousands of times
CONTEXT, LAYERS, HEADS = 256, 6, 4
BATCH = 4
PROMPTS = 16
WARMUP = 10
LEARNING_RATE = 2e-3
BETA1, BETA2 = 0.9, 0.95


def read_half(pattern):
    """The training and held-out bytes of a half, cut at the first line break after nine tenths."""
    root = subprocess.run(["go", "env", "GOROOT"], capture_output=True, text=True, check=True).stdout.strip()
    text = b"".join(path.read_bytes() for path in sorted(Path(root, "src").glob(pattern)))
    cut = text.index(b"\n", len(text) * 9 // 10) + 1
    return text[:cut], text[cut:]


# Each function below returns its result and what turns the result's gradient into those of its operands.


def linear(x, weight, bias):
    """x [..., in] times weight [in, out]."""
    def back(dy):
        rows = dy.reshape(-1, dy.shape[-1])
        return dy @ weight.T, x.reshape(-1, x.shape[-1]).T @ rows, rows.sum(axis=0)
    return x @ weight + bias, back


def layer_norm(x, weight, bias):
    x = x - x.mean(axis=-1, keepdims=True)
    inverse = 1 / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + 1e-5)
    normal = x * inverse

    def back(dy):
        rows = dy.reshape(-1, dy.shape[-1])
        dx = dy * weight
        dx = dx - dx.mean(axis=-1, keepdims=True) - normal * (dx * normal).mean(axis=-1, keepdims=True)
        return dx * inverse, (rows * normal.reshape(rows.shape)).sum(axis=0), rows.sum(axis=0)
    return normal * weight + bias, back


def gelu(x):
    squares = x * x
    bend = np.tanh(0.79788456 * x * (1 + 0.044715 * squares))

    def back(dy):
        slope = 0.79788456 * (1 + 3 * 0.044715 * squares)
        return dy * 0.5 * (1 + bend + x * (1 - bend * bend) * slope)
    return 0.5 * x * (1 + bend), back


def attention(mixed):
    """mixed [batch, sequence, heads * 3 * size]: the query, key and value of each head side by side."""
    batch, sequence, width = mixed.shape
    heads = mixed.reshape(batch, sequence, HEADS, -1).transpose(0, 2, 1, 3)
    query, key, value = np.split(heads, 3, axis=-1)
    scale = np.float32(1 / math.sqrt(query.shape[-1]))
    future = np.triu(np.full((sequence, sequence), -10000, np.float32), 1)
    scores = query @ key.swapaxes(-1, -2) * scale + future
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    scores /= scores.sum(axis=-1, keepdims=True)

    def back(dy):
        dy = dy.reshape(batch, sequence, HEADS, -1).transpose(0, 2, 1, 3)
        dscores = dy @ value.swapaxes(-1, -2)
        dscores = scores * (dscores - (dscores * scores).sum(axis=-1, keepdims=True)) * scale
        dheads = [dscores @ key, dscores.swapaxes(-1, -2) @ query, scores.swapaxes(-1, -2) @ dy]
        return np.concatenate(dheads, axis=-1).transpose(0, 2, 1, 3).reshape(mixed.shape)
    return (scores @ value).transpose(0, 2, 1, 3).reshape(batch, sequence, width // 3), back


class GPT:
    """The network of gpt.py on the initializers of its export, by their names in PyTorch."""

    def __init__(self, path):
        self.model = onnx.load(path)
        initializers = {t.name: t for t in self.model.graph.initializer}
        self.tensors = {name.removeprefix("language_model."): t for name, t in initializers.items()}
        # The exporter transposed the matrices of products and renamed them, but left the nodes' paths.
        for node in self.model.graph.node:
            if node.op_type == "MatMul" and node.input[1] in initializers:
                module = node.name.removeprefix("/").removesuffix("/MatMul")
                self.tensors[module.replace("/", ".") + ".weight"] = initializers[node.input[1]]
        self.weights = {name: numpy_helper.to_array(t).copy() for name, t in self.tensors.items()}

    def gradients(self, input_ids, targets):
        """The mean loss in nats, and its gradients by the names of weights; those of embeddings are left out."""
        gradients = {}

        def apply(operator, x, name):
            y, back = operator(x, self.weights[name + ".weight"], self.weights[name + ".bias"])

            def record(dy):
                dx, gradients[name + ".weight"], gradients[name + ".bias"] = back(dy)
                return dx
            return y, record

        def branch(x, *steps):
            """x plus what a chain of operators makes of it."""
            y, backs = x, []
            for step in steps:
                y, back = step(y)
                backs.append(back)

            def back(dy):
                dx = dy
                for step in reversed(backs):
                    dx = step(dx)
                return dy + dx
            return x + y, back

        def layer(operator, name):
            return lambda x: apply(operator, x, name)

        embedding = self.weights["embedding.word_embeddings.weight"]
        x = embedding[input_ids] + self.weights["embedding.position_embeddings.weight"][:input_ids.shape[1]]
        backs = []
        for i in range(LAYERS):
            name = f"encoder.layers.{i}."
            x, back = branch(x, layer(layer_norm, name + "input_layernorm"), layer(linear, name + "self_attention.query_key_value"),
                             attention, layer(linear, name + "self_attention.dense"))
            backs.append(back)
            x, back = branch(x, layer(layer_norm, name + "post_attention_layernorm"), layer(linear, name + "mlp.dense_h_to_4h"),
                             gelu, layer(linear, name + "mlp.dense_4h_to_h"))
            backs.append(back)
        x, back = apply(layer_norm, x, "encoder.final_layernorm")
        backs.append(back)

        logits = x @ embedding.T
        logits -= logits.max(axis=-1, keepdims=True)
        logs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        at = (*np.indices(targets.shape), targets)
        loss = -logs[at].mean()
        slope = np.exp(logs)
        slope[at] -= 1
        slope = slope / np.float32(targets.size) @ embedding
        for back in reversed(backs):
            slope = back(slope)
        return loss, gradients

    def save(self, path):
        for name, weight in self.weights.items():
            tensor = self.tensors[name]
            tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))
        onnx.save(self.model, path)


def train(half, text, steps, seed, path):
    """Trains the sample by Adam with a linear warm-up and a cosine down to zero, and saves it at path."""
    model = GPT(SAMPLE)
    tokens = np.frombuffer(text, np.uint8).astype(np.int64)
    random = np.random.default_rng(seed)
    first, second = {}, {}
    started = time.monotonic()
    for step in range(steps):
        starts = random.integers(len(tokens) - CONTEXT, size=BATCH)
        stretch = tokens[starts[:, None] + np.arange(CONTEXT + 1)]
        loss, gradients = model.gradients(stretch[:, :-1], stretch[:, 1:])
        norm = math.sqrt(sum(float(np.square(g).sum()) for g in gradients.values()))
        rate = LEARNING_RATE * min(1, (step + 1) / WARMUP) * (1 + math.cos(math.pi * step / steps)) / 2
        rate *= math.sqrt(1 - BETA2 ** (step + 1)) / (1 - BETA1 ** (step + 1))
        for name, gradient in gradients.items():
            gradient = gradient * np.float32(min(1, 1 / norm))
            first[name] = BETA1 * first.get(name, 0) + (1 - BETA1) * gradient
            second[name] = BETA2 * second.get(name, 0) + (1 - BETA2) * gradient * gradient
            model.weights[name] -= np.float32(rate) * first[name] / (np.sqrt(second[name]) + np.float32(1e-8))
        if (step + 1) % 25 == 0:
            print(f"{half}, step {step + 1}: loss {loss:.3f}, {time.monotonic() - started:.0f} s", flush=True)
    model.save(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the models and the held-out texts")
    parser.add_argument("--steps", type=int, default=100, help="optimizer steps for each half (default: %(default)s)")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    prompts, jobs = [], []
    with ProcessPoolExecutor(len(HALVES)) as processes:
        for number, (half, pattern) in enumerate(HALVES.items()):
            training, held_out = read_half(pattern)
            print(f"{half}: {len(training):,} bytes to train on, {len(held_out):,} held out", flush=True)
            jobs.append(processes.submit(train, half, training, arguments.steps, number, arguments.out / f"{half}.onnx"))
            (arguments.out / f"{half}.txt").write_bytes(held_out)
            for start in range(0, len(training) - CONTEXT, len(training) // PROMPTS):
                prompts.append({"expert": number, "prompt": training[start:start + CONTEXT].decode(errors="replace")})
        for job in jobs:
            job.result()
    (arguments.out / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))


if __name__ == "__main__":
    main()
