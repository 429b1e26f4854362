"""Trains the sample GPT on the book that ships with Go's source, then exports it:
python models/train_gpt.py [--book FILE] [--steps N]

The last tenth of the book is held out. The weights with the best held-out loss are exported.
"""

import argparse
import copy
import math
import subprocess
import time
from pathlib import Path

import torch
from torch.nn import functional as F

import gpt
from common import MODELS
from export import SAMPLES, load_gpt, make

HELD_OUT = MODELS / "gpt-megatron" / "heldout.txt"
BATCH = 8
WARMUP = 200
LEARNING_RATE, FINAL_LEARNING_RATE = 3e-3, 1e-4
WEIGHT_DECAY = 0.1
EVALUATE_EVERY = 250


def go_book():
    root = subprocess.run(["go", "env", "GOROOT"], capture_output=True, text=True, check=True).stdout.strip()
    return Path(root, "src", "testdata", "Isaac.Newton-Opticks.txt")


def split(book):
    """The book's training and held-out bytes, cut at the first line break after nine tenths."""
    cut = book.index(b"\n", len(book) * 9 // 10) + 1
    return book[:cut], book[cut:]


def windows(tokens, starts):
    """input_ids and targets, each [len(starts), gpt.CONTEXT]: the targets are the next bytes."""
    index = starts[:, None] + torch.arange(gpt.CONTEXT + 1)
    stretch = tokens[index]
    return stretch[:, :-1], stretch[:, 1:]


def loss(model, input_ids, targets, reduction="mean"):
    with torch.autocast("cpu", torch.bfloat16, enabled=model.training):
        logits = model(input_ids)
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction=reduction)


@torch.no_grad()
def held_out_loss(model, tokens):
    """Mean loss in nats for a byte over consecutive windows, which do not overlap."""
    model.eval()
    starts = torch.arange(0, len(tokens) - gpt.CONTEXT, gpt.CONTEXT)
    total = sum(loss(model, *windows(tokens, batch), reduction="sum").item() for batch in starts.split(BATCH))
    model.train()
    return total / (len(starts) * gpt.CONTEXT)


def learning_rate(step, steps):
    """Linear warm-up, then a cosine down to FINAL_LEARNING_RATE."""
    if step < WARMUP:
        return LEARNING_RATE * (step + 1) / WARMUP
    progress = (step - WARMUP) / max(1, steps - WARMUP)
    return FINAL_LEARNING_RATE + (LEARNING_RATE - FINAL_LEARNING_RATE) * (1 + math.cos(math.pi * progress)) / 2


def train(model, training, held_out, steps):
    """Trains model for a number of steps and leaves it with the weights of its best held-out loss."""
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}],
        betas=(0.9, 0.95))
    best, best_weights, started = math.inf, None, time.monotonic()
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        starts = torch.randint(len(training) - gpt.CONTEXT, (BATCH,))
        training_loss = loss(model, *windows(training, starts))
        optimizer.zero_grad()
        training_loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % EVALUATE_EVERY == 0 or step + 1 == steps:
            current = held_out_loss(model, held_out)
            print(f"step {step + 1}: training {training_loss.item():.3f}, held out {current:.4f}, "
                  f"{time.monotonic() - started:.0f} s", flush=True)
            if current < best:
                best, best_weights = current, copy.deepcopy(model.state_dict())
    model.load_state_dict(best_weights)
    model.eval()
    print(f"best held-out loss {best:.4f} nats a byte, perplexity {math.exp(best):.3f}")


@torch.no_grad()
def generate(model, prompt, count, temperature=0.8):
    tokens = torch.tensor([list(prompt)])
    for _ in range(count):
        probabilities = F.softmax(model(tokens[:, -gpt.CONTEXT:])[0, -1] / temperature, dim=-1)
        tokens = torch.cat((tokens, torch.multinomial(probabilities, 1)[None]), dim=1)
    return bytes(tokens[0].tolist()).decode(errors="replace")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--book", type=Path, help="text to train on (default: the book in Go's source)")
    parser.add_argument("--steps", type=int, default=5000, help="optimizer steps (default: %(default)s)")
    arguments = parser.parse_args()

    training, held_out = split((arguments.book or go_book()).read_bytes())
    torch.manual_seed(1730)
    model = gpt.GPT()
    train(model, torch.tensor(list(training)), torch.tensor(list(held_out)), arguments.steps)
    print(generate(model, b"The Rays of Light ", 400))

    HELD_OUT.write_bytes(held_out)
    for sample in SAMPLES:
        if sample.build is load_gpt:
            make(sample, model)


if __name__ == "__main__":
    main()
