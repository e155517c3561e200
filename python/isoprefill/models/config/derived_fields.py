"""Fields of a configuration that follow in the same way from config.json and from a GGUF file's metadata."""

from collections.abc import Sequence
from typing import Any

from isoprefill.models.config.architectures import Architecture
from isoprefill.models.config.config import LayerRope
from isoprefill.models.config.rope_scaling import Rope
from isoprefill.models.config.windows import effective_windows


def derived_fields(
    architecture: Architecture,
    rope: Rope,
    *,
    unrotated: Sequence[bool],
    sliding: Sequence[bool],
    window: int | None,
) -> dict[str, Any]:
    """Returns the fields of `ModelConfig`: of RoPE, of windows, and of what an architecture always has.

    Args:
        architecture: its row.
        rope: as the file says it.
        unrotated: which layers are without RoPE.
        sliding: which layers are of the kind that a window is for.
        window: the file's, or None.
    """
    effective, windowed_layers = effective_windows(window, sliding, rope.max_positions)
    layer_ropes: tuple[LayerRope, ...] | None = None
    if any(unrotated):
        layer_ropes = tuple("none" if off else "global" for off in unrotated)
    elif architecture.local_rope:
        layer_ropes = tuple("local" if on else "global" for on in sliding)
    return {
        "rope_theta": rope.theta,
        "max_positions": rope.max_positions,
        "rope_frequency_divisors": rope.divisors,
        "rotated": rope.rotated,
        "rope_attention_factor": rope.attention_factor,
        "local_rope_theta": rope.local_theta,
        "layer_ropes": layer_ropes,
        "sliding_window": effective,
        "windowed_layers": windowed_layers,
        "qk_norm": architecture.qk_norm,
        "projection_norm": architecture.projection_norm,
        "pre_norms": architecture.pre_norms,
        "post_norms": architecture.post_norms,
    }
