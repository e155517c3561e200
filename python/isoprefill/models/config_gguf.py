"""Reads a model's configuration from a GGUF file's metadata."""

from collections.abc import Container, Mapping
from typing import Any

from isoprefill.models import rope
from isoprefill.models.architectures import find_architecture
from isoprefill.models.config import ModelConfig, check_sliding_window, required
from isoprefill.models.parameters import PARAMETERS


def config_from_gguf(
    metadata: Mapping[str, Any],
    tensors: Container[str],
    frequency_divisors: tuple[float, ...] | None,
) -> ModelConfig:
    """Builds the configuration from a GGUF file's metadata and from which optional tensors it has.

    Args:
        metadata: the file's key-value pairs.
        tensors: the names of its tensors.
        frequency_divisors: its `rope_freqs.weight`, if it has one.

    Raises:
        ValueError: as for `config_from_huggingface`.
    """
    name: Any = metadata.get("general.architecture")
    architecture = find_architecture(name)

    def key(suffix: str) -> str:
        return f"{name}.{suffix}"

    def get(suffix: str) -> Any:
        return metadata.get(key(suffix))

    def has(field: str) -> bool:
        return PARAMETERS[field].gguf.format(layer=0) in tensors

    max_positions = required(metadata, key("context_length"), int)
    check_sliding_window(get("attention.sliding_window"), max_positions)
    hidden_size = required(metadata, key("embedding_length"), int)
    num_query_heads = required(metadata, key("attention.head_count"), int)
    head_dim = get("attention.key_length") or hidden_size // (num_query_heads or 1)
    if experts := get("expert_count"):
        raise ValueError(
            f"{key('expert_count')} must be 0, got {experts}: mixtures of experts are not supported"
        )
    for suffix, equal in (
        ("attention.value_length", "the key length"),
        ("rope.dimension_count", "head_dim"),
    ):
        if (found := get(suffix) or head_dim) != head_dim:
            raise ValueError(f"{key(suffix)} must equal {equal} {head_dim}, got {found}")
    scaling = get("rope.scaling.type") or "none"
    factor = get("rope.scaling.factor") or get("rope.scale_linear") or 1.0
    if scaling == "linear" or (scaling == "none" and factor != 1.0):
        if frequency_divisors is not None:
            raise ValueError("rope_freqs.weight together with linear rope scaling is not supported")
        frequency_divisors = rope.linear_divisors(head_dim, factor)
    elif scaling != "none":
        raise ValueError(
            f"rope scaling {scaling!r} is not supported; supported: none, linear, rope_freqs"
        )
    return ModelConfig(
        architecture=name,
        vocab_size=get("vocab_size") or len(metadata.get("tokenizer.ggml.tokens", ())),
        hidden_size=hidden_size,
        intermediate_size=required(metadata, key("feed_forward_length"), int),
        num_layers=required(metadata, key("block_count"), int),
        num_query_heads=num_query_heads,
        num_kv_heads=get("attention.head_count_kv") or num_query_heads,
        head_dim=head_dim,
        rms_norm_eps=required(metadata, key("attention.layer_norm_rms_epsilon"), float),
        rope_theta=float(get("rope.freq_base") or 10000.0),
        max_positions=max_positions,
        rope_frequency_divisors=frequency_divisors,
        tied_head=not has("head"),
        qkv_bias=has("query_bias"),
        output_bias=has("output_bias"),
        qk_norm=architecture.qk_norm,
    )
