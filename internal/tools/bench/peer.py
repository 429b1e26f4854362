"""Measures what fmoe is compared with: ONNX Runtime, NumPy and PyTorch.

    peer.py onnxruntime MODEL --data DIR --threads 2 --runs 10
    peer.py onnxruntime GPT --prefill 128 --decode 64 --threads 2 --runs 3
    peer.py numpy product 512 768 3072 --threads 1 --runs 10
    peer.py torch mixture TOKENS EXPERTS TOP_K MODEL HIDDEN ...

Prints JSON in the form of moerun bench --json: the median of each phase after one run to warm up.
"""

import argparse
import json
import os
import resource
import statistics
import sys
import time
from pathlib import Path


def median(runs, run):
    """The median time of run in ms, after one to warm up."""
    run()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return {"run": 1000 * statistics.median(times)}


def median_decoding(runs, prefill, decode, read):
    """The median times of reading a prompt and of each token after it. read(tokens, past) does a step;
    past is what the step before returned, None at the beginning."""
    first, rest = [], []
    for number in range(runs + 1):
        past = None
        length = decode if number > 0 else min(decode, 4)  # are enough to warm up
        for position in [0, *range(prefill, prefill + length)]:
            count = prefill if position == 0 else 1
            start = time.perf_counter()
            past = read(range(position, position + count), past)
            if number > 0:
                (first if position == 0 else rest).append(time.perf_counter() - start)
    return {"prefill": 1000 * statistics.median(first), "decode": 1000 * statistics.median(rest)}


def token(position, vocabulary):
    """The tokens that moerun bench reads."""
    return (17 + 7919 * position) % vocabulary


# ONNX Runtime, with all its optimisations. Outputs stay in its memory, caches go from step to step uncopied.


def run_onnxruntime(arguments):
    import numpy as np
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = arguments.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(arguments.model, options, providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]

    def bound(inputs, cached):
        binding = session.io_binding()
        for name, value in inputs.items():
            binding.bind_cpu_input(name, value)
        for name, value in cached.items():
            binding.bind_ortvalue_input(name, value)
        for name in outputs:
            binding.bind_output(name)
        return binding

    if arguments.decode == 0:
        import onnx

        names = [value.name for value in session.get_inputs()]
        inputs = {}
        for number, path in enumerate(sorted(Path(arguments.data).glob("input_*.pb"))):
            tensor = onnx.load_tensor(str(path))
            inputs[tensor.name or names[number]] = onnx.numpy_helper.to_array(tensor)
        return ort.__version__, median(arguments.runs, lambda: session.run_with_iobinding(bound(inputs, {})))

    vocabulary = session.get_outputs()[outputs.index("logits")].shape[-1]
    empty = {
        value.name: ort.OrtValue.ortvalue_from_numpy(np.zeros([1, value.shape[1], 0, value.shape[3]], np.float32))
        for value in session.get_inputs()
        if value.name.startswith("past_key_values.")
    }
    wanted = {value.name for value in session.get_inputs()}

    def read(positions, past):
        inputs = {
            "input_ids": np.array([[token(i, vocabulary) for i in positions]], np.int64),
            "attention_mask": np.ones([1, positions.stop], np.int64),
            "position_ids": np.array([positions], np.int64),
        }
        binding = bound({name: value for name, value in inputs.items() if name in wanted}, empty if past is None else past)
        session.run_with_iobinding(binding)
        results = dict(zip(outputs, binding.get_outputs()))
        return {name: results[name.replace("past_key_values.", "present.")] for name in empty}

    return ort.__version__, median_decoding(arguments.runs, arguments.prefill, arguments.decode, read)


# NumPy: a matrix product alone.


def run_numpy(arguments):
    import numpy as np

    rows, k, columns = arguments.sizes
    random = np.random.default_rng(1)
    a, b = (random.standard_normal(shape, np.float32) for shape in [(rows, k), (k, columns)])
    out = np.empty((rows, columns), np.float32)
    return np.__version__, median(arguments.runs, lambda: np.matmul(a, b, out=out))


# PyTorch: the same layers and models, written as one would write them there.


def run_torch(arguments):
    import torch
    from torch.nn import functional as F

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(1)
    with torch.inference_mode(arguments.model != "training"):
        return torch.__version__, TORCH[arguments.model](torch, F, arguments)


def torch_product(torch, F, arguments):
    rows, k, columns = arguments.sizes
    x, weight = torch.randn(rows, k), torch.randn(columns, k) * 0.02
    return median(arguments.runs, lambda: F.linear(x, weight))


def torch_mixture(torch, F, arguments):
    """A loop over the experts, each computing the tokens that chose it."""
    tokens, experts, top_k, model, hidden = arguments.sizes
    x, router = torch.randn(tokens, model), torch.randn(experts, model) * 0.02
    fc1, fc2 = torch.randn(experts, hidden, model) * 0.02, torch.randn(experts, model, hidden) * 0.02
    bias1, bias2 = torch.randn(experts, hidden) * 0.02, torch.randn(experts, model) * 0.02

    def run():
        logits, chosen = torch.topk(F.linear(x, router), top_k)
        scores, y = torch.softmax(logits, -1), torch.zeros_like(x)
        for expert in range(experts):
            rows, slots = torch.where(chosen == expert)
            if len(rows) == 0:
                continue
            h = F.gelu(F.linear(x[rows], fc1[expert], bias1[expert]), approximate="tanh")
            y.index_add_(0, rows, F.linear(h, fc2[expert], bias2[expert]) * scores[rows, slots, None])
        return y

    return median(arguments.runs, run)


class TorchTransformer:
    """The layers that GPT-2 and BERT share."""

    def __init__(self, torch, F, layers, model, heads, hidden):
        self.F, self.model, self.heads = F, model, heads
        matrix = lambda rows, columns: (torch.randn(rows, columns) * 0.02, torch.randn(rows) * 0.02)
        norm = lambda: (torch.ones(model), torch.zeros(model))
        self.layers = [
            (norm(), matrix(3 * model, model), matrix(model, model), norm(), matrix(hidden, model), matrix(model, hidden))
            for _ in range(layers)
        ]

    def attention(self, x, qkv, out, past, causal):
        import torch

        batch, sequence, _ = x.shape
        parts = self.F.linear(x, *qkv).view(batch, sequence, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = parts[0], parts[1], parts[2]
        if past is not None:
            key, value = torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)
        y = self.F.scaled_dot_product_attention(query, key, value, is_causal=causal and sequence > 1)
        return self.F.linear(y.transpose(1, 2).reshape(batch, sequence, -1), *out), (key, value)

    def mlp(self, x, up, down, approximate):
        return self.F.linear(self.F.gelu(self.F.linear(x, *up), approximate=approximate), *down)

    def norm(self, x, weights):
        return self.F.layer_norm(x, (self.model,), *weights)


def torch_decoder(torch, F, arguments):
    layers, model, heads, hidden, vocabulary, positions = arguments.sizes
    t = TorchTransformer(torch, F, layers, model, heads, hidden)
    table, places, head = torch.randn(vocabulary, model) * 0.02, torch.randn(positions, model) * 0.02, torch.randn(vocabulary, model) * 0.02

    def read(span, past):
        ids = torch.tensor([[token(i, vocabulary) for i in span]])
        x, caches = table[ids] + places[span.start : span.stop], []
        for number, (norm1, qkv, out, norm2, up, down) in enumerate(t.layers):
            y, cache = t.attention(t.norm(x, norm1), qkv, out, past and past[number], True)
            caches.append(cache)
            x = x + y
            x = x + t.mlp(t.norm(x, norm2), up, down, "tanh")
        F.linear(x, head)
        return caches

    return median_decoding(arguments.runs, arguments.prefill, arguments.decode, read)


def torch_encoder(torch, F, arguments):
    layers, model, heads, hidden, batch, sequence = arguments.sizes
    t = TorchTransformer(torch, F, layers, model, heads, hidden)
    embedded = torch.randn(batch, sequence, model)

    def run():
        x = embedded
        for norm1, qkv, out, norm2, up, down in t.layers:
            x = t.norm(x + t.attention(x, qkv, out, None, False)[0], norm1)
            x = t.norm(x + t.mlp(x, up, down, "none"), norm2)
        return x

    return median(arguments.runs, run)


def torch_training(torch, F, arguments):
    """A step of training: cross-entropy of the next token, its gradients, and AdamW."""
    layers, model, heads, hidden, vocabulary, positions, batch, sequence, experts, top_k = arguments.sizes
    parameters = []

    def parameter(*shape):
        parameters.append(torch.nn.Parameter(torch.randn(*shape) * 0.02))
        return parameters[-1]

    def matrix(rows, columns, *stack):
        return parameter(*stack, rows, columns), parameter(*stack, rows)

    def norm():
        weights = torch.nn.Parameter(torch.ones(model)), torch.nn.Parameter(torch.zeros(model))
        parameters.extend(weights)
        return weights

    stack = (experts,) if experts else ()
    table, places, head = parameter(vocabulary, model), parameter(positions, model), parameter(vocabulary, model)
    blocks = [
        (norm(), matrix(3 * model, model), matrix(model, model), norm(), matrix(hidden, model, *stack), matrix(model, hidden, *stack))
        for _ in range(layers)
    ]
    routers = [parameter(experts, model) for _ in range(layers)] if experts else [None] * layers
    final = norm()

    def mlp(x, up, down):
        return F.linear(F.gelu(F.linear(x, *up), approximate="tanh"), *down)

    def mixture(x, router, up, down):
        """A loop over the experts, each computing the tokens that chose it."""
        x = x.reshape(-1, model)
        logits, chosen = torch.topk(F.linear(x, router), top_k)
        scores, y = torch.softmax(logits, -1), torch.zeros_like(x)
        for expert in range(experts):
            rows, slots = torch.where(chosen == expert)
            if len(rows):
                h = mlp(x[rows], (up[0][expert], up[1][expert]), (down[0][expert], down[1][expert]))
                y = y.index_add(0, rows, h * scores[rows, slots, None])
        return y.view(batch, sequence, model)

    ids = torch.tensor([[token(i * sequence + j, vocabulary) for j in range(sequence)] for i in range(batch)])
    optimizer = torch.optim.AdamW(parameters, lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1)

    def step():
        x = table[ids] + places[:sequence]
        for (norm1, qkv, out, norm2, up, down), router in zip(blocks, routers):
            y = F.linear(F.layer_norm(x, (model,), *norm1), *qkv).view(batch, sequence, 3, heads, -1).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(y[0], y[1], y[2], is_causal=True)
            x = x + F.linear(y.transpose(1, 2).reshape(batch, sequence, model), *out)
            y = F.layer_norm(x, (model,), *norm2)
            x = x + (mlp(y, up, down) if router is None else mixture(y, router, up, down))
        logits = F.linear(F.layer_norm(x, (model,), *final), head)
        loss = F.cross_entropy(logits.view(-1, vocabulary), ids.view(-1))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    return {"step": median(arguments.runs, step)["run"]}


TORCH = {"training": torch_training, "product": torch_product, "mixture": torch_mixture, "decoder": torch_decoder, "encoder": torch_encoder}
LIBRARIES = {"onnxruntime": run_onnxruntime, "numpy": run_numpy, "torch": run_torch}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("library", choices=LIBRARIES)
    parser.add_argument("model", help="a file, or for numpy and torch what to compute")
    parser.add_argument("sizes", type=int, nargs="*")
    parser.add_argument("--data", help="directory of input_0.pb, input_1.pb, …")
    parser.add_argument("--prefill", type=int, default=128)
    parser.add_argument("--decode", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=10)
    arguments = parser.parse_args()
    os.environ["OPENBLAS_NUM_THREADS"] = str(arguments.threads)  # before NumPy is imported

    version, medians = LIBRARIES[arguments.library](arguments)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    json.dump(
        {
            "version": f"{arguments.library} {version}",
            "threads": arguments.threads,
            "phases": [{"name": name, "latency": {"p50_ms": value}} for name, value in medians.items()],
            "memory": {"peak_bytes": peak},
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
