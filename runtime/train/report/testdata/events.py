"""Event files as TensorBoard's own package writes and reads them (pip install tensorboard).

    python events.py write           writes events.reference, which the tests compare with
    python events.py read DIRECTORY  prints what TensorBoard sees of the files in a directory, as JSON
"""

import json
import pathlib
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter


def scalars(step, values):
    summary = Summary(value=[Summary.Value(tag=tag, simple_value=x) for tag, x in values.items()])
    return Event(wall_time=1767323045.25, step=step, summary=summary)


def write():
    layers = {}
    for name, balance in (("h.0/mlp/FMoE", 1.25), ("h.1/mlp/FMoE", 0.0)):
        # Loads of 1/2, 1/4, 1/4, 0: the variation is sqrt(0.5), the entropy 1.5 bits of 2; 5 of 85 slots are dropped.
        layers |= {
            f"load_variation/{name}": 0.5**0.5,
            f"load_entropy/{name}": 0.75,
            f"dropped/{name}": 1 - 80 / 85,
            f"balance_loss/{name}": balance,
            f"z_loss/{name}": 3.5,
        }
    step = {
        "loss/training": 2.75,
        "loss/balance": 1.25,
        "loss/z": 7.0,
        "loss/total": 2.8,
        "optimizer/gradient_norm": float("inf"),
        "learning_rate/router": 1e-4,
        "learning_rate/weights": 1e-3,
        "optimizer/skipped_steps": 2.0,
        "speed/tokens_per_second": 12345.0,
        "speed/tokens": 300000.0,
        "speed/memory_bytes": float(1 << 30),
    }
    events = [
        Event(wall_time=1767323045.25, file_version="brain.Event:2"),
        Event(wall_time=1767323045.25, step=300, session_log=SessionLog(status=SessionLog.START)),
        scalars(300, step | layers),
        scalars(300, {"loss/held_out": 2.5, "perplexity/held_out": 12.1825}),
    ]
    with open(pathlib.Path(__file__).with_name("events.reference"), "wb") as f:
        writer = RecordWriter(f)
        for e in events:
            writer.write(e.SerializeToString())
        writer.flush()


def read(directory):
    accumulator = EventAccumulator(directory, size_guidance={"scalars": 0})
    accumulator.Reload()
    tags = accumulator.Tags()["scalars"]
    print(json.dumps({tag: [[s.step, s.value] for s in accumulator.Scalars(tag)] for tag in tags}, indent=1))


if __name__ == "__main__":
    write() if sys.argv[1] == "write" else read(sys.argv[2])
