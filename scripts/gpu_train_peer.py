"""Times training steps of a GPT with experts in PyTorch: grouped products, fused attention and AdamW, torch.compile, bfloat16.

Prints the median over steps. Usage: gpu_train_peer.py [layers width heads hidden experts top-k vocabulary batch length]
"""

import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

LAYERS, WIDTH, HEADS, HIDDEN, EXPERTS, K, VOCABULARY, BATCH, LENGTH = [int(x) for x in sys.argv[1:]] or [12, 1024, 16, 4096, 16, 2, 32000, 8, 1024]
grouped = getattr(F, "grouped_mm", None) or torch._grouped_mm


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(WIDTH, EXPERTS)
        self.fc1 = nn.Parameter(torch.randn(EXPERTS, WIDTH, HIDDEN) * 0.02)
        self.fc2 = nn.Parameter(torch.randn(EXPERTS, HIDDEN, WIDTH) * 0.02)

    def forward(self, x):
        tokens = x.reshape(-1, WIDTH)
        logits, chosen = self.gate(tokens.float()).topk(K, dim=-1)
        scores = logits.softmax(-1).to(torch.bfloat16)
        slots = chosen.reshape(-1)
        order = slots.argsort(stable=True)
        ends = torch.bincount(slots, minlength=EXPERTS).cumsum(0).to(torch.int32)
        rows = tokens.to(torch.bfloat16)[order // K]
        hidden = F.gelu(grouped(rows, self.fc1.to(torch.bfloat16), offs=ends))
        result = grouped(hidden, self.fc2.to(torch.bfloat16), offs=ends)
        back = torch.zeros_like(result).index_copy(0, order, result)
        return (back.view(-1, K, WIDTH) * scores.unsqueeze(-1)).sum(1).view_as(x)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.experts = Experts()

    def forward(self, x):
        q, k, v = self.qkv(self.ln1(x)).view(BATCH, LENGTH, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(BATCH, LENGTH, WIDTH))
        return x + self.experts(self.ln2(x))


class GPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.ln = nn.LayerNorm(WIDTH)

    def forward(self, ids, labels):
        x = self.tokens(ids) + self.positions(torch.arange(LENGTH, device=ids.device))
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy(F.linear(self.ln(x), self.tokens.weight).float().view(-1, VOCABULARY), labels.view(-1))


def main():
    torch.manual_seed(1)
    with torch.device("cuda"):
        model = GPT()
        ids = torch.randint(VOCABULARY, (BATCH, LENGTH))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    compiled = torch.compile(model)

    def step():
        with torch.autocast("cuda", torch.bfloat16):
            loss = compiled(ids, ids)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    times = []
    for i in range(13):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        step()
        torch.cuda.synchronize()
        if i >= 3:
            times.append(time.perf_counter() - begin)
    seconds = statistics.median(times)
    print(f"PyTorch   training: {1000 * seconds:.1f} ms a step, {BATCH * LENGTH / seconds:.0f} tokens/s")


if __name__ == "__main__":
    main()
