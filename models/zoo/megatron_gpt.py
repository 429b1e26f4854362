"""GPT models of megatron-core on the CPU, made of its own layers without Transformer Engine."""

import contextlib
import os

import torch
from torch import nn
from torch.nn import functional

from families import HEADS, HIDDEN, LAYERS, POSITIONS, VOCABULARY, WIDTH


def start():
    """Starts megatron-core with one process, and gives it CPU memory where it asks for a GPU's."""
    from megatron.core import parallel_state, tensor_parallel
    if parallel_state.model_parallel_is_initialized():
        return
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29511", GLOO_SOCKET_IFNAME="lo")
    torch.distributed.init_process_group("gloo", rank=0, world_size=1)
    parallel_state.initialize_model_parallel()
    parallel_state.get_global_memory_buffer().get_tensor = lambda shape, dtype, *_: torch.empty(shape, dtype=dtype)
    tensor_parallel.get_cuda_rng_tracker().fork = contextlib.nullcontext


class MegatronGPT(nn.Module):
    """megatron-core's GPTModel behind Hugging Face's names, with causal attention to all earlier positions.

    The plain one has layer norms and a GELU; the gated one RMS norms, no biases, and a SwiGLU whose
    two matrices are one. Both have learned positions: megatron-core computes rotary ones on a GPU.
    """

    def __init__(self, gated):
        super().__init__()
        start()
        from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
        from megatron.core.models.gpt.gpt_model import GPTModel
        from megatron.core.transformer.transformer_config import TransformerConfig
        norm = "RMSNorm" if gated else "LayerNorm"
        config = TransformerConfig(
            num_layers=LAYERS, hidden_size=WIDTH, num_attention_heads=HEADS, ffn_hidden_size=HIDDEN,
            normalization=norm, gated_linear_unit=gated, add_bias_linear=not gated,
            activation_func=functional.silu if gated else functional.gelu,
            use_cpu_initialization=True, attention_dropout=0.0, hidden_dropout=0.0, persist_layer_norm=False,
            gradient_accumulation_fusion=False, bias_activation_fusion=False, masked_softmax_fusion=False,
            bias_dropout_fusion=False, apply_rope_fusion=False)
        self.language_model = GPTModel(
            config, get_gpt_layer_local_spec(normalization=norm), vocab_size=VOCABULARY, max_sequence_length=POSITIONS,
            position_embedding_type="learned_absolute")

    def forward(self, input_ids):
        length = input_ids.shape[1]
        positions = torch.arange(length)[None].expand_as(input_ids)
        hidden = torch.ones(length, length, dtype=torch.bool).triu(1)[None, None]
        return {"logits": self.language_model(input_ids, positions, hidden)}

    def state_dict(self, *args, **kwargs):
        """Leaves out the empty places that megatron-core keeps for Transformer Engine's state."""
        state = super().state_dict(*args, **kwargs)
        for name in [name for name, value in state.items() if value is None]:
            del state[name]
        return state
