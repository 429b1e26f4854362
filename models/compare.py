"""Checks the samples in ONNX Runtime: python models/compare.py [--rewritten DIR]

Every sample must still give its stored outputs. With --rewritten, every DIR/NAME/TARGET.onnx, written
by fmoefy from models/NAME/model.onnx for a target, with its report in TARGET.json, must give within
1e-4 what moerun gave for it (in the data sets in DIR/NAME/TARGET/) and what the original gives, that
within 5e-3 where the report says that the function is approximated. A file TARGET.GATE.onnx has a gate that
drops tokens, and is compared with moerun only. Exits 1 when anything differs or is missing.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import onnx

from common import ATOL, MODELS, RTOL, open_session, read_tensors, run

REWRITTEN_TOLERANCE, APPROXIMATED_TOLERANCE = 1e-4, 5e-3

# The operators that stand for mixtures of experts, by target; the target standard has none.
MIXTURES = {"portable": [("ai.fmoe", "FMoE")], "onnxruntime": [("com.microsoft", "MoE")], "standard": []}


def difference(expected, actual, rtol, atol):
    """Whether actual equals expected within atol + rtol * |expected|, and a line about how far off it is.

    The relative difference in that line is measured against the largest expected element, so that
    elements near zero do not drown it.
    """
    if expected.keys() != actual.keys():
        return False, f"outputs {sorted(actual)}, expected {sorted(expected)}"
    absolute = relative = 0.0
    equal = True
    for name, reference in expected.items():
        value = actual[name]
        if value.shape != reference.shape or value.dtype != reference.dtype:
            return False, f"{name} is {value.dtype}{value.shape}, expected {reference.dtype}{reference.shape}"
        equal = equal and np.allclose(value, reference, rtol=rtol, atol=atol)
        largest = np.abs(value.astype(np.float64) - reference).max(initial=0.0)
        absolute = np.maximum(absolute, largest)
        relative = np.maximum(relative, largest / max(np.abs(reference).max(initial=0.0), np.finfo(np.float64).tiny))
    return equal, f"max absolute {absolute:.1e}, max relative {relative:.1e}"


def data_sets(name):
    """(folder, inputs, stored outputs) of each of a sample's data sets."""
    for folder in sorted((MODELS / name).glob("test_data_set_*")):
        yield folder.name, read_tensors(folder, "input"), read_tensors(folder, "output")


def check_stored(name):
    session = open_session(MODELS / name / "model.onnx")
    for folder, inputs, outputs in data_sets(name):
        yield f"{name} {folder}", *difference(outputs, run(session, inputs), RTOL, ATOL)


def check_target(path):
    target = path.stem.partition(".")[0]
    nodes = onnx.load(path, load_external_data=False).graph.node
    found = sorted({(node.domain, node.op_type) for node in nodes if node.domain})
    if found != MIXTURES[target]:
        raise ValueError(f"{path} has {found}, expected {MIXTURES[target]}")


def check_rewritten(name, path):
    check_target(path)
    same = json.loads(path.with_suffix(".json").read_text())["equal"]
    tolerance = REWRITTEN_TOLERANCE if same else APPROXIMATED_TOLERANCE
    original, rewritten = open_session(MODELS / name / "model.onnx"), open_session(path)
    for folder, inputs, _ in data_sets(name):
        actual, label = run(rewritten, inputs), f"{name} {path.stem} {folder}"
        moerun = read_tensors(path.with_suffix("") / folder, "output")
        yield f"{label} in moerun", *difference(moerun, actual, REWRITTEN_TOLERANCE, REWRITTEN_TOLERANCE)
        if "." in path.stem:
            continue
        equal, line = difference(run(original, inputs), actual, tolerance, tolerance)
        yield f"{label} and the original", equal, line + ("" if same else ", an approximation")


def report(title, results):
    """Prints one line for each result; false when one differs, or there is none."""
    count = 0
    equal = True
    try:
        for label, same, line in results:
            count += 1
            equal = equal and same
            print(f"{'ok  ' if same else 'FAIL'} {label}: {line}")
    except Exception as error:  # onnx and ONNX Runtime raise many kinds; none may hide the other samples.
        print(f"FAIL {title}: {error}")
        return False
    if count == 0:
        print(f"FAIL {title}: no test_data_set_N folder to run it on")
    return equal and count > 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rewritten", type=Path, metavar="DIR", help="folder of NAME/TARGET.onnx files written by fmoefy")
    arguments = parser.parse_args()

    names = sorted(path.parent.name for path in MODELS.glob("*/model.onnx"))
    passed = [report(name, check_stored(name)) for name in names]
    if arguments.rewritten:
        for name in names:
            targets = sorted((arguments.rewritten / name).glob("*.onnx"))
            passed += [report(f"{name} {path.stem}", check_rewritten(name, path)) for path in targets] or [False]
    if not passed or not all(passed):
        sys.exit(1)


if __name__ == "__main__":
    main()
