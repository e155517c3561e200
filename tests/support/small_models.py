"""Small random models, saved by transformers as Hugging Face directories or by gguf as GGUF files.

Every parameter is random, norms and biases included, so that a loader or decoder that drops or
swaps one is seen.
"""

import json
import math
import os
from pathlib import Path
from typing import Any

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers

import pairwise
from isoprefill.models.config.architectures import ARCHITECTURES
from isoprefill.models.pretrained import load_pretrained
from isoprefill.models.weights.packed_weights import PackedWeights, unpack
from isoprefill.models.weights.params import Params

# Beside other work, two threads wait for each other longer than a small model takes.
torch.set_num_threads(1)

VOCAB_SIZE = 300  # 256 bytes, one special token, the rest unused


LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FAMILIES = tuple(ARCHITECTURES)
_ODD = {
    "hidden_size": 66,
    "intermediate_size": 75,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 22,
}
_EVEN = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 24,
}
# What a family's small model has instead of what all have: no number is one that changes nothing.
SETTINGS: dict[str, dict[str, Any]] = {
    "gemma": _ODD | {"tie_word_embeddings": True},
    "gemma2": {
        "attention_bias": True,
        "tie_word_embeddings": True,
        "query_pre_attn_scalar": 24,
        "attn_logit_softcapping": 3.0,
        "final_logit_softcapping": 6.0,
        "sliding_window": 20,
    },
    "gemma3_text": _ODD
    | {
        "tie_word_embeddings": True,
        "query_pre_attn_scalar": 22,
        "sliding_window": 20,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 700.0},
            "full_attention": {"rope_type": "linear", "rope_theta": 5e4, "factor": 3.0},
        },
    },
    "phi3": _ODD,
    "olmo2": {"num_attention_heads": 9, "num_key_value_heads": 3},
    "granite": _ODD
    | {
        "attention_bias": True,
        "attention_multiplier": 0.3,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.4,
        "logits_scaling": 0.7,
    },
    "smollm3": {"num_hidden_layers": 5, "no_rope_layer_interval": 4},
    "qwen3_moe": _ODD
    | {
        "moe_intermediate_size": 35,
        "num_experts": 7,
        "num_experts_per_tok": 3,
        "norm_topk_prob": True,
    },
    "mixtral": _ODD | {"num_local_experts": 5, "num_experts_per_tok": 2},
    "gpt_oss": _ODD
    | {
        "num_local_experts": 5,
        "num_experts_per_tok": 3,
        "sliding_window": 20,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 4.0,
            "original_max_position_embeddings": 128,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "truncate": False,
        },
    },
}


def _sized(family: str, sizes: dict[str, Any]) -> dict[str, Any]:
    if "query_pre_attn_scalar" not in SETTINGS.get(family, {}):
        return sizes
    return sizes | {"query_pre_attn_scalar": sizes["head_dim"]}


_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0 + 0.1 * i for i in range(11)],
    "long_factor": [2.0 + 0.3 * i for i in range(11)],
}
# What is compared with transformers: family, and arguments of its configuration. Every family is here.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{family: (family, {}) for family in FAMILIES},
    "llama, tied head": ("llama", {"tie_word_embeddings": True}),
    "llama, biases": ("llama", {"attention_bias": True}),
    "llama, one KV head": ("llama", {"num_key_value_heads": 1}),
    "llama, linear rope": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}},
    ),
    "llama, llama3 rope": ("llama", {"rope_parameters": LLAMA3_ROPE}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral, wide window": ("mistral", {"sliding_window": 512}),
    "qwen2, tied head": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2, window switched off": ("qwen2", {"sliding_window": 64, "use_sliding_window": False}),
    "qwen3": ("qwen3", {"tie_word_embeddings": True}),
    "qwen3, biases": ("qwen3", {"attention_bias": True}),
    "qwen3, yarn": (
        "qwen3",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1e4,
                "factor": 4.0,
                "original_max_position_embeddings": 128,
            }
        },
    ),
    "qwen3_moe, shares as they are": ("qwen3_moe", {"norm_topk_prob": False}),
    "phi3, partial rope": ("phi3", {"head_dim": 16, "partial_rotary_factor": 0.5}),
    "phi3, longrope": (
        "phi3",
        {
            "rope_parameters": _LONGROPE,
            "original_max_position_embeddings": 128,
        },
    ),
}
# What takes too long for every run: switches by two, other sizes.
FULL_VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, yarn of its own": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 500.0,
                "factor": 3.0,
                "original_max_position_embeddings": 170,
                "attention_factor": 0.7,
                "beta_fast": 20.0,
                "beta_slow": 2.0,
                "truncate": False,
            }
        },
    ),
    "qwen2, dynamic rope": (
        "qwen2",
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}},
    ),
    **{f"{family}, odd sizes": (family, _sized(family, _ODD)) for family in FAMILIES},
    **{f"{family}, even sizes": (family, _sized(family, _EVEN)) for family in SETTINGS},
    **{
        f"{family}, {'untied' if family.startswith('gemma') else 'tied'} head": (
            family,
            {"tie_word_embeddings": not family.startswith("gemma")},
        )
        for family in SETTINGS
    },
    **{
        f"{family}, biases": (family, {"attention_bias": True})
        for family in SETTINGS
        if family not in ("phi3", "mixtral")
    },
    "gemma, heads of 256": ("gemma", {"head_dim": 256}),
    "gemma2, wide queries": ("gemma2", {"query_pre_attn_scalar": 40}),
    "gemma2, no caps": (
        "gemma2",
        {"attn_logit_softcapping": None, "final_logit_softcapping": None},
    ),
    "qwen3_moe, biases and even sizes": ("qwen3_moe", _EVEN | {"attention_bias": True}),
    "qwen3_moe, every expert": ("qwen3_moe", {"num_experts_per_tok": 7}),
    "mixtral, one expert a row": ("mixtral", {"num_experts_per_tok": 1}),
    "mixtral, its window": ("mixtral", {"sliding_window": 20, "tie_word_embeddings": True}),
    "qwen3_moe, its window": ("qwen3_moe", {"sliding_window": 20, "use_sliding_window": True}),
    "smollm3, listed layers": ("smollm3", {"no_rope_layers": [0, 1, 1, 0, 1]}),
}
if pairwise.FULL in os.environ:
    VARIANTS |= FULL_VARIANTS
# What llama.cpp has no keys for, or no converter.
_NOT_IN_GGUF = ("query_pre_attn_scalar", "no_rope_layers", "use_sliding_window")
_NAMES_NOT_IN_GGUF = (
    *("llama3 rope", "of its own", "gemma, untied head", "gemma2, untied head"),
    *("shares as they are", "its window"),
)
# The same from a GGUF file.
GGUF_VARIANTS = {
    name: (family, overrides)
    for name, (family, overrides) in VARIANTS.items()
    if not set(overrides) & set(_NOT_IN_GGUF) and not name.endswith(_NAMES_NOT_IN_GGUF)
}
# What is of llama.cpp's converter here is not from the table, which this judges.
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


def small_config(family: str, **overrides: Any) -> transformers.PreTrainedConfig:
    """Makes a configuration: 3 layers, 4 query and 2 KV heads of 24 (not 64 / 4), 64 wide.

    Args:
        family: one of FAMILIES.
        **overrides: arguments of the family's transformers configuration.
    """
    settings = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 24,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
        "rms_norm_eps": 1e-5,
        "bos_token_id": 256,
        "eos_token_id": 256,
        "pad_token_id": 256,
    }
    return transformers.AutoConfig.for_model(
        family, **settings | SETTINGS.get(family, {}) | overrides
    )


def random_model(family: str, **overrides: Any) -> torch.nn.Module:
    """Makes a random model of `small_config`, float32."""
    config = small_config(family, **overrides)
    config._attn_implementation = config._experts_implementation = "eager"
    return _randomised(transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32))


def random_classifier(family: str, bias: bool = False, **overrides: Any) -> torch.nn.Module:
    """Makes a random `…ForSequenceClassification` of `small_config`, float32.

    Args:
        family: one of FAMILIES.
        bias: give the head one, which transformers' own heads do not have.
        **overrides: arguments of the configuration, `num_labels`, `id2label` and `problem_type` among them.
    """
    config = small_config(family, **overrides)
    config._attn_implementation = config._experts_implementation = "eager"
    kind = transformers.AutoModelForSequenceClassification
    model = kind.from_config(config, dtype=torch.float32)
    if bias:
        model.score = torch.nn.Linear(config.hidden_size, config.num_labels)
    return _randomised(model)


def _randomised(model: torch.nn.Module) -> torch.nn.Module:
    """Returns the model with every parameter random: norms about 1, all else about 0."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1.0 + 0.2 * noise if "norm" in name else _scale_of(name) * noise)
    return model.eval()


def _scale_of(parameter: str) -> float:
    """Biases so large that gates are clamped, sinks so large that they differ; all else is small."""
    scales = {"gate_up_proj_bias": 4.0, "sinks": 1.0}
    return next((scale for end, scale in scales.items() if parameter.endswith(end)), 0.12)


def save_directory(
    model: torch.nn.Module,
    directory: Path,
    max_shard_size: str = "1GB",
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Saves a model and its tokenizer as a Hugging Face directory; returns the directory.

    With a narrower dtype the model's own parameters are rounded too, so that it stays the oracle.
    """
    tied = model.config.tie_word_embeddings
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(dtype))
    stored = {
        name: parameter.to(dtype)
        for name, parameter in model.state_dict().items()
        if not (tied and name == "lm_head.weight")
    }
    model.save_pretrained(directory, state_dict=stored, max_shard_size=max_shard_size)
    byte_tokenizer().save(str(directory / "tokenizer.json"))
    tokenizer_config = {"bos_token": "<s>", "add_bos_token": False}
    (directory / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    return directory


def unpacked(params: Params) -> Params:
    """Returns weights as plain arrays, as devices other than a CPU have them."""

    def plain(weights: Any) -> Any:
        array = unpack(weights) if isinstance(weights, PackedWeights) else np.asarray(weights)
        return jnp.asarray(array.view(jnp.bfloat16) if array.dtype == np.uint16 else array)

    return jax.tree.map(plain, params, is_leaf=lambda leaf: isinstance(leaf, PackedWeights))


def byte_tokenizer() -> tokenizers.Tokenizer:
    """A tokenizer with a token for each byte and "<s>" (256)."""
    vocab = {token: index for index, token in enumerate(byte_alphabet())}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>"])
    return tokenizer


def byte_alphabet() -> list[str]:
    """The 256 characters that stand for bytes in byte-level BPE, in a fixed order."""
    return sorted(pre_tokenizers.ByteLevel.alphabet())


def save_gguf(
    model: torch.nn.Module,
    path: Path,
    quantization: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    extra_metadata: dict[str, Any] | None = None,
    extra_tensors: dict[str, np.ndarray] | None = None,
    packed: dict[str, tuple[np.ndarray, gguf.GGMLQuantizationType]] | None = None,
    leave_out: str | None = None,
) -> Path:
    """Writes a GGUF file with the names, order and head layout of llama.cpp's converter.

    Args:
        model: from `random_model`.
        path: the file to write.
        quantization: of the matrices; norms and biases are float32, as llama.cpp has them.
        extra_metadata: more key-value pairs; they win over the model's.
        extra_tensors: more tensors; they win over the model's.
        packed: the same as bytes of a quantisation.
        leave_out: name of a tensor to leave out.
    """
    config = model.config
    arch = GGUF_NAMES.get(config.model_type, config.model_type)
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
    metadata |= {f"{arch}.{key}": value for key, value in _gguf_rope(config).items()}
    metadata |= {f"{arch}.{key}": value for key, value in _gguf_scales(config).items()}
    writer = gguf.GGUFWriter(path, arch)
    for key, value in (metadata | (extra_metadata or {})).items():
        _add_metadata(writer, key, value)
    for name, values in (_gguf_tensors(model, arch) | (extra_tensors or {})).items():
        if name == leave_out or name in (packed or {}):
            continue
        # The router stays wide, and so do biases, of which each expert has a row.
        narrow = values.ndim > 1 and "ffn_gate_inp" not in name and not name.endswith(".bias")
        kind = quantization if narrow else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    for name, (values, kind) in (packed or {}).items():
        writer.add_tensor(name, values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _gguf_rope(config: transformers.PreTrainedConfig) -> dict[str, Any]:
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


def _gguf_scales(config: transformers.PreTrainedConfig) -> dict[str, Any]:
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


def _gguf_tensors(model: torch.nn.Module, arch: str) -> dict[str, np.ndarray]:
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
            tensors |= _gguf_experts(name, values, arch)
            continue
        name = name.replace(".sinks", ".sinks.weight")
        tensors[names.get_name(name, try_suffixes=(".weight", ".bias")) or name] = values
    rope = config.rope_parameters
    for length in ("short", "long") if rope.get("rope_type") == "longrope" else ():
        factors = np.asarray(rope[f"{length}_factor"], np.float32)
        tensors[f"rope_factors_{length}.weight"] = factors
    return tensors


def _gguf_experts(name: str, values: np.ndarray, arch: str) -> dict[str, np.ndarray]:
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


def _add_metadata(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_string(key, value)


def assert_refused(source: object, message: str, **options: str) -> None:
    """Asserts that a model does not load, and that one line says why."""
    with pytest.raises(ValueError, match=message) as raised:
        load_pretrained(source, **options)
    assert "\n" not in str(raised.value)
