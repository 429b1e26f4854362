"""A GPT as Megatron-LM writes it: pre-LN, fused QKV, tanh-GELU MLP, learned positions, tied head.

Parameters carry Megatron's checkpoint names. Tensors are batch first.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

VOCABULARY = 256  # one token for each byte
CONTEXT = 256
WIDTH = 128
LAYERS = 6
HEADS = 4
DROPOUT = 0.1
INITIAL_STD = 0.08  # about 1/sqrt(WIDTH): Megatron's 0.02, meant for wider models, learns far slower here


def gelu(x):
    """Megatron's fused GELU, the tanh approximation with x factored out."""
    return x * 0.5 * (1.0 + torch.tanh(0.79788456 * x * (1.0 + 0.044715 * x * x)))


def causal_mask(sequence, device):
    """True where query position i must not see key position j."""
    position = torch.arange(sequence, device=device)
    return position[None, :] > position[:, None]


class SelfAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.query_key_value = nn.Linear(WIDTH, 3 * WIDTH)
        self.dense = nn.Linear(WIDTH, WIDTH)

    def forward(self, x, mask):
        batch, sequence, _ = x.shape
        head = WIDTH // HEADS
        # As in Megatron, each head's query, key and value lie side by side in the fused projection.
        mixed = self.query_key_value(x).view(batch, sequence, HEADS, 3 * head).transpose(1, 2)
        query, key, value = mixed.split(head, dim=-1)
        scores = query @ key.transpose(-1, -2) / math.sqrt(head)
        scores = scores.masked_fill(mask, -10000.0)
        context = F.softmax(scores, dim=-1) @ value
        return self.dense(context.transpose(1, 2).reshape(batch, sequence, WIDTH))


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense_h_to_4h = nn.Linear(WIDTH, 4 * WIDTH)
        self.dense_4h_to_h = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        return self.dense_4h_to_h(gelu(self.dense_h_to_4h(x)))


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.input_layernorm = nn.LayerNorm(WIDTH)
        self.self_attention = SelfAttention()
        self.post_attention_layernorm = nn.LayerNorm(WIDTH)
        self.mlp = MLP()
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x, mask):
        x = x + self.dropout(self.self_attention(self.input_layernorm(x), mask))
        return x + self.dropout(self.mlp(self.post_attention_layernorm(x)))


class Embedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.word_embeddings = nn.Embedding(VOCABULARY, WIDTH)
        self.position_embeddings = nn.Embedding(CONTEXT, WIDTH)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, input_ids):
        position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)
        return self.dropout(self.word_embeddings(input_ids) + self.position_embeddings(position_ids))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.final_layernorm = nn.LayerNorm(WIDTH)

    def forward(self, x, mask):
        for layer in self.layers:
            x = layer(x, mask)
        return self.final_layernorm(x)


class LanguageModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = Embedding()
        self.encoder = Encoder()


class GPT(nn.Module):
    """input_ids int64 [batch, sequence] to logits float32 [batch, sequence, VOCABULARY]."""

    def __init__(self):
        super().__init__()
        self.language_model = LanguageModel()
        self.apply(self._initialize)
        for name, parameter in self.named_parameters():
            if name.endswith(("dense.weight", "dense_4h_to_h.weight")):
                nn.init.normal_(parameter, std=INITIAL_STD / math.sqrt(2 * LAYERS))

    @staticmethod
    def _initialize(module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=INITIAL_STD)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)

    def forward(self, input_ids):
        x = self.language_model.embedding(input_ids)
        x = self.language_model.encoder(x, causal_mask(input_ids.shape[1], input_ids.device))
        return F.linear(x, self.language_model.embedding.word_embeddings.weight)
