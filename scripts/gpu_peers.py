"""Times the layers of BenchmarkFMoE and BenchmarkFMoEGradient in PyTorch, with a grouped product for each projection, and the dense rate. Prints medians."""

import statistics

import torch
import torch.nn.functional as F

SHAPES = [  # tokens, d, h, experts, k, gated
    (24576, 1536, 256, 128, 8, True),
    (8192, 1024, 4096, 64, 2, False),
    (16384, 4096, 1536, 128, 8, True),
    (16, 4096, 1536, 128, 8, True),
]


def median(f, runs=10):
    """Returns the median of a function's times in µs, after three runs that do not count."""
    times = []
    for _ in range(runs + 3):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        f()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) * 1e3)
    return statistics.median(times[3:])


def numbers(*shape, depth=1):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16) / depth**0.5


def layer(tokens, d, h, experts, k, gated):
    """Returns the layer's function, and what it has gradients by."""
    grouped = getattr(F, "grouped_mm", None) or torch._grouped_mm
    x, gate = numbers(tokens, d), numbers(d, experts, depth=d)
    fc1, fc2 = numbers(experts, d, h, depth=d), numbers(experts, h, d, depth=h)
    fc3 = numbers(experts, d, h, depth=d) if gated else None

    def run():
        logits, chosen = (x @ gate).topk(k, dim=-1)
        scores = logits.float().softmax(-1).to(x.dtype)
        slots = chosen.reshape(-1)
        order = slots.argsort(stable=True)
        ends = torch.bincount(slots, minlength=experts).cumsum(0).to(torch.int32)
        rows = x[order // k]
        hidden = grouped(rows, fc1, offs=ends)
        hidden = F.silu(hidden) * grouped(rows, fc3, offs=ends) if gated else F.gelu(hidden)
        result = grouped(hidden, fc2, offs=ends)
        back = torch.empty_like(result)
        back[order] = result
        return (back.view(tokens, k, d) * scores.unsqueeze(-1)).sum(1)

    return run, [x, gate, fc1, fc2] + ([fc3] if gated else [])


def both(run, inputs):
    """Returns the function that runs a layer forward and backward."""
    for t in inputs:
        t.requires_grad_()
    by = torch.randn_like(run())

    def training():
        run().backward(by)
        for t in inputs:
            t.grad = None

    return training


def main():
    n = 8192
    a, b = numbers(n, n), numbers(n, n)
    print(f"PyTorch   dense bfloat16 {n}: {2 * n**3 / median(lambda: a @ b) / 1e6:.0f} TFLOP/s")
    del a, b
    for shape in SHAPES:
        tokens, d, h, experts, k, gated = shape
        run, inputs = layer(*shape)
        work = 2 * (3 if gated else 2) * tokens * k * d * h
        name = f"N={tokens} d={d} h={h} T={experts} k={k} gated={gated}"
        time = median(run)
        print(f"PyTorch   grouped_mm {name}: {time:.0f} µs, {work / time / 1e6:.1f} TFLOP/s")
        if tokens > 64:
            time = median(both(run, inputs))
            print(f"PyTorch   grouped_mm {name}, forward and backward: {time:.0f} µs, {3 * work / time / 1e6:.1f} TFLOP/s")


if __name__ == "__main__":
    main()
