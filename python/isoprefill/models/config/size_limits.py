"""Sizes that no model has: a configuration with one is damaged, and lists of that length would be made of it."""

from collections.abc import Mapping
from typing import Any

# The least and the most, by the last words of the keys in config.json and in a GGUF file's metadata.
_HUGE = 1 << 24
_LIMITS = {
    **dict.fromkeys(("num_hidden_layers", "block_count"), (1, 10_000)),
    **dict.fromkeys(("hidden_size", "embedding_length", "intermediate_size"), (1, _HUGE)),
    **dict.fromkeys(("moe_intermediate_size", "expert_feed_forward_length"), (0, _HUGE)),
    **dict.fromkeys(("num_experts_per_tok", "expert_used_count"), (0, 65_536)),
    **dict.fromkeys(("vocab_size", "max_position_embeddings", "context_length"), (1, 2**31 - 1)),
    **dict.fromkeys(("num_attention_heads", "attention.head_count"), (1, 65_536)),
    **dict.fromkeys(("num_key_value_heads", "attention.head_count_kv"), (0, 65_536)),
    **dict.fromkeys(("head_dim", "attention.key_length", "rope.dimension_count"), (0, 65_536)),
    **dict.fromkeys(("num_local_experts", "num_experts", "expert_count"), (0, 65_536)),
}


def check_sizes(settings: Mapping[str, Any], prefix: str = "") -> None:
    """Raises ValueError if a size is beyond all reason; names its key, its value and the limits."""
    for key, (least, most) in _LIMITS.items():
        value = settings.get(prefix + key)
        if isinstance(value, int | float) and not least <= value <= most:
            raise ValueError(
                f"the model's {prefix}{key} must be from {least} to {most}, got {str(value)[:40]}"
            )
