"""A LLaMA-style decoder: RMSNorm, rotary positions, grouped-query attention, SwiGLU, no biases."""

import math

import torch
from torch import nn
from torch.nn import functional as F

VOCABULARY = 256
WIDTH = 64
HIDDEN = 176
LAYERS = 2
HEADS = 4
KEY_VALUE_HEADS = 2
HEAD = WIDTH // HEADS


class RMSNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class RotaryEmbedding(nn.Module):
    """The cosine and sine of each position's angles, each [sequence, HEAD]."""

    def __init__(self):
        super().__init__()
        frequency = 10000.0 ** (-torch.arange(0, HEAD, 2).float() / HEAD)
        self.register_buffer("inv_freq", frequency, persistent=False)

    def forward(self, sequence):
        angle = torch.arange(sequence).float()[:, None] * self.inv_freq[None, :]
        angle = torch.cat((angle, angle), dim=-1)
        return angle.cos(), angle.sin()


def rotate(x, cosine, sine):
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat((-second, first), dim=-1) * sine


def repeat_key_value(x):
    """[batch, KEY_VALUE_HEADS, sequence, HEAD] to [batch, HEADS, sequence, HEAD]."""
    batch, _, sequence, _ = x.shape
    x = x[:, :, None].expand(batch, KEY_VALUE_HEADS, HEADS // KEY_VALUE_HEADS, sequence, HEAD)
    return x.reshape(batch, HEADS, sequence, HEAD)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q_proj = nn.Linear(WIDTH, HEADS * HEAD, bias=False)
        self.k_proj = nn.Linear(WIDTH, KEY_VALUE_HEADS * HEAD, bias=False)
        self.v_proj = nn.Linear(WIDTH, KEY_VALUE_HEADS * HEAD, bias=False)
        self.o_proj = nn.Linear(HEADS * HEAD, WIDTH, bias=False)

    def forward(self, x, mask, cosine, sine):
        batch, sequence, _ = x.shape
        query = self.q_proj(x).view(batch, sequence, HEADS, HEAD).transpose(1, 2)
        key = self.k_proj(x).view(batch, sequence, KEY_VALUE_HEADS, HEAD).transpose(1, 2)
        value = self.v_proj(x).view(batch, sequence, KEY_VALUE_HEADS, HEAD).transpose(1, 2)
        query, key = rotate(query, cosine, sine), rotate(key, cosine, sine)
        scores = query @ repeat_key_value(key).transpose(2, 3) / math.sqrt(HEAD) + mask
        context = F.softmax(scores, dim=-1) @ repeat_key_value(value)
        return self.o_proj(context.transpose(1, 2).reshape(batch, sequence, HEADS * HEAD))


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate_proj = nn.Linear(WIDTH, HIDDEN, bias=False)
        self.up_proj = nn.Linear(WIDTH, HIDDEN, bias=False)
        self.down_proj = nn.Linear(HIDDEN, WIDTH, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.input_layernorm = RMSNorm()
        self.self_attn = Attention()
        self.post_attention_layernorm = RMSNorm()
        self.mlp = MLP()

    def forward(self, x, mask, cosine, sine):
        x = x + self.self_attn(self.input_layernorm(x), mask, cosine, sine)
        return x + self.mlp(self.post_attention_layernorm(x))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.rotary_emb = RotaryEmbedding()
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm = RMSNorm()

    def forward(self, input_ids):
        sequence = input_ids.shape[1]
        cosine, sine = self.rotary_emb(sequence)
        mask = torch.triu(torch.full((sequence, sequence), torch.finfo(torch.float32).min), diagonal=1)
        x = self.embed_tokens(input_ids)
        for layer in self.layers:
            x = layer(x, mask, cosine, sine)
        return self.norm(x)


class Llama(nn.Module):
    """input_ids int64 [batch, sequence] to logits float32 [batch, sequence, VOCABULARY]."""

    def __init__(self):
        super().__init__()
        self.model = Model()
        self.lm_head = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, input_ids):
        return self.lm_head(self.model(input_ids))
