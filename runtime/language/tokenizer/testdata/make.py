"""Makes the files of this folder with Hugging Face's library: python make.py (tokenizers==0.23.3)

Four small BPE tokenizers of the kinds that language models use, trained on the book that ships with
Go's source, and cases.json: what the library makes of some texts.
"""

import json
import subprocess
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

FOLDER = Path(__file__).parent
GOROOT = subprocess.check_output(["go", "env", "GOROOT"], text=True).strip()
BOOK = Path(GOROOT, "src/testdata/Isaac.Newton-Opticks.txt")
LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTE_TOKENS = [f"<0x{i:02X}>" for i in range(256)]
TEXTS = [
    "",
    "a",
    "Hello, world!",
    "The Rays of Light  which differ in Colour.\n\n  Second line's don't we'LL 1234567 x",
    "naïve café — “quoted” 😀 end",
    "cafe\u0301 composed",
    "   leading and trailing   ",
    "tabs\tand\r\nnewlines\n\n\n",
    "no-break\u00a0space, ideographic\u3000space \u2003 em",
    "<|end|>start <|end|> and <|endless|>",
    "日本語 text",
    "½ ² Ⅷ ٣",
    "x = f(y) + 'quoted'; // comment",
]


def train(tokenizer, size, special, alphabet=()):
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=list(alphabet), max_token_length=10, show_progress=False
    )
    tokenizer.train([str(BOOK)], trainer)
    tokenizer.add_special_tokens(["<|end|>", "<|endless|>"])
    return tokenizer


def gpt2():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    return train(t, 400, [], pre_tokenizers.ByteLevel.alphabet())


def llama3():
    t = Tokenizer(models.BPE(ignore_merges=True))
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    t.decoder = decoders.ByteLevel()
    train(t, 400, ["<|begin|>"], pre_tokenizers.ByteLevel.alphabet())
    begin = processors.TemplateProcessing(
        single="<|begin|> $A", pair="<|begin|> $A <|begin|> $B", special_tokens=[("<|begin|>", 0)]
    )
    t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), begin])
    return t


def llama2():
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return train(t, 500, ["<unk>", *BYTE_TOKENS])


def metaspace():
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    t.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="first"), pre_tokenizers.Digits(individual_digits=True)]
    )
    t.decoder = decoders.Metaspace(prepend_scheme="first")
    return train(t, 300, ["<unk>"])


cases = []
for make in (gpt2, llama3, llama2, metaspace):
    tokenizer = make()
    tokenizer.save(str(FOLDER / f"{make.__name__}.json"), pretty=False)
    for text in TEXTS:
        tokens = tokenizer.encode(text).ids
        cases.append({"tokenizer": make.__name__, "text": text, "tokens": tokens, "decoded": tokenizer.decode(tokens)})
lines = ",\n".join(json.dumps(case) for case in cases)
(FOLDER / "cases.json").write_text(f"[\n{lines}\n]\n")
