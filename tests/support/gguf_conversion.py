"""What llama.cpp's converter makes of a model: names, order and sums of tensors, and keys of the configuration.

It is written out here, not taken from the product's tables, which it judges.
"""

import math
from typing import Any

import gguf
import numpy as np
import torch
import transformers

from byte_level_tokenizer import byte_alphabet

GGUF_NAMES = {
    "mistral": "llama",
    "mixtral": "llama",
    "qwen3_moe": "qwen3moe",
    "gemma3_text": "gemma3",
    "gpt_oss": "gpt-oss",
}
# GGUF's architectures whose rows of q and k it reorders, and those whose norms it adds 1 to.
INTERLEAVED = ("llama", "granite", "smollm3")
NORMS_FROM_ONE = ("gemma", "gemma2", "gemma3")


def converted_keys(config: transformers.PreTrainedConfig, arch: str) -> dict[str, Any]:
    """Returns the keys of a file, those of a byte-level tokenizer among them.

    Args:
        config: from `small_config`.
        arch: the architecture's name in GGUF.
    """
    tokens = [*byte_alphabet(), "<s>", "ĠĠ"]
    tokens += [f"[PAD{index}]" for index in range(len(tokens), config.vocab_size)]
    metadata: dict[str, Any] = {
        f"{arch}.context_length": config.max_position_embeddings,
        f"{arch}.embedding_length": config.hidden_size,
        f"{arch}.block_count": config.num_hidden_layers,
        f"{arch}.feed_forward_length": config.intermediate_size,
        f"{arch}.attention.head_count": config.num_attention_heads,
        f"{arch}.attention.head_count_kv": config.num_key_value_heads,
        f"{arch}.attention.key_length": config.head_dim,
        f"{arch}.attention.value_length": config.head_dim,
        f"{arch}.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * 256 + [3, 1] + [5] * (config.vocab_size - 258),
        "tokenizer.ggml.merges": ["Ġ Ġ"],
        "tokenizer.ggml.bos_token_id": 256,
    }
    of_arch = _rope_keys(config) | _scale_keys(config)
    return metadata | {f"{arch}.{key}": value for key, value in of_arch.items()}


def _rope_keys(config: transformers.PreTrainedConfig) -> dict[str, Any]:
    by_kind = config.rope_parameters
    rope = by_kind.get("full_attention", by_kind)
    keys: dict[str, Any] = {"rope.freq_base": float(rope["rope_theta"])}
    if "sliding_attention" in by_kind:
        keys["rope.freq_base_swa"] = float(by_kind["sliding_attention"]["rope_theta"])
        sliding = [kind == "sliding_attention" for kind in config.layer_types]
        keys["attention.sliding_window_pattern"] = sliding
    if rope["rope_type"] in ("linear", "yarn"):
        keys["rope.scaling.type"] = rope["rope_type"]
        keys["rope.scaling.factor"] = float(rope["factor"])
    original = rope.get("original_max_position_embeddings")
    if rope["rope_type"] == "yarn":
        keys["rope.scaling.original_context_length"] = original
        for beta in ("beta_fast", "beta_slow"):
            if rope.get(beta) is not None:
                keys[f"rope.scaling.yarn_{beta}"] = float(rope[beta])
    if config.model_type == "phi3":
        keys["rope.dimension_count"] = int(config.head_dim * rope["partial_rotary_factor"])
        keys["rope.scaling.original_context_length"] = config.original_max_position_embeddings
    if rope["rope_type"] == "longrope":
        stretched = config.max_position_embeddings / original
        keys["rope.scaling.attn_factor"] = math.sqrt(1 + math.log(stretched) / math.log(original))
    return keys


def _scale_keys(config: transformers.PreTrainedConfig) -> dict[str, Any]:
    names = {
        "sliding_window": "attention.sliding_window",
        "attn_logit_softcapping": "attn_logit_softcapping",
        "final_logit_softcapping": "final_logit_softcapping",
        "attention_multiplier": "attention.scale",
        "embedding_multiplier": "embedding_scale",
        "residual_multiplier": "residual_scale",
        "logits_scaling": "logit_scale",
        "num_local_experts": "expert_count",
        "num_experts_per_tok": "expert_used_count",
        "moe_intermediate_size": "expert_feed_forward_length",
    }
    values = {key: getattr(config, name, None) for name, key in names.items()}
    if config.model_type == "gpt_oss":  # which has one width in config.json
        values["expert_feed_forward_length"] = config.intermediate_size
    return {key: value for key, value in values.items() if value is not None}


def converted_tensors(model: torch.nn.Module, arch: str) -> dict[str, np.ndarray]:
    """Returns a model's tensors by their names in GGUF, as the converter reorders and adds them up."""
    config = model.config
    architecture = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == arch)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    tensors = {}
    for name, parameter in model.state_dict().items():
        values = parameter.numpy()
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if arch in NORMS_FROM_ONE and name.endswith("norm.weight"):
            values = values + 1
        if arch in INTERLEAVED and ".q_proj." in name:
            values = _interleave(values, config.num_attention_heads)
        if arch in INTERLEAVED and ".k_proj." in name:
            values = _interleave(values, config.num_key_value_heads)
        if name.startswith("score."):
            tensors[name.replace("score", "cls.output")] = values
            continue
        if ".experts." in name:
            tensors |= _expert_tensors(name, values, arch)
            continue
        name = name.replace(".sinks", ".sinks.weight")
        tensors[names.get_name(name, try_suffixes=(".weight", ".bias")) or name] = values
    rope = config.rope_parameters
    for length in ("short", "long") if rope.get("rope_type") == "longrope" else ():
        factors = np.asarray(rope[f"{length}_factor"], np.float32)
        tensors[f"rope_factors_{length}.weight"] = factors
    return tensors


def _expert_tensors(name: str, values: np.ndarray, arch: str) -> dict[str, np.ndarray]:
    """gpt-oss has gate and up column by column in turn, the others one after another, as rows."""
    layer, kind = name.split(".")[2], "bias" if name.endswith("_bias") else "weight"
    if arch == "gpt-oss" and kind == "weight":
        values = values.swapaxes(1, 2)
    if ".down_proj" in name:
        parts = {"down": values}
    elif arch == "gpt-oss":
        parts = {"gate": values[:, ::2], "up": values[:, 1::2]}
    else:
        parts = dict(zip(("gate", "up"), np.split(values, 2, axis=1), strict=True))
    return {
        f"blk.{layer}.ffn_{part}_exps.{kind}": np.ascontiguousarray(one)
        for part, one in parts.items()
    }


def _interleave(rows: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's order: the rows i and i + head_dim / 2 of a head become neighbours."""
    halves = rows.reshape(heads, 2, -1, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)
