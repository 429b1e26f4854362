"""A BERT-style encoder with its masked-language-model head: post-LN, erf-GELU, token types."""

import math

import torch
from torch import nn
from torch.nn import functional as F

VOCABULARY = 256
CONTEXT = 128
TOKEN_TYPES = 2
WIDTH = 64
HIDDEN = 128
LAYERS = 2
HEADS = 4


class Embeddings(nn.Module):
    def __init__(self):
        super().__init__()
        self.word_embeddings = nn.Embedding(VOCABULARY, WIDTH)
        self.position_embeddings = nn.Embedding(CONTEXT, WIDTH)
        self.token_type_embeddings = nn.Embedding(TOKEN_TYPES, WIDTH)
        self.LayerNorm = nn.LayerNorm(WIDTH, eps=1e-12)

    def forward(self, input_ids, token_type_ids):
        position_ids = torch.arange(input_ids.shape[1])
        x = self.word_embeddings(input_ids) + self.token_type_embeddings(token_type_ids)
        return self.LayerNorm(x + self.position_embeddings(position_ids))


class SelfAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key = nn.Linear(WIDTH, WIDTH)
        self.value = nn.Linear(WIDTH, WIDTH)

    def forward(self, x, bias):
        batch, sequence, _ = x.shape

        def heads(projected):
            return projected.view(batch, sequence, HEADS, WIDTH // HEADS).transpose(1, 2)

        scores = heads(self.query(x)) @ heads(self.key(x)).transpose(-1, -2)
        probabilities = F.softmax(scores / math.sqrt(WIDTH // HEADS) + bias, dim=-1)
        context = probabilities @ heads(self.value(x))
        return context.transpose(1, 2).reshape(batch, sequence, WIDTH)


class Output(nn.Module):
    """A projection, the residual add and the LayerNorm after it."""

    def __init__(self, width_in):
        super().__init__()
        self.dense = nn.Linear(width_in, WIDTH)
        self.LayerNorm = nn.LayerNorm(WIDTH, eps=1e-12)

    def forward(self, x, residual):
        return self.LayerNorm(self.dense(x) + residual)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.self = SelfAttention()
        self.output = Output(WIDTH)

    def forward(self, x, bias):
        return self.output(self.self(x, bias), x)


class Intermediate(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(WIDTH, HIDDEN)

    def forward(self, x):
        return F.gelu(self.dense(x))


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = Attention()
        self.intermediate = Intermediate()
        self.output = Output(HIDDEN)

    def forward(self, x, bias):
        x = self.attention(x, bias)
        return self.output(self.intermediate(x), x)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(self, x, bias):
        for layer in self.layer:
            x = layer(x, bias)
        return x


class PredictionHead(nn.Module):
    """Two projections with a GELU between them that are no Transformer MLP: a rewriter leaves them alone."""

    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(WIDTH, WIDTH)
        self.LayerNorm = nn.LayerNorm(WIDTH, eps=1e-12)
        self.decoder = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, x):
        return self.decoder(self.LayerNorm(F.gelu(self.dense(x))))


class BERT(nn.Module):
    """input_ids, attention_mask, token_type_ids int64 [batch, sequence] to
    logits float32 [batch, sequence, VOCABULARY]."""

    def __init__(self):
        super().__init__()
        self.embeddings = Embeddings()
        self.encoder = Encoder()
        self.predictions = PredictionHead()

    def forward(self, input_ids, attention_mask, token_type_ids):
        bias = (1.0 - attention_mask[:, None, None, :].float()) * torch.finfo(torch.float32).min
        return self.predictions(self.encoder(self.embeddings(input_ids, token_type_ids), bias))
