"""Sizes beyond which a configuration is damaged: no model has them, and lists of that length are made of them."""

from collections.abc import Mapping
from typing import Any

# The last words of keys in config.json and in a GGUF file's metadata.
_MOST = {
    "num_hidden_layers": 10_000,
    "block_count": 10_000,
    "head_dim": 65_536,
    "hidden_size": 1 << 24,
    "embedding_length": 1 << 24,
    "attention.key_length": 65_536,
    "rope.dimension_count": 65_536,
    "num_local_experts": 65_536,
    "num_experts": 65_536,
    "expert_count": 65_536,
}


def check_sizes(settings: Mapping[str, Any], prefix: str = "") -> None:
    """Raises ValueError if a size is beyond all reason; names its key, its value and the limit."""
    for key, most in _MOST.items():
        value = settings.get(prefix + key)
        if isinstance(value, int | float) and not abs(value) <= most:
            raise ValueError(f"the model's {prefix}{key} must be at most {most}, got {value}")
