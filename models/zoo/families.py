"""The zoo's architectures: tiny Hugging Face models with random weights, their inputs and their MLP blocks."""

import zlib
from dataclasses import dataclass, field
from typing import Callable

import torch
import transformers as hf
from torch import nn
from transformers.pytorch_utils import Conv1D

VOCABULARY = 64
WIDTH, HIDDEN, LAYERS, HEADS = 32, 64, 2, 4
POSITIONS = 64


@dataclass
class Input:
    """One input: an example value of it and the names of its dynamic axes."""

    value: torch.Tensor
    axes: dict[int, str]


@dataclass
class Family:
    """An architecture: how its model is made, what it takes and gives, and the MLP blocks that its configuration says."""

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[int, int], dict[str, Input]]  # of batch and sequence
    outputs: dict[str, dict[int, str]]  # the model's output fields with their dynamic axes
    blocks: list[dict]  # kind, activation, d_model, d_hidden and count of MLP blocks
    traps: str = ""  # what looks like an MLP block and is none
    constants: dict = field(default_factory=dict)  # further arguments of the model


def blocks(kind, activation, count=LAYERS, d_model=WIDTH, d_hidden=HIDDEN):
    return {"kind": kind, "activation": activation, "count": count, "d_model": d_model, "d_hidden": d_hidden}


def make(cls, config, **changes):
    """Returns a builder of cls with the attention that exporters handle best and random weights."""
    def build():
        settings = config(**changes)
        settings._attn_implementation = "eager"
        settings._experts_implementation = "eager"  # a loop over the experts
        return randomize(cls(settings), seed=zlib.crc32(cls.__name__.encode()))
    return build


def make_megatron(gated):
    def build():
        from megatron_gpt import MegatronGPT
        return randomize(MegatronGPT(gated), seed=29)
    return build


def randomize(model, seed):
    """Draws weights that keep activations near unit variance, and norms and biases unlike their usual 1 and 0.

    They are rounded to bfloat16, so that every float type holds them and the files compress well.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        owner = model.get_submodule(name.rpartition(".")[0])
        with torch.no_grad():
            if isinstance(owner, nn.Embedding):
                parameter.copy_(noise)
            elif isinstance(owner, Conv1D) and parameter.dim() == 2:
                parameter.copy_(noise / parameter.shape[0] ** 0.5)
            elif parameter.dim() >= 2:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            elif name.endswith("bias"):
                parameter.copy_(0.1 * noise)
            else:
                parameter.copy_(1 + 0.1 * noise)
            parameter.copy_(parameter.bfloat16())
    return model.eval()


def random(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def tokens(batch, sequence, axis="sequence"):
    generator = torch.Generator().manual_seed(batch * 1000 + sequence)
    return Input(torch.randint(5, VOCABULARY, (batch, sequence), generator=generator), {0: "batch", 1: axis})


def text(batch, sequence):
    return {"input_ids": tokens(batch, sequence)}


def padded(batch, sequence):
    """Random tokens; each row after the first is padded by one token more."""
    length = (sequence - torch.arange(batch)).clamp(min=1)
    mask = (torch.arange(sequence)[None, :] < length[:, None]).long()
    return {"input_ids": tokens(batch, sequence), "attention_mask": Input(mask, {0: "batch", 1: "sequence"})}


def pairs(batch, sequence):
    types = (torch.arange(sequence) >= sequence // 2).long().expand(batch, sequence).clone()
    return {**padded(batch, sequence), "token_type_ids": Input(types, {0: "batch", 1: "sequence"})}


def sources_and_targets(batch, sequence):
    return {**padded(batch, sequence), "decoder_input_ids": tokens(batch, sequence - 2, "target")}


def pictures(batch, _):
    return {"pixel_values": Input(random(batch, 3, 32, 32), {0: "batch"})}


def pictures_and_texts(batch, sequence):
    text = padded(batch, sequence)
    for given in text.values():
        given.axes[0] = "texts"
    return {**text, **pictures(batch, sequence)}


def sounds(batch, sequence):
    mask = Input(torch.ones(batch, sequence, dtype=torch.long), {0: "batch", 1: "target"})
    return {"input_features": Input(random(batch, 16, 64), {0: "batch"}),
            "decoder_input_ids": tokens(batch, sequence, "target"), "decoder_attention_mask": mask}


TOKENS = {0: "batch", 1: "sequence"}
LOGITS = {"logits": TOKENS}
STATES = {"last_hidden_state": TOKENS}
CLASSES = {"logits": {0: "batch"}}
TARGET = {"logits": {0: "batch", 1: "target"}}

ENCODER = dict(vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
               intermediate_size=HIDDEN, max_position_embeddings=POSITIONS)
DECODER = {**ENCODER, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GROUPED = {**DECODER, "num_key_value_heads": 2}
T5 = dict(vocab_size=VOCABULARY, d_model=WIDTH, d_kv=8, d_ff=HIDDEN, num_layers=1, num_decoder_layers=LAYERS, num_heads=HEADS,
          pad_token_id=0, eos_token_id=2, decoder_start_token_id=0, use_cache=False)
BART = dict(vocab_size=VOCABULARY, d_model=WIDTH, encoder_layers=1, decoder_layers=LAYERS, use_cache=False,
            encoder_attention_heads=HEADS, decoder_attention_heads=HEADS, encoder_ffn_dim=HIDDEN, decoder_ffn_dim=HIDDEN,
            max_position_embeddings=POSITIONS, pad_token_id=0, bos_token_id=1, eos_token_id=2,
            decoder_start_token_id=2, forced_eos_token_id=None)
PICTURE = dict(hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS, intermediate_size=HIDDEN,
               image_size=32, patch_size=8)

EXPERTS = "a mixture already: its experts"

mlp_gelu = [blocks("plain", "gelu")]
mlp_tanh = [blocks("plain", "gelu_tanh")]
mlp_relu = [blocks("plain", "relu")]
gated_silu = [blocks("gated", "silu")]


def clip_config(**changes):
    text = dict(ENCODER, bos_token_id=1, eos_token_id=2, pad_token_id=0, projection_dim=24)
    vision = dict(PICTURE, hidden_size=40, intermediate_size=72)
    return hf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24, **changes)


FAMILIES = {family.name: family for family in [
    Family("bert", make(hf.BertForMaskedLM, hf.BertConfig, **ENCODER), pairs, LOGITS, mlp_gelu,
           "masked-language-model head: dense, GELU, norm, dense"),
    Family("gpt2", make(hf.GPT2LMHeadModel, hf.GPT2Config, vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=LAYERS,
                        n_head=HEADS, n_inner=HIDDEN, n_positions=POSITIONS, bos_token_id=1, eos_token_id=2),
           padded, LOGITS, mlp_tanh),
    Family("llama", make(hf.LlamaForCausalLM, hf.LlamaConfig, **GROUPED), padded, LOGITS, gated_silu),
    Family("distilbert", make(hf.DistilBertForSequenceClassification, hf.DistilBertConfig, vocab_size=VOCABULARY,
                              dim=WIDTH, hidden_dim=HIDDEN, n_layers=LAYERS, n_heads=HEADS,
                              max_position_embeddings=POSITIONS),
           padded, CLASSES, mlp_gelu, "classifier head: dense, ReLU, dense"),
    Family("t5-v1.0", make(hf.T5ForConditionalGeneration, hf.T5Config, **T5, feed_forward_proj="relu"),
           sources_and_targets, TARGET, [blocks("plain", "relu", 1 + LAYERS)]),
    Family("t5-v1.1", make(hf.T5ForConditionalGeneration, hf.T5Config, **T5, feed_forward_proj="gated-gelu"),
           sources_and_targets, TARGET, [blocks("gated", "gelu_tanh", 1 + LAYERS)]),
    Family("vit", make(hf.ViTForImageClassification, hf.ViTConfig, **PICTURE, num_labels=5), pictures, CLASSES, mlp_gelu,
           "convolutional stem, classifier"),
    Family("qwen2", make(hf.Qwen2ForCausalLM, hf.Qwen2Config, **GROUPED), padded, LOGITS, gated_silu),
    Family("opt", make(hf.OPTForCausalLM, hf.OPTConfig, vocab_size=VOCABULARY, hidden_size=WIDTH, ffn_dim=HIDDEN,
                       word_embed_proj_dim=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
                       max_position_embeddings=POSITIONS, pad_token_id=1, bos_token_id=2, eos_token_id=2),
           padded, LOGITS, mlp_relu),
    Family("gpt-neox", make(hf.GPTNeoXForCausalLM, hf.GPTNeoXConfig, **DECODER), padded, LOGITS, mlp_gelu),
    Family("roberta", make(hf.RobertaForSequenceClassification, hf.RobertaConfig, **DECODER, type_vocab_size=1),
           padded, CLASSES, mlp_gelu, "classifier head: dense, tanh, dense"),
    Family("albert", make(hf.AlbertForMaskedLM, hf.AlbertConfig, **ENCODER, embedding_size=16, hidden_act="gelu_new"),
           pairs, LOGITS, mlp_tanh, "masked-language-model head: dense, GELU, norm, dense"),
    Family("electra", make(hf.ElectraForSequenceClassification, hf.ElectraConfig, **ENCODER, embedding_size=16),
           pairs, CLASSES, mlp_gelu, "classifier head: dense, GELU, dense"),
    Family("deberta", make(hf.DebertaModel, hf.DebertaConfig, **ENCODER, relative_attention=True,
                           pos_att_type=["c2p", "p2c"], pad_token_id=0),
           padded, STATES, mlp_gelu),
    Family("deberta-v2", make(hf.DebertaV2ForSequenceClassification, hf.DebertaV2Config, **ENCODER,
                              relative_attention=True, pos_att_type=["c2p", "p2c"], position_buckets=8,
                              norm_rel_ebd="layer_norm", share_att_key=True, pad_token_id=0),
           padded, CLASSES, mlp_gelu, "pooler: dense, GELU; classifier"),
    Family("gpt-j", make(hf.GPTJForCausalLM, hf.GPTJConfig, vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=LAYERS,
                         n_head=HEADS, n_inner=HIDDEN, n_positions=POSITIONS, rotary_dim=4, bos_token_id=1,
                         eos_token_id=2),
           padded, LOGITS, mlp_tanh),
    Family("bloom", make(hf.BloomForCausalLM, hf.BloomConfig, vocab_size=VOCABULARY, hidden_size=WIDTH, n_layer=LAYERS,
                         n_head=HEADS),
           padded, LOGITS, [blocks("plain", "gelu_tanh", d_hidden=4 * WIDTH)]),
    Family("falcon", make(hf.FalconForCausalLM, hf.FalconConfig, vocab_size=VOCABULARY, hidden_size=WIDTH,
                          num_hidden_layers=LAYERS, num_attention_heads=HEADS, ffn_hidden_size=HIDDEN,
                          multi_query=True, parallel_attn=True, bias=False, bos_token_id=1, eos_token_id=2),
           padded, LOGITS, mlp_gelu),
    Family("mistral", make(hf.MistralForCausalLM, hf.MistralConfig, **GROUPED, sliding_window=None), padded, LOGITS, gated_silu),
    Family("qwen3", make(hf.Qwen3ForCausalLM, hf.Qwen3Config, **GROUPED, head_dim=8), padded, LOGITS, gated_silu),
    Family("gemma", make(hf.GemmaForCausalLM, hf.GemmaConfig, **GROUPED, head_dim=8, hidden_act="gelu_pytorch_tanh"),
           padded, LOGITS, [blocks("gated", "gelu_tanh")]),
    Family("phi-2", make(hf.PhiForCausalLM, hf.PhiConfig, **DECODER, partial_rotary_factor=0.5), padded, LOGITS, mlp_tanh),
    Family("phi-3", make(hf.Phi3ForCausalLM, hf.Phi3Config, **GROUPED, original_max_position_embeddings=POSITIONS),
           padded, LOGITS, [blocks("gated-fused", "silu")]),
    Family("bart", make(hf.BartForConditionalGeneration, hf.BartConfig, **BART), sources_and_targets, TARGET,
           [blocks("plain", "gelu", 1 + LAYERS)]),
    Family("whisper", make(hf.WhisperForConditionalGeneration, hf.WhisperConfig, **BART, num_mel_bins=16, max_source_positions=32, max_target_positions=POSITIONS,
                           suppress_tokens=None, begin_suppress_tokens=None),
           sounds, TARGET, [blocks("plain", "gelu", 1 + LAYERS)], "convolutional stem: convolutions with GELU"),
    Family("swin", make(hf.SwinForImageClassification, hf.SwinConfig, image_size=32, patch_size=4, embed_dim=16,
                        depths=[2, 1], num_heads=[2, 4], window_size=4, mlp_ratio=3.0, num_labels=5),
           pictures, CLASSES, [blocks("plain", "gelu", 2, 16, 48), blocks("plain", "gelu", 1, 32, 96)],
           "patch merging: reduction between stages"),
    Family("clip", make(hf.CLIPModel, clip_config), pictures_and_texts,
           {"logits_per_image": {0: "batch", 1: "texts"}, "text_embeds": {0: "texts"}, "image_embeds": {0: "batch"}},
           [blocks("plain", "quick_gelu"), blocks("plain", "quick_gelu", LAYERS, 40, 72)], "projections"),
    Family("nemotron", make(hf.NemotronForCausalLM, hf.NemotronConfig, **GROUPED), padded, LOGITS, [blocks("plain", "relu2")]),
    Family("modernbert", make(hf.ModernBertForMaskedLM, hf.ModernBertConfig, **DECODER, cls_token_id=1, sep_token_id=2),
           padded, LOGITS, [blocks("gated-fused", "gelu")], "masked-language-model head: dense, GELU, norm, dense"),
    Family("mobilebert", make(hf.MobileBertModel, hf.MobileBertConfig, **ENCODER, intra_bottleneck_size=16,
                              embedding_size=16, num_feedforward_networks=4),
           padded, STATES, [blocks("plain", "relu", 4 * LAYERS, 16)], "bottlenecks around every layer"),
    Family("mixtral", make(hf.MixtralForCausalLM, hf.MixtralConfig, **GROUPED, num_local_experts=4, num_experts_per_tok=2),
           padded, LOGITS, [], EXPERTS),
    Family("qwen3-moe", make(hf.Qwen3MoeForCausalLM, hf.Qwen3MoeConfig, **GROUPED, head_dim=8, num_experts=4,
                             num_experts_per_tok=2, moe_intermediate_size=48),
           padded, LOGITS, [], EXPERTS),
    Family("olmoe", make(hf.OlmoeForCausalLM, hf.OlmoeConfig, **GROUPED, num_experts=4, num_experts_per_tok=2),
           padded, LOGITS, [], EXPERTS),
    Family("megatron-gpt", make_megatron(gated=False), text, LOGITS, mlp_gelu),
    Family("megatron-gpt-swiglu", make_megatron(gated=True), text, LOGITS, [blocks("gated-fused", "silu")]),
]}
