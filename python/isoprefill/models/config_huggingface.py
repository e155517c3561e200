"""Reads a model's configuration from a Hugging Face config.json."""

from collections.abc import Mapping
from typing import Any

from isoprefill.models import rope
from isoprefill.models.architectures import Switch, find_architecture
from isoprefill.models.classes import classes_from_huggingface
from isoprefill.models.config import ModelConfig, check_sliding_window, required


def config_from_huggingface(config: Mapping[str, Any]) -> ModelConfig:
    """Builds the configuration from the contents of a Hugging Face config.json.

    Args:
        config: the parsed file, in the form that transformers 4 or 5 writes.

    Raises:
        ValueError: the architecture is not supported, a needed key is missing, or the model uses something that the
            decoder does not compute (a sliding window, an unknown RoPE scaling, another activation, quantised weights).
    """
    name: Any = config.get("model_type")
    architecture = find_architecture(name)

    def is_on(switch: Switch) -> bool:
        return bool(config.get(switch)) if isinstance(switch, str) else switch

    max_positions = required(config, "max_position_embeddings", int)
    if config.get("quantization_config"):
        raise ValueError(
            "quantization_config: quantised Hugging Face checkpoints are not supported"
        )
    activation = config.get("hidden_act", "silu")
    if activation != "silu":
        raise ValueError(f"hidden_act {activation!r} is not supported; supported: silu")
    if config.get("mlp_bias"):
        raise ValueError(
            "mlp_bias = true is not supported: the feed-forward projections have no bias here"
        )
    if is_on(architecture.sliding_window):
        # An absent key is transformers' default; only null means no window.
        window = config.get("sliding_window", architecture.default_window)
        check_sliding_window(window, max_positions)
    for layer_type in config.get("layer_types") or ():
        if layer_type != "full_attention":
            raise ValueError(f"layer_types must all be 'full_attention', got {layer_type!r}")

    hidden_size = required(config, "hidden_size", int)
    num_query_heads = required(config, "num_attention_heads", int)
    head_dim = config.get("head_dim")
    if head_dim is None:
        head_dim = architecture.default_head_dim or hidden_size // (num_query_heads or 1)
    rope_theta, divisors = _rope_from_huggingface(config, head_dim)
    return ModelConfig(
        architecture=name,
        vocab_size=required(config, "vocab_size", int),
        hidden_size=hidden_size,
        intermediate_size=required(config, "intermediate_size", int),
        num_layers=required(config, "num_hidden_layers", int),
        num_query_heads=num_query_heads,
        num_kv_heads=config.get("num_key_value_heads") or num_query_heads,
        head_dim=head_dim,
        rms_norm_eps=float(config.get("rms_norm_eps", 1e-6)),
        rope_theta=rope_theta,
        max_positions=max_positions,
        rope_frequency_divisors=divisors,
        tied_head=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=is_on(architecture.qkv_bias),
        output_bias=is_on(architecture.output_bias),
        qk_norm=architecture.qk_norm,
        classes=classes_from_huggingface(config),
    )


def _rope_from_huggingface(
    config: Mapping[str, Any], head_dim: int
) -> tuple[float, tuple[float, ...] | None]:
    """Returns base and divisors: from `rope_parameters`, or in older files from `rope_theta` and `rope_scaling`."""
    scaling: Mapping[str, Any] = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = float(scaling.get("rope_theta") or config.get("rope_theta") or 10000.0)
    rotated = scaling.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0
    if rotated != 1.0:
        raise ValueError(f"partial_rotary_factor must be 1, got {rotated}")
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if kind == "default":
        return theta, None
    if kind == "linear":
        return theta, rope.linear_divisors(head_dim, required(scaling, "factor", float))
    if kind == "llama3":
        return theta, rope.llama3_divisors(
            head_dim,
            theta,
            factor=required(scaling, "factor", float),
            low_freq_factor=required(scaling, "low_freq_factor", float),
            high_freq_factor=required(scaling, "high_freq_factor", float),
            original_max_positions=required(scaling, "original_max_position_embeddings", int),
        )
    raise ValueError(f"rope scaling {kind!r} is not supported; supported: default, linear, llama3")
