"""Makes the datasets of this folder with Megatron-LM's own code: python make.py (megatron-core==0.19.2)

Each is NAME.bin and NAME.idx. documents.json has what is in them: for each dataset, for each document,
its tokens.
"""

import json
from pathlib import Path

import numpy as np
import torch
from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder

FOLDER = Path(__file__).parent


def write(name, dtype, documents, modes=False):
    """documents: for each document its sequences, for each of these its tokens."""
    builder = IndexedDatasetBuilder(str(FOLDER / f"{name}.bin"), dtype=dtype, multimodal=modes)
    for d in documents:
        for s in d:
            builder.add_item(torch.tensor(np.array(s, np.int64)), mode=0)
        builder.end_document()
    builder.finalize(str(FOLDER / f"{name}.idx"))
    read = IndexedDataset(str(FOLDER / name), multimodal=modes)
    ends = read.document_indices
    items = [read[i][0] if modes else read[i] for i in range(len(read))]
    return [[int(t) for s in items[a:b] for t in s] for a, b in zip(ends[:-1], ends[1:])]


def main():
    small = [[[1, 2, 3]], [[4], [5, 6]], [[]], [[7, 0]]]
    large = [[[50256, 65535, 40000]], [[1], [2, 3, 4]]]
    expected = {
        "uint8": write("uint8", np.uint8, small),
        "int8": write("int8", np.int8, small),
        "int16": write("int16", np.int16, small),
        "uint16": write("uint16", np.uint16, large),
        "int32": write("int32", np.int32, [[[2**31 - 1, 70000]], *large]),
        "int64": write("int64", np.int64, large),
        "bytes": write("bytes", np.uint8, [[list(b"The Rays")], [list(b"of")], [list(b"Light")]]),
        "modes": write("modes", np.uint16, small, modes=True),
    }
    (FOLDER / "documents.json").write_text(json.dumps(expected) + "\n")
    write("float32", np.float32, [[[1, 2]]])
    write("negative", np.int16, [[[1, 2]], [[3, -4]]])


main()
