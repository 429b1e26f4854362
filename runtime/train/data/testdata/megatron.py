"""Makes the datasets of this folder from the facts of Megatron-LM's format: python megatron.py (NumPy 2)

Each is NAME.bin and NAME.idx. documents.json has what is in them: for each dataset, for each document,
its tokens.
"""

import json
import struct
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent
CODES = {"uint8": 1, "int8": 2, "int16": 3, "int32": 4, "int64": 5, "float64": 6, "float32": 7, "uint16": 8}


def write(name, dtype, documents, modes=False):
    """documents: for each document its sequences, for each of these its tokens."""
    sequences = [s for d in documents for s in d]
    lengths = np.array([len(s) for s in sequences], "<i4")
    width = np.dtype(dtype).itemsize
    pointers = np.concatenate([[0], np.cumsum(lengths[:-1], dtype="<i8") * width]).astype("<i8")
    firsts = np.concatenate([[0], np.cumsum([len(d) for d in documents])]).astype("<i8")
    with open(FOLDER / f"{name}.bin", "wb") as f:
        for s in sequences:
            f.write(np.array(s, np.dtype(dtype).newbyteorder("<")).tobytes())
    with open(FOLDER / f"{name}.idx", "wb") as f:
        f.write(b"MMIDIDX\x00\x00")
        f.write(struct.pack("<QBQQ", 1, CODES[dtype], len(sequences), len(firsts)))
        f.write(lengths.tobytes() + pointers.tobytes() + firsts.tobytes())
        if modes:
            f.write(np.zeros(len(sequences), "i1").tobytes())
    return [[t for s in d for t in s] for d in documents]


def main():
    small = [[[1, 2, 3]], [[4], [5, 6]], [[]], [[7, 0]]]
    large = [[[50256, 65535, 40000]], [[1], [2, 3, 4]]]
    expected = {
        "uint8": write("uint8", "uint8", small),
        "int8": write("int8", "int8", small),
        "int16": write("int16", "int16", small),
        "uint16": write("uint16", "uint16", large),
        "int32": write("int32", "int32", [[[2**31 - 1, 70000]], *large]),
        "int64": write("int64", "int64", large),
        "modes": write("modes", "uint16", small, modes=True),
    }
    (FOLDER / "documents.json").write_text(json.dumps(expected) + "\n")
    write("float32", "float32", [[[1.0, 2.0]]])
    write("negative", "int16", [[[1, 2]], [[3, -4]]])


main()
