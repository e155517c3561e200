"""The families of models, and what their small models have of their own."""

from typing import Any

from isoprefill.models.config.architectures import ARCHITECTURES

FAMILIES = tuple(ARCHITECTURES)
ODD = {
    "hidden_size": 66,
    "intermediate_size": 75,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 22,
}
EVEN = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 24,
}
# What a family's small model has instead of what all have: no number is one that changes nothing.
SETTINGS: dict[str, dict[str, Any]] = {
    "gemma": ODD | {"tie_word_embeddings": True},
    "gemma2": {
        "attention_bias": True,
        "tie_word_embeddings": True,
        "query_pre_attn_scalar": 24,
        "attn_logit_softcapping": 3.0,
        "final_logit_softcapping": 6.0,
        "sliding_window": 20,
    },
    "gemma3_text": ODD
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
    "phi3": ODD,
    "olmo2": {"num_attention_heads": 9, "num_key_value_heads": 3},
    "granite": ODD
    | {
        "attention_bias": True,
        "attention_multiplier": 0.3,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.4,
        "logits_scaling": 0.7,
    },
    "smollm3": {"num_hidden_layers": 5, "no_rope_layer_interval": 4},
    "qwen3_moe": ODD
    | {
        "moe_intermediate_size": 35,
        "num_experts": 7,
        "num_experts_per_tok": 3,
        "norm_topk_prob": True,
    },
    "mixtral": ODD | {"num_local_experts": 5, "num_experts_per_tok": 2},
    "gpt_oss": ODD
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
