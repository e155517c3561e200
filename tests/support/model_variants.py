"""The models that are compared with transformers: every family, and its switches one or two at a time.

`FULL_VARIANTS` are among them in the full run only.
"""

import os
from typing import Any

import pairwise
from model_families import EVEN, FAMILIES, ODD, SETTINGS

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
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
    **{f"{family}, odd sizes": (family, _sized(family, ODD)) for family in FAMILIES},
    **{f"{family}, even sizes": (family, _sized(family, EVEN)) for family in SETTINGS},
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
    "qwen3_moe, biases and even sizes": ("qwen3_moe", EVEN | {"attention_bias": True}),
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
