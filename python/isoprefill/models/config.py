"""What a decoder looks like: sizes and switches, with no weights.

`ModelConfig` is frozen and hashable, so it can be a static argument of a jitted function. The supported architectures
are one decoder with switches:

    architecture   bias on q, k, v   bias on output   RMSNorm of q and k heads
    llama          as configured     as configured    no
    mistral        no                no               no
    qwen2          yes               no               no
    qwen3          as configured     as configured    yes
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from isoprefill.models import rope_scaling

ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3")


@dataclasses.dataclass(frozen=True, slots=True)
class ModelConfig:
    """Sizes and switches of a Llama-family decoder.

    Attributes:
      architecture: one of `ARCHITECTURES`.
      vocab_size: rows of the embedding and of the head.
      hidden_size: width of the residual stream.
      intermediate_size: width of the feed-forward part.
      num_layers: decoder layers.
      num_query_heads: query heads; a multiple of `num_kv_heads`.
      num_kv_heads: key and value heads.
      head_dim: width of a head; even. It need not be hidden_size / num_query_heads.
      rms_norm_eps: added to the mean square before the root.
      rope_theta: base of the rotary frequencies.
      max_positions: positions 0 to max_positions - 1 are valid.
      rope_frequency_divisors: head_dim / 2 divisors of the rotary frequencies, or None for plain RoPE.
      tied_head: the head is the embedding matrix.
      qkv_bias: the query, key and value projections have a bias.
      output_bias: the attention's output projection has a bias.
      qk_norm: each query and key head is RMS-normalised before RoPE.

    Raises:
      ValueError: a field is outside its limits; the message names it, its value and the limit.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_query_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    max_positions: int
    rope_frequency_divisors: tuple[float, ...] | None = None
    tied_head: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: bool = False

    def __post_init__(self) -> None:
        check_architecture(self.architecture)
        for name in (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_layers",
            "num_query_heads",
            "num_kv_heads",
            "head_dim",
            "max_positions",
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        for name in ("rms_norm_eps", "rope_theta"):
            value = getattr(self, name)
            if not isinstance(value, float) or not 0.0 < value < float("inf"):
                raise ValueError(f"{name} must be a positive finite float, got {value!r}")
        if self.num_query_heads % self.num_kv_heads:
            raise ValueError(
                f"num_query_heads must be a multiple of num_kv_heads = {self.num_kv_heads}, "
                f"got {self.num_query_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even for RoPE, got {self.head_dim}")
        divisors = self.rope_frequency_divisors
        if divisors is not None:
            if len(divisors) != self.head_dim // 2:
                raise ValueError(
                    f"rope_frequency_divisors must hold head_dim / 2 = {self.head_dim // 2} numbers, "
                    f"got {len(divisors)}"
                )
            if not all(0.0 < divisor < float("inf") for divisor in divisors):
                raise ValueError("rope_frequency_divisors must be positive and finite")


def check_architecture(architecture: object) -> None:
    """Raises ValueError unless `architecture` is supported."""
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"architecture {architecture!r} is not supported; supported: {', '.join(ARCHITECTURES)}"
        )


def check_sliding_window(window: int | None, max_positions: int) -> None:
    """Raises ValueError if a sliding window would hide columns: attention here is always over the whole context."""
    if window is not None and 0 < window < max_positions:
        raise ValueError(
            f"sliding-window attention is not supported: the model's window is {window}, "
            f"less than its {max_positions} positions"
        )


def config_from_huggingface(config: Mapping[str, Any]) -> ModelConfig:
    """Builds the configuration from the contents of a Hugging Face config.json.

    Args:
      config: the parsed file, in the form that transformers 4 or 5 writes.

    Raises:
      ValueError: the architecture is not supported, a needed key is missing, or the model uses something this decoder
        does not compute (a sliding window, an unknown RoPE scaling, another activation, quantised weights).
    """
    architecture = config.get("model_type")
    check_architecture(architecture)
    assert isinstance(architecture, str)
    max_positions = _required(config, "max_position_embeddings", int)
    if config.get("quantization_config"):
        raise ValueError("quantization_config: quantised Hugging Face checkpoints are not supported")
    activation = config.get("hidden_act", "silu")
    if activation != "silu":
        raise ValueError(f"hidden_act {activation!r} is not supported; supported: silu")
    if config.get("mlp_bias"):
        raise ValueError("mlp_bias = true is not supported: the feed-forward projections have no bias here")
    if architecture == "mistral" or config.get("use_sliding_window"):
        check_sliding_window(config.get("sliding_window"), max_positions)

    hidden_size = _required(config, "hidden_size", int)
    num_query_heads = _required(config, "num_attention_heads", int)
    head_dim = config.get("head_dim")
    if head_dim is None:
        head_dim = 128 if architecture == "qwen3" else hidden_size // num_query_heads
    attention_bias = bool(config.get("attention_bias", False)) and architecture in ("llama", "qwen3")
    rope_theta, divisors = _rope_from_huggingface(config, head_dim)
    return ModelConfig(
        architecture=architecture,
        vocab_size=_required(config, "vocab_size", int),
        hidden_size=hidden_size,
        intermediate_size=_required(config, "intermediate_size", int),
        num_layers=_required(config, "num_hidden_layers", int),
        num_query_heads=num_query_heads,
        num_kv_heads=config.get("num_key_value_heads") or num_query_heads,
        head_dim=head_dim,
        rms_norm_eps=float(config.get("rms_norm_eps", 1e-6)),
        rope_theta=rope_theta,
        max_positions=max_positions,
        rope_frequency_divisors=divisors,
        tied_head=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=attention_bias or architecture == "qwen2",
        output_bias=attention_bias,
        qk_norm=architecture == "qwen3",
    )


def _rope_from_huggingface(
    config: Mapping[str, Any], head_dim: int
) -> tuple[float, tuple[float, ...] | None]:
    """Base and divisors from `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before)."""
    scaling: Mapping[str, Any] = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = float(scaling.get("rope_theta") or config.get("rope_theta") or 10000.0)
    rotated = scaling.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0
    if rotated != 1.0:
        raise ValueError(f"partial_rotary_factor must be 1, got {rotated}")
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if kind == "default":
        return theta, None
    if kind == "linear":
        return theta, rope_scaling.linear_divisors(head_dim, _required(scaling, "factor", float))
    if kind == "llama3":
        return theta, rope_scaling.llama3_divisors(
            head_dim,
            theta,
            factor=_required(scaling, "factor", float),
            low_freq_factor=_required(scaling, "low_freq_factor", float),
            high_freq_factor=_required(scaling, "high_freq_factor", float),
            original_max_positions=_required(scaling, "original_max_position_embeddings", int),
        )
    raise ValueError(f"rope scaling {kind!r} is not supported; supported: default, linear, llama3")


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

    max_positions = _required(metadata, key("context_length"), int)
    check_sliding_window(metadata.get(key("attention.sliding_window")), max_positions)
    experts = metadata.get(key("expert_count"), 0)
    if experts:
        raise ValueError(f"{key('expert_count')} must be 0, got {experts}: mixtures of experts are not supported")
    hidden_size = _required(metadata, key("embedding_length"), int)
    num_query_heads = _required(metadata, key("attention.head_count"), int)
    head_dim = metadata.get(key("attention.key_length")) or hidden_size // num_query_heads
    value_dim = metadata.get(key("attention.value_length")) or head_dim
    if value_dim != head_dim:
        raise ValueError(
            f"{key('attention.value_length')} must equal the key length {head_dim}, got {value_dim}"
        )
    rotated = metadata.get(key("rope.dimension_count")) or head_dim
    if rotated != head_dim:
        raise ValueError(f"{key('rope.dimension_count')} must equal head_dim {head_dim}, got {rotated}")
    scaling = metadata.get(key("rope.scaling.type")) or "none"
    factor = metadata.get(key("rope.scaling.factor")) or metadata.get(key("rope.scale_linear")) or 1.0
    if scaling == "linear" or (scaling == "none" and factor != 1.0):
        if frequency_divisors is not None:
            raise ValueError("rope_freqs.weight together with linear rope scaling is not supported")
        frequency_divisors = rope_scaling.linear_divisors(head_dim, factor)
    elif scaling != "none":
        raise ValueError(f"rope scaling {scaling!r} is not supported; supported: none, linear, rope_freqs")
    vocab_size = metadata.get(key("vocab_size")) or len(metadata.get("tokenizer.ggml.tokens", ()))
    return ModelConfig(
        architecture=architecture,
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=_required(metadata, key("feed_forward_length"), int),
        num_layers=_required(metadata, key("block_count"), int),
        num_query_heads=num_query_heads,
        num_kv_heads=metadata.get(key("attention.head_count_kv")) or num_query_heads,
        head_dim=head_dim,
        rms_norm_eps=_required(metadata, key("attention.layer_norm_rms_epsilon"), float),
        rope_theta=float(metadata.get(key("rope.freq_base")) or 10000.0),
        max_positions=max_positions,
        rope_frequency_divisors=frequency_divisors,
        tied_head=tied_head,
        qkv_bias=qkv_bias,
        output_bias=output_bias,
        qk_norm=architecture == "qwen3",
    )


def _required(config: Mapping[str, Any], name: str, kind: type[Any]) -> Any:
    """The value of `name` as an int or a float."""
    value = config.get(name)
    if value is None:
        raise ValueError(f"the model's configuration has no {name}")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"the model's {name} must be a number, got {value!r}")
    return kind(value)
