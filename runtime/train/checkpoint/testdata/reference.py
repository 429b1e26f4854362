"""Writes reference.json: what ONNX Runtime computes from the golden checkpoint.

    pip install onnx==1.23.2 onnxruntime==1.32.0 safetensors==0.8.0 numpy
    go test .. -run TestGolden -update   # only for a new version of the format
    python reference.py

The checkpoint's model.onnx, whose weights are in the shards beside it, and
exported.onnx must give the same. The script also opens every shard with Hugging
Face's library.
"""

import glob
import json

import numpy as np
import onnx
import onnxruntime
from safetensors.torch import load_file

STEP = "golden/step-00000042/"
models = [STEP + "model.onnx", "exported.onnx"]
x = np.random.default_rng(6).standard_normal((2, 300)).astype(np.float32)
ys = []
for model in models:
    onnx.checker.check_model(model, full_check=True)
    ys.append(onnxruntime.InferenceSession(model).run(None, {"x": x})[0])
assert np.array_equal(ys[0], ys[1])

tensors = {}
for shard in sorted(glob.glob(STEP + "*.safetensors")):
    tensors |= load_file(shard)
tied, bias, frozen = (tensors[n].numpy() for n in ("tied", "bias", "frozen"))
assert np.abs(np.tanh(x @ tied + bias) @ tied.T + frozen - ys[0]).max() < 1e-4
assert tensors["adamw.step"].item() == 42 and tensors["master/half"].shape == (7, 2)

with open("reference.json", "w") as f:
    json.dump({"shape": list(x.shape), "x": x.flatten().tolist(), "y": ys[0].flatten().tolist()}, f)
