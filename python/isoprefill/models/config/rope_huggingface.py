"""Reads what a Hugging Face config.json says of RoPE."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from isoprefill.models.config import rope_scaling
from isoprefill.models.config.architectures import Architecture
from isoprefill.models.config.config import required
from isoprefill.models.config.rope_scaling import Rope


def rope_from_huggingface(
    config: Mapping[str, Any], architecture: Architecture, head_dim: int
) -> Rope:
    """Reads `rope_parameters`, or in older files `rope_theta`, `rope_scaling` and `rope_local_base_freq`.

    Raises:
        ValueError: a needed key is missing, or the scaling is of an unknown kind.
    """
    local_theta = None
    parameters: Mapping[str, Any] = config.get("rope_parameters") or {}
    if architecture.local_rope:
        local = parameters.get("sliding_attention") or {}
        if (local.get("rope_type") or "default") != "default":
            raise ValueError(
                f"rope scaling {local['rope_type']!r} of 'sliding_attention' layers is not supported"
            )
        local_theta = float(local.get("rope_theta") or config["rope_local_base_freq"])
        parameters = parameters.get("full_attention") or {}
    elif "full_attention" in parameters or "sliding_attention" in parameters:
        raise ValueError(
            f"rope_parameters of each kind of layers are not supported in a {config['model_type']} model"
        )
    scaling = parameters or config.get("rope_scaling") or architecture.defaults.get("rope_scaling")
    scaling = scaling or {}
    rope = Rope(
        theta=float(scaling.get("rope_theta") or config.get("rope_theta") or 10000.0),
        max_positions=required(config, "max_position_embeddings", int),
        local_theta=local_theta,
    )
    part = scaling.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0
    dim = head_dim
    if part != 1.0:
        if not architecture.partial_rotary:
            raise ValueError(f"partial_rotary_factor must be 1, got {part}")
        dim = int(head_dim * part)
        rope = dataclasses.replace(rope, rotated=dim)
    return _scaled(rope, config, scaling, architecture, dim)


def _scaled(
    rope: Rope,
    config: Mapping[str, Any],
    scaling: Mapping[str, Any],
    architecture: Architecture,
    dim: int,
) -> Rope:
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if architecture.partial_rotary and kind in ("su", "yarn"):
        kind = "longrope"  # older names in these files
    original = rope.max_positions
    for where in (config, scaling):
        if where.get("original_max_position_embeddings") is not None:
            original = required(where, "original_max_position_embeddings", int)
            break
    if original < 1:
        raise ValueError(f"original_max_position_embeddings must be at least 1, got {original}")

    def number(key: str, default: float | None = None) -> float | None:
        return default if scaling.get(key) is None else required(scaling, key, float)

    if kind == "default":
        return rope
    if kind == "dynamic":
        # transformers leaves the base as it is up to max_position_embeddings, and no text here is longer.
        required(scaling, "factor", float)
        return rope
    if kind == "linear":
        divisors = rope_scaling.linear(dim, required(scaling, "factor", float))
        return dataclasses.replace(rope, divisors=divisors)
    if kind == "llama3":
        divisors = rope_scaling.llama3(
            dim,
            rope.theta,
            factor=required(scaling, "factor", float),
            low_freq_factor=required(scaling, "low_freq_factor", float),
            high_freq_factor=required(scaling, "high_freq_factor", float),
            original_max_positions=original,
        )
        return dataclasses.replace(rope, divisors=divisors)
    if kind == "yarn":
        factor = number("factor", rope.max_positions / original)
        assert factor is not None
        divisors = rope_scaling.yarn(
            dim,
            rope.theta,
            factor=factor,
            original_max_positions=original,
            beta_fast=number("beta_fast") or 32.0,
            beta_slow=number("beta_slow") or 1.0,
            truncate=bool(scaling.get("truncate", True)),
        )
        given = number("attention_factor")
        if given is None:
            given = rope_scaling.yarn_attention_factor(
                factor, number("mscale"), number("mscale_all_dim")
            )
        return dataclasses.replace(rope, divisors=divisors, attention_factor=given)
    if kind == "longrope":
        factor = number("factor", rope.max_positions / original)
        assert factor is not None
        given = number("attention_factor")
        if given is None:
            given = rope_scaling.longrope_attention_factor(factor, original)
        short, long = (_divisors(scaling, key) for key in ("short_factor", "long_factor"))
        return dataclasses.replace(
            rope,
            divisors=short,
            attention_factor=given,
            max_positions=rope_scaling.longrope_positions(
                rope.max_positions, original, short == long
            ),
        )
    raise ValueError(
        f"rope scaling {kind!r} is not supported; supported: default, dynamic, linear, llama3, longrope, yarn"
    )


def _divisors(scaling: Mapping[str, Any], key: str) -> rope_scaling.Divisors:
    values = scaling.get(key)
    if not isinstance(values, list) or not all(type(value) in (int, float) for value in values):
        raise ValueError(f"rope scaling {key} must be a list of numbers, got {values!r}"[:200])
    return tuple(map(float, values))
