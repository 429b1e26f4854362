"""Writes fmoegradient.json: gradients of FMoE by PyTorch's autograd in float64.

The loss is the sum of Y times by_y, plus 3 times the balance loss.
"""
import json
import os
import torch

F = torch.nn.functional


def case(name, gate, k, activation, gated, experts=4, d=5, h=6, tokens=12):
    torch.manual_seed(len(name))
    shapes = {"X": (tokens, d), "gate_weight": (d, experts), "gate_bias": (experts,), "fc1_weight": (experts, h, d), "fc1_bias": (experts, h),
              "fc2_weight": (experts, d, h), "fc2_bias": (experts, d)}
    if gated:
        shapes |= {"fc3_weight": (experts, h, d), "fc3_bias": (experts, h)}
    w = {n: torch.randn(s, dtype=torch.float64, requires_grad=True) for n, s in shapes.items()}
    by_y = torch.randn(tokens, d, dtype=torch.float64)
    z = w["X"] @ w["gate_weight"] + w["gate_bias"]
    shares = z.softmax(-1)
    top, index = z.topk(k, -1)
    scores = shares.gather(1, index) if gate == "switch" else top.softmax(-1)
    first = F.one_hot(index[:, 0], experts).double().mean(0)
    balance = experts * (first * shares.mean(0)).sum() if gate != "naive" else 0
    y = 0
    for j in range(k):
        e = index[:, j]
        hidden = torch.einsum("nd,nhd->nh", w["X"], w["fc1_weight"][e]) + w["fc1_bias"][e]
        hidden = F.gelu(hidden) if activation == "gelu" else F.silu(hidden)
        if gated:
            hidden = hidden * (torch.einsum("nd,nhd->nh", w["X"], w["fc3_weight"][e]) + w["fc3_bias"][e])
        out = torch.einsum("nh,ndh->nd", hidden, w["fc2_weight"][e]) + w["fc2_bias"][e]
        y = y + scores[:, j : j + 1] * out
    ((y * by_y).sum() + 3 * balance).backward()
    return {"name": name, "gate": gate, "topk": k, "activation": activation, "byy": by_y.flatten().tolist(), "shapes": shapes,
            "inputs": {n: t.detach().flatten().tolist() for n, t in w.items()}, "gradients": {n: t.grad.flatten().tolist() for n, t in w.items()}}


cases = [case("naive, GELU", "naive", 2, "gelu", False), case("naive, SwiGLU", "naive", 3, "silu", True),
         case("gshard", "gshard", 2, "gelu", False), case("switch", "switch", 1, "silu", True)]
with open(os.path.join(os.path.dirname(__file__), "fmoegradient.json"), "w") as f:
    json.dump(cases, f)
