"""Writes reference.safetensors and reference.json with Hugging Face's library.

    pip install safetensors==0.8.0 torch numpy
    python reference.py

reference.json says what that library reads, from its own file and from
written.safetensors, which `go test -run TestWrittenFile -update` writes: of
each tensor the type, the shape and the SHA-256 of the elements.
"""

import hashlib
import json

import torch
from safetensors import safe_open
from safetensors.torch import save_file


def bits(t):
    t = t.contiguous()
    return t.flatten().view(torch.uint8).numpy().tobytes() if t.numel() else b""


def describe(path):
    with safe_open(path, framework="pt") as f:
        return {
            "metadata": f.metadata() or {},
            "tensors": {
                name: {
                    "type": str(f.get_tensor(name).dtype).removeprefix("torch."),
                    "shape": list(f.get_tensor(name).shape),
                    "sha256": hashlib.sha256(bits(f.get_tensor(name))).hexdigest(),
                }
                for name in f.keys()
            },
        }


torch.manual_seed(1)
floats = torch.randn(3, 5, dtype=torch.float64)
tensors = {
    "float64": floats,
    "float32": floats.float(),
    "float16": floats.half(),
    "bfloat16": floats.bfloat16(),
    "float8_e4m3fn": floats.to(torch.float8_e4m3fn),
    "float8_e4m3fnuz": floats.to(torch.float8_e4m3fnuz),
    "float8_e5m2": floats.to(torch.float8_e5m2),
    "float8_e5m2fnuz": floats.to(torch.float8_e5m2fnuz),
    "complex64": torch.complex(floats.float(), -floats.float()),
    "bool": floats > 0,
    "scalar": torch.tensor(3.5),
    "empty": torch.zeros(0, 4),
    'a "name" of ünïcode\n': torch.arange(7, dtype=torch.int32),
}
for t in (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64):
    tensors[str(t).removeprefix("torch.")] = torch.randint(0, 100, (2, 1, 3)).to(t)
save_file(tensors, "reference.safetensors", metadata={"format": "pt", "made": "with <care> & ünïcode"})

with open("reference.json", "w") as f:
    json.dump({p: describe(p) for p in ("reference.safetensors", "written.safetensors")}, f, indent=1, sort_keys=True)
