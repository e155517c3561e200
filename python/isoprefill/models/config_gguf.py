"""Reads a model's configuration from a GGUF file's metadata."""

from collections.abc import Mapping
from typing import Any

from isoprefill.models import rope_scaling
from isoprefill.models.config import (
    ModelConfig,
    check_architecture,
    check_sliding_window,
    required,
)


def config_from_gguf(
    metadata: Mapping[str, Any],
    *,
    tied_head: bool,
    qkv_bias: bool,
    output_bias: bool,
    frequency_divisors: tuple[float, ...] | None,
) -> ModelConfig:
    """Builds the configuration from a GGUF file's metadata and from which optional tensors it has.

    Args:
        metadata: the file's key-value pairs.
        tied_head: the file has no head of its own.
        qkv_bias: the file has biases for q, k and v.
        output_bias: the file has a bias for the attention's output.
        frequency_divisors: the file's `rope_freqs.weight`, if it has one.

    Raises:
        ValueError: as for `config_from_huggingface`.
    """
    architecture = metadata.get("general.architecture")
    check_architecture(architecture)
    assert isinstance(architecture, str)

    def key(name: str) -> str:
        return f"{architecture}.{name}"

    max_positions = required(metadata, key("context_length"), int)
    check_sliding_window(metadata.get(key("attention.sliding_window")), max_positions)
    experts = metadata.get(key("expert_count"), 0)
    if experts:
        raise ValueError(
            f"{key('expert_count')} must be 0, got {experts}: mixtures of experts are not supported"
        )
    hidden_size = required(metadata, key("embedding_length"), int)
    num_query_heads = required(metadata, key("attention.head_count"), int)
    head_dim = metadata.get(key("attention.key_length")) or hidden_size // num_query_heads
    value_dim = metadata.get(key("attention.value_length")) or head_dim
    if value_dim != head_dim:
        raise ValueError(
            f"{key('attention.value_length')} must equal the key length {head_dim}, got {value_dim}"
        )
    rotated = metadata.get(key("rope.dimension_count")) or head_dim
    if rotated != head_dim:
        raise ValueError(
            f"{key('rope.dimension_count')} must equal head_dim {head_dim}, got {rotated}"
        )
    scaling = metadata.get(key("rope.scaling.type")) or "none"
    factor = (
        metadata.get(key("rope.scaling.factor")) or metadata.get(key("rope.scale_linear")) or 1.0
    )
    if scaling == "linear" or (scaling == "none" and factor != 1.0):
        if frequency_divisors is not None:
            raise ValueError("rope_freqs.weight together with linear rope scaling is not supported")
        frequency_divisors = rope_scaling.linear_divisors(head_dim, factor)
    elif scaling != "none":
        raise ValueError(
            f"rope scaling {scaling!r} is not supported; supported: none, linear, rope_freqs"
        )
    vocab_size = metadata.get(key("vocab_size")) or len(metadata.get("tokenizer.ggml.tokens", ()))
    return ModelConfig(
        architecture=architecture,
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=required(metadata, key("feed_forward_length"), int),
        num_layers=required(metadata, key("block_count"), int),
        num_query_heads=num_query_heads,
        num_kv_heads=metadata.get(key("attention.head_count_kv")) or num_query_heads,
        head_dim=head_dim,
        rms_norm_eps=required(metadata, key("attention.layer_norm_rms_epsilon"), float),
        rope_theta=float(metadata.get(key("rope.freq_base")) or 10000.0),
        max_positions=max_positions,
        rope_frequency_divisors=frequency_divisors,
        tied_head=tied_head,
        qkv_bias=qkv_bias,
        output_bias=output_bias,
        qk_norm=architecture == "qwen3",
    )
