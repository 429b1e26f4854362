"""A T5 v1.1 encoder: RMS norm, relative position bias, MLP gated by a tanh-GELU, no biases."""

import math

import torch
from torch import nn
from torch.nn import functional as F

VOCABULARY = 256
WIDTH = 64
HIDDEN = 160
LAYERS = 2
HEADS = 4
HEAD = 16
BUCKETS = 32
MAX_DISTANCE = 128


def gelu_new(x):
    """GELU's tanh approximation in the form that GPT-2 and T5 v1.1 compute it."""
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))


class LayerNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


def relative_position_bucket(relative):
    """Bidirectional buckets: half of each sign's are exact distances, half grow logarithmically."""
    buckets = BUCKETS // 2
    exact = buckets // 2
    distance = relative.abs()
    scale = (buckets - exact) / math.log(MAX_DISTANCE / exact)
    # Short distances take the exact branch; the clamp only keeps the logarithm finite for them.
    logarithmic = exact + (torch.log(distance.clamp(min=1).float() / exact) * scale).long()
    logarithmic = logarithmic.clamp(max=buckets - 1)
    return (relative > 0).long() * buckets + torch.where(distance < exact, distance, logarithmic)


class SelfAttention(nn.Module):
    def __init__(self, has_relative_attention_bias):
        super().__init__()
        self.q = nn.Linear(WIDTH, HEADS * HEAD, bias=False)
        self.k = nn.Linear(WIDTH, HEADS * HEAD, bias=False)
        self.v = nn.Linear(WIDTH, HEADS * HEAD, bias=False)
        self.o = nn.Linear(HEADS * HEAD, WIDTH, bias=False)
        if has_relative_attention_bias:
            self.relative_attention_bias = nn.Embedding(BUCKETS, HEADS)

    def position_bias(self, sequence):
        """[1, HEADS, sequence, sequence]"""
        position = torch.arange(sequence)
        bucket = relative_position_bucket(position[None, :] - position[:, None])
        return self.relative_attention_bias(bucket).permute(2, 0, 1)[None]

    def forward(self, x, bias):
        batch, sequence, _ = x.shape

        def heads(projected):
            return projected.view(batch, sequence, HEADS, HEAD).transpose(1, 2)

        # T5 folds the usual 1/sqrt(HEAD) into its initialisation.
        scores = heads(self.q(x)) @ heads(self.k(x)).transpose(3, 2) + bias
        context = F.softmax(scores, dim=-1) @ heads(self.v(x))
        return self.o(context.transpose(1, 2).reshape(batch, sequence, HEADS * HEAD))


class DenseGatedActDense(nn.Module):
    def __init__(self):
        super().__init__()
        self.wi_0 = nn.Linear(WIDTH, HIDDEN, bias=False)
        self.wi_1 = nn.Linear(WIDTH, HIDDEN, bias=False)
        self.wo = nn.Linear(HIDDEN, WIDTH, bias=False)

    def forward(self, x):
        return self.wo(gelu_new(self.wi_0(x)) * self.wi_1(x))


class LayerSelfAttention(nn.Module):
    def __init__(self, has_relative_attention_bias):
        super().__init__()
        self.SelfAttention = SelfAttention(has_relative_attention_bias)
        self.layer_norm = LayerNorm()

    def forward(self, x, bias):
        return x + self.SelfAttention(self.layer_norm(x), bias)


class LayerFF(nn.Module):
    def __init__(self):
        super().__init__()
        self.DenseReluDense = DenseGatedActDense()
        self.layer_norm = LayerNorm()

    def forward(self, x):
        return x + self.DenseReluDense(self.layer_norm(x))


class Block(nn.Module):
    def __init__(self, has_relative_attention_bias):
        super().__init__()
        self.layer = nn.ModuleList((LayerSelfAttention(has_relative_attention_bias), LayerFF()))

    def forward(self, x, bias):
        return self.layer[1](self.layer[0](x, bias))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCABULARY, WIDTH)
        # Only the first block owns the position bias; the others share it.
        self.block = nn.ModuleList(Block(has_relative_attention_bias=i == 0) for i in range(LAYERS))
        self.final_layer_norm = LayerNorm()

    def forward(self, input_ids, attention_mask):
        bias = self.block[0].layer[0].SelfAttention.position_bias(input_ids.shape[1])
        bias = bias + (1.0 - attention_mask[:, None, None, :].float()) * torch.finfo(torch.float32).min
        x = self.embed_tokens(input_ids)
        for block in self.block:
            x = block(x, bias)
        return self.final_layer_norm(x)


class T5Encoder(nn.Module):
    """input_ids, attention_mask int64 [batch, sequence] to
    last_hidden_state float32 [batch, sequence, WIDTH]."""

    def __init__(self):
        super().__init__()
        self.encoder = Encoder()

    def forward(self, input_ids, attention_mask):
        return self.encoder(input_ids, attention_mask)
