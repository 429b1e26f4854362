"""Writes recurrentgradient.json: outputs and gradients of PyTorch's recurrent
layers in float64, in ONNX's order of gates and directions.

The loss is the sum of Y times by_y, of Y_h times by_h and of Y_c times by_c.
"""
import json
import os
import torch

LENGTH, BATCH, INPUT, HIDDEN = 5, 3, 4, 6
# Where ONNX's gates are among PyTorch's.
GATES = {"RNN": [0], "GRU": [1, 0, 2], "LSTM": [0, 3, 1, 2]}


def reorder(kind, tensors):
    """Stacks a tensor of each direction, with ONNX's order of gates."""
    stacked = torch.stack(tensors)
    rows = stacked.reshape(len(tensors), len(GATES[kind]), HIDDEN, *stacked.shape[2:])
    return rows[:, GATES[kind]].reshape(stacked.shape)


def case(kind, bidirectional, lengths=None):
    torch.manual_seed(len(kind) + 10 * bidirectional)
    directions = 1 + bidirectional
    layer = getattr(torch.nn, kind)(INPUT, HIDDEN, bidirectional=bidirectional, dtype=torch.float64)

    def leaf(*shape):
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    x, h = leaf(LENGTH, BATCH, INPUT), leaf(directions, BATCH, HIDDEN)
    state = [h] if kind != "LSTM" else [h, leaf(directions, BATCH, HIDDEN)]
    given = x if lengths is None else torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
    y, last = layer(given, state[0] if len(state) == 1 else tuple(state))
    if lengths is not None:
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, total_length=LENGTH)
    y = y.reshape(LENGTH, BATCH, directions, HIDDEN).transpose(1, 2)
    outputs = [y, *(last if kind == "LSTM" else [last])]
    by = [torch.randn_like(o) for o in outputs]
    sum((o * b).sum() for o, b in zip(outputs, by)).backward()

    def parameter(name, of):
        tensors = [getattr(layer, name + suffix) for suffix in ["_l0", "_l0_reverse"][:directions]]
        return reorder(kind, [of(t) for t in tensors])

    def inputs(of):
        bias = torch.cat([parameter("bias_ih", of), parameter("bias_hh", of)], 1)
        return [of(x), parameter("weight_ih", of), parameter("weight_hh", of), bias, None, *(of(s) for s in state)]

    def numbers(tensors):
        return [t if t is None else {"shape": list(t.shape), "data": t.flatten().tolist()} for t in tensors]

    return {"kind": kind, "bidirectional": bidirectional, "lengths": lengths, "inputs": numbers(inputs(lambda t: t.detach())),
            "outputs": numbers([o.detach() for o in outputs]), "by": numbers(by), "gradients": numbers(inputs(lambda t: t.grad))}


cases = [case(kind, bidirectional, [5, 1, 3] if bidirectional else None) for kind in GATES for bidirectional in [False, True]]
with open(os.path.join(os.path.dirname(__file__), "recurrentgradient.json"), "w") as f:
    json.dump(cases, f)
