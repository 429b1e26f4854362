"""Running models in ONNX Runtime, and reference data in ONNX's test layout."""

from pathlib import Path

import onnx
import onnxruntime
from onnx import numpy_helper

MODELS = Path(__file__).resolve().parent

# How far one runtime's float32 outputs may be from another's: ONNX's own operator tests allow the
# same relative difference; the absolute one is wider, since a whole model sums up many roundings.
RTOL, ATOL = 1e-3, 1e-5


def open_session(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def run(session, inputs):
    """Outputs by name for inputs by name, all NumPy arrays."""
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs)))


def write_data_set(folder, inputs, outputs):
    """Writes input_J.pb and output_J.pb; the tensors carry their names."""
    folder.mkdir(exist_ok=True)
    for kind, tensors in (("input", inputs), ("output", outputs)):
        for index, (name, value) in enumerate(tensors.items()):
            path = folder / f"{kind}_{index}.pb"
            path.write_bytes(numpy_helper.from_array(value, name).SerializeToString())


def read_tensors(folder, kind):
    """The inputs or outputs of one data set by name."""
    paths = sorted(folder.glob(f"{kind}_*.pb"), key=lambda path: int(path.stem.rpartition("_")[2]))
    tensors = [onnx.load_tensor(path) for path in paths]
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in tensors}
