"""Writes optimizers.json: what PyTorch's optimizers and schedules make of given
weights and gradients, and of a small network in ten steps, in float64."""

import json
import math
import os

import torch

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
SHAPES = [[4, 6], [6, 4], [5], [2, 3, 4]]
STEPS = 5


def muon(momentum, weight_decay, nesterov):
    """Muon by its formulas: torch's own computes in bfloat16 and refuses stacks."""
    buffers = {}

    def orthogonal(x):
        x = x / torch.clamp(torch.linalg.norm(x, dim=(-2, -1), keepdim=True), min=1e-7)
        for _ in range(5):
            a = x @ x.mT
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
        return x

    def step(p, rate):
        b = buffers.setdefault(id(p), torch.zeros_like(p))
        b.lerp_(p.grad, 1 - momentum)
        u = p.grad.lerp(b, momentum) if nesterov else b
        p.data.mul_(1 - rate * weight_decay)
        p.data.sub_(rate * 0.2 * math.sqrt(max(p.shape[-2:])) * orthogonal(u))

    return step


def run(name, make, rate, config):
    shapes = [s for s in SHAPES if len(s) > 1 or config["kind"] != "muon"]
    weights = [torch.randn(s) for s in shapes]
    params = [torch.nn.Parameter(w.clone()) for w in weights]
    optimizer = make(params)
    case = {"name": name, "config": config, "shapes": shapes, "weights": [w.flatten().tolist() for w in weights], "steps": []}
    for i in range(STEPS):
        lr = rate * (1 - 0.1 * i)
        gradients = [torch.randn(s) * 0.3 for s in shapes]
        for p, g in zip(params, gradients):
            p.grad = g.clone()
        if callable(optimizer):
            for p in params:
                optimizer(p, lr)
        else:
            for g in optimizer.param_groups:
                g["lr"] = lr
            optimizer.step()
        case["steps"].append({
            "rate": lr,
            "gradients": [g.flatten().tolist() for g in gradients],
            "weights": [p.detach().flatten().tolist() for p in params],
        })
    return case


def optimizers():
    c = lambda kind, **k: {"kind": kind, **k}
    yield run("sgd", lambda p: torch.optim.SGD(p, lr=0.1), 0.1, c("sgd"))
    yield run("sgd momentum", lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.02), 0.1,
              c("sgd", momentum=0.9, weight_decay=0.02))
    yield run("sgd nesterov", lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8, nesterov=True), 0.1,
              c("sgd", momentum=0.8, nesterov=True))
    yield run("adam", lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.9, 0.99), eps=1e-6, weight_decay=0.05), 0.01,
              c("adam", beta1=0.9, beta2=0.99, epsilon=1e-6, weight_decay=0.05))
    yield run("adamw", lambda p: torch.optim.AdamW(p, lr=0.01, betas=(0.8, 0.95), eps=1e-8, weight_decay=0.1), 0.01,
              c("adamw", beta1=0.8, beta2=0.95, epsilon=1e-8, weight_decay=0.1))
    yield run("adafactor", lambda p: torch.optim.Adafactor(p, lr=0.05, weight_decay=0.1), 0.05,
              c("adafactor", beta2_decay=-0.8, clip=1.0, weight_decay=0.1))
    yield run("muon", lambda p: muon(0.95, 0.1, True), 0.02, c("muon", momentum=0.95, nesterov=True, weight_decay=0.1))


def schedules():
    total = 40
    parameter = torch.nn.Parameter(torch.zeros(1))

    def factors(make):
        optimizer = torch.optim.SGD([parameter], lr=1.0)
        schedule = make(optimizer)
        out = []
        for _ in range(total + 3):
            out.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return out

    s = torch.optim.lr_scheduler
    warm = lambda o, n: s.LinearLR(o, start_factor=1 / n, end_factor=1.0, total_iters=n - 1)
    yield {"kind": "constant", "warmup": 4, "minimum": 0, "factors": factors(lambda o: warm(o, 4))}
    yield {"kind": "linear", "warmup": 0, "minimum": 0.25,
           "factors": factors(lambda o: s.LinearLR(o, start_factor=1.0, end_factor=0.25, total_iters=total))}
    yield {"kind": "cosine", "warmup": 5, "minimum": 0.1,
           "factors": [f for f in factors(lambda o: s.SequentialLR(
               o, [warm(o, 5), s.CosineAnnealingLR(o, T_max=total - 5, eta_min=0.1)], milestones=[5]))][:total + 1]}
    yield {"kind": "wsd", "warmup": 3, "decay": 10, "minimum": 0.0,
           "factors": factors(lambda o: s.SequentialLR(
               o, [warm(o, 3), s.ConstantLR(o, factor=1.0), s.LinearLR(o, start_factor=1.0, end_factor=1e-12, total_iters=10)],
               milestones=[3, total - 10]))}


def training():
    """Losses of a network of two layers, whose biases have no weight decay."""
    x, classes, targets = torch.randn(12, 8), torch.randint(4, (12,)), torch.randn(12, 4)
    initial = {"w1": torch.randn(8, 16) / 8**0.5, "b1": torch.randn(16) * 0.1, "w2": torch.randn(16, 4) / 4, "b2": torch.randn(4) * 0.1}
    rate, decay, clip = 0.01, 0.1, 0.5
    adamw = lambda groups: torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), eps=1e-8)
    kinds = {
        "sgd": lambda groups: torch.optim.SGD(groups, lr=rate, momentum=0.9),
        "adam": lambda groups: torch.optim.Adam(groups, lr=rate, betas=(0.9, 0.95), eps=1e-8),
        "adamw": adamw,
        "adafactor": lambda groups: torch.optim.Adafactor(groups, lr=rate),
        "muon": lambda groups: adamw(groups[1:]),
    }
    runs = []
    for kind, make in kinds.items():
        for loss in ("classification", "mse"):
            p = {name: torch.nn.Parameter(w.clone()) for name, w in initial.items()}
            matrices, vectors = [p["w1"], p["w2"]], [p["b1"], p["b2"]]
            optimizer = make([{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0}])
            matrix_step = muon(0.9, decay, False) if kind == "muon" else None
            losses = []
            for _ in range(10):
                y = torch.tanh(x @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]
                value = torch.nn.functional.cross_entropy(y, classes) if loss == "classification" else (y - targets).square().mean()
                for parameter in p.values():
                    parameter.grad = None
                value.backward()
                torch.nn.utils.clip_grad_norm_(p.values(), clip)
                optimizer.step()
                for matrix in matrices if matrix_step else []:
                    matrix_step(matrix, rate)
                losses.append(value.item())
            config = {"kind": kind, "learning_rate": rate, "weight_decay": decay, "beta1": 0.9, "beta2": 0.95,
                      "epsilon": 1e-8, "momentum": 0.9, "beta2_decay": -0.8, "clip": 1.0}
            runs.append({"loss": loss, "config": config, "losses": losses})
    return {"inputs": x.tolist(), "classes": classes.tolist(), "targets": targets.tolist(), "clip": clip,
            "weights": {name: w.tolist() for name, w in initial.items()}, "runs": runs}


if __name__ == "__main__":
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "optimizers.json")
    with open(path, "w") as f:
        json.dump({"optimizers": list(optimizers()), "total": 40, "schedules": list(schedules()), "training": training()}, f)
        f.write("\n")
