"""Reads what a GGUF file says of RoPE."""

from collections.abc import Mapping
from typing import Any

from isoprefill.models.config import rope_scaling
from isoprefill.models.config.architectures import Architecture
from isoprefill.models.config.config import required
from isoprefill.models.config.rope_scaling import Rope

_DIVISORS, _SHORT, _LONG = (
    "rope_freqs.weight",
    "rope_factors_short.weight",
    "rope_factors_long.weight",
)


def tensors_of(architecture: Architecture) -> tuple[str, ...]:
    """Returns the names of tensors with divisors of frequencies that an architecture's files may have."""
    return (_SHORT, _LONG) if architecture.partial_rotary else (_DIVISORS,)


def rope_from_gguf(
    metadata: Mapping[str, Any],
    tensors: Mapping[str, tuple[float, ...]],
    architecture: Architecture,
    gguf_name: str,
    head_dim: int,
) -> Rope:
    """Reads the keys under `rope.` and the tensors of `tensors_of`, as llama.cpp means them.

    Raises:
        ValueError: a needed key is missing, or the scaling is of an unknown kind.
    """

    def key(suffix: str) -> str:
        return f"{gguf_name}.{suffix}"

    def get(suffix: str) -> Any:
        return metadata.get(key(suffix))

    theta = float(get("rope.freq_base") or 10000.0)
    max_positions = required(metadata, key("context_length"), int)
    dim = get("rope.dimension_count") or head_dim
    if dim != head_dim and not architecture.partial_rotary:
        raise ValueError(f"{key('rope.dimension_count')} must equal head_dim {head_dim}, got {dim}")
    local = get("rope.freq_base_swa")
    if not architecture.local_rope and local not in (None, 0.0, theta):
        raise ValueError(f"{key('rope.freq_base_swa')} must be {theta} here, got {local!r}")
    divisors = tensors.get(_DIVISORS)
    attention_factor = float(get("rope.scaling.attn_factor") or 1.0)
    kind = get("rope.scaling.type") or "none"
    if kind in ("none", "longrope") and _SHORT in tensors:
        kind = "longrope"
        original = required(metadata, key("rope.scaling.original_context_length"), int)
        short, long = tensors[_SHORT], tensors.get(_LONG)
        max_positions = rope_scaling.longrope_positions(max_positions, original, short == long)
        scaled: rope_scaling.Divisors | None = short
    elif kind == "yarn":
        scaled, yarn_factor = _yarn(metadata, key, dim, theta, architecture)
        attention_factor *= yarn_factor
    else:
        factor = get("rope.scaling.factor") or get("rope.scale_linear") or 1.0
        if kind not in ("none", "linear"):
            raise ValueError(
                f"rope scaling {kind!r} is not supported; supported: none, linear, yarn, rope_freqs, and longrope in "
                "phi3"
            )
        linear = kind == "linear" or factor != 1.0
        kind = "linear" if linear else "none"
        scaled = rope_scaling.linear(dim, factor) if linear else None
    if divisors is not None and scaled is not None:
        raise ValueError(f"{_DIVISORS} together with {kind} rope scaling is not supported")
    return Rope(
        theta=theta,
        max_positions=max_positions,
        divisors=divisors if scaled is None else scaled,
        attention_factor=attention_factor,
        rotated=None if dim == head_dim else dim,
        local_theta=float(local or 10000.0) if architecture.local_rope else None,
    )


def _yarn(
    metadata: Mapping[str, Any],
    key: Any,
    dim: int,
    theta: float,
    architecture: Architecture,
) -> tuple[rope_scaling.Divisors, float]:
    """Returns YaRN's divisors and the factor of sine and cosine."""

    def get(suffix: str) -> Any:
        return metadata.get(key(f"rope.scaling.{suffix}"))

    factor = required(metadata, key("rope.scaling.factor"), float)
    divisors = rope_scaling.yarn(
        dim,
        theta,
        factor=factor,
        original_max_positions=required(metadata, key("rope.scaling.original_context_length"), int),
        beta_fast=float(get("yarn_beta_fast") or 32.0),
        beta_slow=float(get("yarn_beta_slow") or 1.0),
        truncate=architecture.gguf_yarn_truncated,
    )
    attention_factor = rope_scaling.yarn_attention_factor(factor)
    # Versions of llama.cpp differ in what they make of these.
    for suffix, plain in (
        ("yarn_ext_factor", (None, 1.0, -1.0)),
        ("yarn_log_multiplier", (None, 0.0)),
        ("yarn_attn_factor", (None, 1.0)),
    ):
        if (found := get(suffix)) not in plain:
            raise ValueError(f"{key('rope.scaling.' + suffix)} must be {plain[-1]}, got {found}")
    return divisors, attention_factor
