"""Exports the sample models and their reference data: python models/export.py [NAME ...]"""

import sys

import torch

import bert
import gpt
import llama
import t5
from common import MODELS, Sample, export, randomize, verify, write_data_sets


def build_gpt():
    model = gpt.GPT()
    weights = MODELS / "gpt.pt"
    if not weights.exists():
        sys.exit(f"{weights} is missing: make it with python models/train_gpt.py")
    model.load_state_dict(torch.load(weights, weights_only=True))
    return model.eval()


def build_t5():
    model = randomize(t5.T5Encoder(), seed=5)
    for block in model.encoder.block:
        with torch.no_grad():
            block.layer[0].SelfAttention.q.weight /= t5.HEAD ** 0.5
    return model


def book_bytes(batch, sequence):
    """The first bytes of the held-out text, one stretch for each row."""
    text = (MODELS / "gpt-megatron" / "heldout.txt").read_bytes()[: batch * sequence]
    return {"input_ids": torch.tensor(list(text)).view(batch, sequence)}


def random_tokens(batch, sequence):
    generator = torch.Generator().manual_seed(batch * 1000 + sequence)
    return {"input_ids": torch.randint(256, (batch, sequence), generator=generator)}


def padded_tokens(batch, sequence):
    """Each row after the first is shorter by one token more."""
    length = (sequence - torch.arange(batch)).clamp(min=1)
    mask = (torch.arange(sequence)[None, :] < length[:, None]).long()
    return {**random_tokens(batch, sequence), "attention_mask": mask}


def sentence_pairs(batch, sequence):
    types = (torch.arange(sequence) >= sequence // 2).long().expand(batch, sequence).clone()
    return {**padded_tokens(batch, sequence), "token_type_ids": types}


SAMPLES = [
    Sample("gpt-megatron", build_gpt, "torchscript", 17, book_bytes, "logits", gpt.CONTEXT, ((2, 32), (1, 64))),
    Sample("gpt-megatron-dynamo", build_gpt, "dynamo", 18, book_bytes, "logits", gpt.CONTEXT, ((2, 32), (1, 64))),
    Sample("bert", lambda: randomize(bert.BERT(), seed=2), "torchscript", 17,
           sentence_pairs, "logits", bert.CONTEXT, ((2, 12), (3, 20))),
    Sample("llama", lambda: randomize(llama.Llama(), seed=3), "dynamo", 18,
           random_tokens, "logits", 256, ((2, 12), (1, 40))),
    Sample("t5", build_t5, "torchscript", 17, padded_tokens, "last_hidden_state", 256, ((2, 12), (3, 40))),
]


def main():
    names = sys.argv[1:] or [sample.name for sample in SAMPLES]
    unknown = set(names) - {sample.name for sample in SAMPLES}
    if unknown:
        sys.exit(f"no sample is called {', '.join(unknown)}: there are {', '.join(s.name for s in SAMPLES)}")
    for sample in SAMPLES:
        if sample.name in names:
            model = sample.build()
            export(sample, model)
            verify(sample, model)
            write_data_sets(sample)


if __name__ == "__main__":
    main()
