#!/usr/bin/env python3
"""Writes contrib.zip: cases of ONNX Runtime's own operators (com.microsoft)
and of uses that ONNX's node tests leave out, in the layout of those tests,
with the outputs that ONNX Runtime gives.

    pip install numpy onnx onnxruntime
    python contrib.py
"""

import pathlib
import zipfile

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

rng = np.random.default_rng(7)
archive = zipfile.ZipFile(pathlib.Path(__file__).with_name("contrib.zip"), "w", zipfile.ZIP_DEFLATED)


def floats(*shape):
    return rng.standard_normal(shape).astype(np.float32)


def int32(*values):
    return np.array(values, np.int32)


def write(name, data):
    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))  # the same bytes each time
    info.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(info, data)


def case(name, op, inputs, outputs=1, domain="com.microsoft", opset=17, constant=(), **attributes):
    """Adds a case. Inputs that are None are absent; outputs is a number, or a
    list of which to ask for. constant names inputs to store in the model."""
    given = [(f"in{i}", x) for i, x in enumerate(inputs)]
    wanted = list(range(outputs)) if isinstance(outputs, int) else outputs
    produced = [f"out{i}" if i in wanted else "" for i in range(max(wanted) + 1)]
    node = helper.make_node(op, ["" if x is None else n for n, x in given], produced, domain=domain, **attributes)
    present = [(n, x) for n, x in given if x is not None]
    fed = {n: x for n, x in present if n not in constant}
    graph = helper.make_graph(
        [node],
        name,
        [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape) for n, x in fed.items()],
        [helper.make_empty_tensor_value_info(n) for n in produced if n],
        [numpy_helper.from_array(x, n) for n, x in present if n in constant],
    )
    imports = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    results = session.run(None, fed)
    for o, y in zip(graph.output, results):
        o.CopyFrom(helper.make_tensor_value_info(o.name, helper.np_dtype_to_tensor_dtype(y.dtype), y.shape))
    del model.graph.output[:]
    model.graph.output.extend(graph.output)
    write(f"{name}/model.onnx", model.SerializeToString())
    for kind, arrays in (("input", fed.values()), ("output", results)):
        for i, x in enumerate(arrays):
            write(f"{name}/test_data_set_0/{kind}_{i}.pb", numpy_helper.from_array(x).SerializeToString())


def normalisations():
    x, scale, bias = floats(2, 3, 8), floats(8), floats(8)
    case("layernorm_1", "LayerNormalization", [x, scale, bias], 3, domain="", opset=16)
    case("layernorm_scale_of_lines", "LayerNormalization", [x, floats(2, 1, 8), bias], 1, domain="")
    case("simplified_layernorm", "SimplifiedLayerNormalization", [x, scale], 2, domain="", epsilon=1e-6)
    case("skip_layernorm", "SkipLayerNormalization", [x, floats(2, 3, 8), scale, bias], [0, 3])
    case("skip_layernorm_bias", "SkipLayerNormalization", [x, floats(2, 3, 8), scale, bias, floats(8)], [0, 3], epsilon=1e-5)
    case("skip_layernorm_no_beta", "SkipLayerNormalization", [x, floats(2, 3, 8), scale, None, floats(8)])
    case("skip_layernorm_broadcast", "SkipLayerNormalization", [x, floats(1, 3, 8), scale, bias])
    case("skip_layernorm_matrix", "SkipLayerNormalization", [x, floats(3, 8), scale, bias])
    case("skip_simplified_layernorm", "SkipSimplifiedLayerNormalization", [x, floats(2, 3, 8), scale], [0, 3])
    case("skip_simplified_layernorm_bias", "SkipSimplifiedLayerNormalization", [x, floats(2, 3, 8), scale, floats(8)], [0, 3])
    words, segments = rng.integers(0, 11, (2, 5)).astype(np.int32), rng.integers(0, 2, (2, 5)).astype(np.int32)
    tables = [floats(11, 8), floats(6, 8), floats(2, 8)]
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32)
    case("embed_layernorm", "EmbedLayerNormalization", [words, segments, *tables, scale, bias, mask], 3)
    case("embed_layernorm_no_segments", "EmbedLayerNormalization", [words, None, *tables[:2], None, scale, bias], 2)
    case("embed_layernorm_positions", "EmbedLayerNormalization", [words, segments, *tables, scale, bias, None, int32([5, 4, 3, 2, 1])], 2)


def rotary():
    cos, sin = floats(10, 4), floats(10, 4)
    ids = np.array([[0, 1, 2], [7, 8, 9]], np.int64)
    for interleaved in (0, 1):
        case(f"rotary_{interleaved}", "RotaryEmbedding", [floats(2, 3, 16), ids, cos, sin], interleaved=interleaved)
        case(f"rotary_heads_{interleaved}", "RotaryEmbedding", [floats(2, 2, 3, 8), ids, cos, sin], interleaved=interleaved)
    case("rotary_offset", "RotaryEmbedding", [floats(2, 3, 16), np.array([4], np.int64), cos, sin])
    case("rotary_partial", "RotaryEmbedding", [floats(2, 3, 32), ids, cos, sin], rotary_embedding_dim=8, num_heads=2)


def multihead():
    B, S, L, N, D, V = 2, 3, 5, 4, 8, 6
    q, k, v = floats(B, S, N * D), floats(B, L, N * D), floats(B, L, N * V)
    bias = floats(N * (2 * D + V))
    lengths, marks = int32(5, 2), int32([1, 1, 0, 1, 0], [0, 1, 1, 1, 1])
    case("multihead", "MultiHeadAttention", [q, k, v], num_heads=N)
    case("multihead_scale", "MultiHeadAttention", [q, k, v], num_heads=N, scale=0.5)
    case("multihead_bias", "MultiHeadAttention", [q, k, v, bias], 3, num_heads=N)
    case("multihead_lengths", "MultiHeadAttention", [q, k, v, bias, lengths], num_heads=N)
    case("multihead_marks", "MultiHeadAttention", [q, k, v, None, marks], num_heads=N)
    case("multihead_marks_soft", "MultiHeadAttention", [q, k, v, None, marks], num_heads=N, mask_filter_value=-1.0)
    case("multihead_marks_rows", "MultiHeadAttention", [q, k, v, None, rng.integers(0, 2, (B, S, L)).astype(np.int32)], num_heads=N)
    case("multihead_score_bias", "MultiHeadAttention", [q, k, v, None, None, floats(1, N, S, L)], num_heads=N)
    case("multihead_causal", "MultiHeadAttention", [k, k, v, None, marks], num_heads=N, unidirectional=1)
    case("multihead_heads", "MultiHeadAttention", [q, floats(B, N, L, D), floats(B, N, L, D), floats(3 * N * D)], num_heads=N)
    past = [floats(B, N, 4, D), floats(B, N, 4, D)]
    s, t, u = floats(B, S, N * D), floats(B, S, N * D), floats(B, S, N * D)
    case("multihead_past", "MultiHeadAttention", [s, t, u, None, None, None, *past], 3, num_heads=N, unidirectional=1)
    case("multihead_past_bias", "MultiHeadAttention", [s, t, u, floats(3 * N * D), None, floats(B, 1, S, 4 + S), *past], 3, num_heads=N)
    case("multihead_decode", "MultiHeadAttention", [s[:, :1], t[:, :1], u[:, :1], None, None, None, *past], 3, num_heads=N)


def projected():
    B, S, H, N, D = 2, 4, 6, 3, 8
    x, w, b = floats(B, S, H), floats(H, 3 * N * D) / 4, floats(3 * N * D)
    marks = int32([1, 1, 0, 1], [0, 1, 1, 1])
    case("attention", "Attention", [x, w, b], constant=("in1",), num_heads=N)
    case("attention_no_bias", "Attention", [x, w], num_heads=N, scale=0.3)
    case("attention_sizes", "Attention", [x, floats(H, 2 * N * D + N * 5), floats(2 * N * D + N * 5)], num_heads=N, qkv_hidden_sizes=[N * D, N * D, N * 5])
    case("attention_marks", "Attention", [x, w, b, marks], num_heads=N)
    case("attention_ends", "Attention", [x, w, b, int32(4, 2)], num_heads=N)
    case("attention_ranges", "Attention", [x, w, b, int32(4, 3, 1, 0)], num_heads=N)
    case("attention_causal", "Attention", [x, w, b, marks], 2, num_heads=N, unidirectional=1)
    past = floats(2, B, N, 3, D)
    case("attention_past", "Attention", [x, w, b, None, past], 2, num_heads=N, unidirectional=1)
    case("attention_score_bias", "Attention", [x, w, b, None, None, floats(1, N, S, S)], num_heads=N)


def groupquery():
    B, S, N, K, D = 2, 4, 4, 2, 16
    angles = np.outer(np.arange(16), 10000.0 ** (-np.arange(D // 2) / (D // 2)))
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    heads = dict(num_heads=N, kv_num_heads=K)
    q, k, v = floats(B, S, N * D), floats(B, S, K * D), floats(B, S, K * D)
    empty = [np.zeros((B, K, 0, D), np.float32)] * 2
    total = np.array(S, np.int32)

    def group(name, inputs, **attributes):
        # The total decides shapes, so it is a constant.
        case("groupquery_" + name, "GroupQueryAttention", inputs, 3, constant=("in6",), **heads, **attributes)

    prompt = [q, k, v, *empty, int32(S - 1, S - 1), total]
    group("prompt", prompt)
    group("rotary", prompt + [cos, sin], do_rotary=1)
    group("rotary_interleaved", prompt + [cos, sin], do_rotary=1, rotary_interleaved=1)
    group("window", prompt, local_window_size=2)
    group("softcap", prompt, softcap=0.7, scale=0.9)
    group("smooth", prompt, smooth_softmax=1)
    group("sink", prompt + [None, None, None, None, floats(N)])
    group("score_bias", prompt + [None, None, None, floats(1, 1, S, S)])
    group("bidirectional", prompt, causal=0)
    group("packed", [floats(B, S, (N + 2 * K) * D), None, None, *empty, int32(S - 1, S - 1), total, cos, sin], do_rotary=1)
    past = [floats(B, K, 7, D), floats(B, K, 7, D)]
    one = [floats(B, 1, N * D), floats(B, 1, K * D), floats(B, 1, K * D)]
    group("decode", [*one, *past, int32(7, 7), np.array(8, np.int32), cos, sin], do_rotary=1)
    group("decode_window", [*one, *past, int32(7, 7), np.array(8, np.int32)], local_window_size=3)
    four = [floats(1, S, N * D), floats(1, S, K * D), floats(1, S, K * D)]
    group("continued", [*four, past[0][:1], past[1][:1], int32(10), np.array(11, np.int32), cos, sin], do_rotary=1)


def activations():
    x, bias = floats(2, 3, 8), floats(8)
    case("gelu", "Gelu", [x])
    case("fast_gelu", "FastGelu", [x])
    case("fast_gelu_bias", "FastGelu", [x, bias])
    case("bias_gelu", "BiasGelu", [x, bias])
    case("quick_gelu", "QuickGelu", [x], alpha=1.702)


def products():
    a, b = floats(2, 3, 4), floats(2, 4, 5)
    case("fused_matmul", "FusedMatMul", [a, b], alpha=0.5)
    case("fused_matmul_transposed", "FusedMatMul", [np.swapaxes(a, 1, 2).copy(), np.swapaxes(b, 1, 2).copy()], transA=1, transB=1)
    case("fused_matmul_batch", "FusedMatMul", [floats(3, 2, 4), b], transBatchA=1)
    for name, extra in (("Relu", {}), ("Tanh", {}), ("Sigmoid", {}), ("LeakyRelu", {"activation_alpha": 0.1})):
        case(f"fused_gemm_{name}", "FusedGemm", [a[0], floats(5, 4), floats(5)], transB=1, alpha=0.7, beta=0.3, activation=name, **extra)


def recurrent():
    S, B, I, H = 5, 3, 4, 6
    lengths = int32(5, 2, 4)
    for op, gates in (("RNN", 1), ("GRU", 3), ("LSTM", 4)):
        for direction in ("forward", "reverse", "bidirectional"):
            D = 2 if direction == "bidirectional" else 1
            weights = [floats(D, gates * H, I), floats(D, gates * H, H), floats(D, 2 * gates * H)]
            states = [floats(D, B, H)] * (2 if op == "LSTM" else 1)
            case(f"{op}_{direction}", op, [floats(S, B, I), *weights, lengths, *states], 1 + len(states), domain="", direction=direction, hidden_size=H)
    gru = [floats(S, B, I), floats(1, 3 * H, I), floats(1, 3 * H, H), floats(1, 6 * H)]
    case("GRU_linear_before_reset", "GRU", gru, 2, domain="", hidden_size=H, linear_before_reset=1)
    case("GRU_activations", "GRU", gru, 2, domain="", hidden_size=H, activations=["HardSigmoid", "Softsign"], activation_alpha=[0.3], activation_beta=[0.4])
    lstm = [floats(S, B, I), floats(1, 4 * H, I), floats(1, 4 * H, H), floats(1, 8 * H), None, None, None, floats(1, 3 * H)]
    case("LSTM_peepholes_clip", "LSTM", lstm, 3, domain="", hidden_size=H, clip=0.5)
    case("LSTM_input_forget", "LSTM", lstm[:4], 3, domain="", hidden_size=H, input_forget=1)
    case("LSTM_activations", "LSTM", lstm[:4], 3, domain="", hidden_size=H, activations=["Sigmoid", "LeakyRelu", "Softsign"], activation_alpha=[0.1])


def transposed_convolutions():
    x, w = floats(1, 2, 5, 4), floats(2, 3, 4, 3)
    for auto_pad in ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"):
        case(f"convtranspose_{auto_pad}", "ConvTranspose", [x, w], domain="", auto_pad=auto_pad, strides=[2, 3])
        if auto_pad != "VALID":
            case(f"convtranspose_shape_{auto_pad}", "ConvTranspose", [x, w], domain="", auto_pad=auto_pad, strides=[2, 3], output_shape=[8, 9])


def mixtures():
    N, D, H, E = 12, 8, 10, 4

    def moe(name, x, fc1, fc2, biases=(None, None), constant=False, **attributes):
        inputs = [x, floats(int(np.prod(x.shape[:-1])), E).astype(x.dtype), fc1, biases[0], fc2, biases[1]]
        weights = ("in2", "in3", "in4", "in5") if constant else ()
        case("moe_" + name, "MoE", inputs, constant=weights, **{"k": 2, "normalize_routing_weights": 1} | attributes)

    x, fc1, fc2, biases = floats(N, D), floats(E, H, D), floats(E, D, H), (floats(E, H), floats(E, D))
    fused, fused_bias = floats(E, 2 * H, D), (floats(E, 2 * H), floats(E, D))
    for activation in ("relu", "gelu", "silu", "identity"):
        moe(activation, x, fc1, fc2, biases, activation_type=activation)
    moe("swiglu", x, fused, fc2, fused_bias, activation_type="swiglu", swiglu_fusion=1)
    moe("swiglu_limit", 3 * x, fused, fc2, fused_bias, activation_type="swiglu", swiglu_fusion=1, activation_alpha=1.702, activation_beta=1.0, swiglu_limit=7.0)
    moe("swiglu_constant", x, fused, fc2, fused_bias, constant=True, activation_type="swiglu", swiglu_fusion=1)
    moe("batch", floats(2, 3, D), fc1, fc2, k=1)
    moe("softmax_over_all", x, fc1, fc2, biases, constant=True, k=3, normalize_routing_weights=0)
    moe("square", x, floats(E, D, D), floats(E, D, D), activation_type="silu")
    moe("square_swiglu", x, floats(E, 2 * D, D), floats(E, D, D), activation_type="swiglu", swiglu_fusion=1)
    moe("one_expert_each", x, fc1, fc2, k=1, normalize_routing_weights=0)


def packed(rows, columns, bits):
    """Random integers, packed along the columns."""
    return rng.integers(0, 256, (*rows, columns * bits // 8)).astype(np.uint8)


def quantised_mixtures():
    N, D, H, E = 4, 32, 64, 2
    x, logits = floats(N, D), floats(N, E)
    for bits in (4, 8):
        scale = 0.3 / 2**bits
        for block in (0, 16):
            for zeros in (False, True):
                def layer(rows, columns):
                    blocks = (columns // block,) if block else ()
                    zero = None
                    if zeros:
                        zero = packed((E, rows), columns // block, bits) if block else packed((E,), rows, bits)
                    return packed((E, rows), columns, bits), (1 + rng.random((E, rows, *blocks))).astype(np.float32) * np.float32(scale), zero
                activation, rows = ("swiglu", 2 * H) if zeros else ("silu", H)
                (w1, s1, z1), (w2, s2, z2) = layer(rows, D), layer(D, H)
                inputs = [x, logits, w1, s1, floats(E, rows), w2, s2, floats(E, D), None, None, None, z1, z2][: 13 if zeros else 8]
                extra = dict(expert_weight_bits=bits) | ({"block_size": block} if block else {}) | ({"swiglu_fusion": 1} if zeros else {})
                # For constant weights of 8 bits in blocks ONNX Runtime rounds the tokens to 8 bits, too.
                weights = [f"in{i}" for i in (2, 3, 5, 6, 11, 12)] if not (bits == 8 and block) else ()
                case(f"qmoe_{bits}{'_blocks' if block else ''}{'_zeros' if zeros else ''}", "QMoE", inputs, constant=weights, k=2,
                     activation_type=activation, normalize_routing_weights=1, **extra)
    case("qmoe_not_normalized", "QMoE", inputs, k=2, activation_type="swiglu", normalize_routing_weights=0, **extra)


def quantised_products():
    K, N = 40, 6
    for bits in (4, 8):
        for block in (16, 32):
            blocks = -(-K // block)
            w = rng.integers(0, 256, (N, blocks, block * bits // 8)).astype(np.uint8)
            scales = floats(N, blocks) / 2**bits
            name = f"matmulnbits_{bits}_{block}"
            attributes = dict(K=K, N=N, bits=bits, block_size=block)
            weights = ("in1", "in2", "in3", "in4")
            zeros = rng.integers(0, 256, (N, -(-blocks * bits // 8))).astype(np.uint8)
            case(name, "MatMulNBits", [floats(2, 3, K), w, scales], constant=weights, **attributes)
            case(name + "_zeros", "MatMulNBits", [floats(4, K), w, scales, zeros], constant=weights, **attributes)
            if bits == 4:  # ONNX Runtime's CPU kernel has no others
                case(name + "_float_zeros", "MatMulNBits", [floats(4, K), w, scales, floats(N, blocks) + 8], constant=weights, **attributes)
            case(name + "_bias", "MatMulNBits", [floats(4, K), w, scales, None, None, floats(N)], constant=weights, **attributes)
    groups = rng.integers(0, 2, 64).astype(np.int32)
    case("matmulnbits_groups", "MatMulNBits", [floats(4, K), packed((N, 2), 32, 4), floats(N, 2), None, groups],
         K=K, N=N, bits=4, block_size=32)


activations()
products()
recurrent()
transposed_convolutions()
normalisations()
rotary()
multihead()
projected()
groupquery()
mixtures()
quantised_mixtures()
quantised_products()
archive.close()
