"""Reads a model's configuration from a GGUF file's metadata."""

from collections.abc import Container, Mapping
from typing import Any

from isoprefill.models.config.architectures import ARCHITECTURES, Architecture, gguf_model_type
from isoprefill.models.config.config import ModelConfig, required
from isoprefill.models.config.config_huggingface import ACTIVATIONS
from isoprefill.models.config.derived_fields import derived_fields
from isoprefill.models.config.experts import Experts
from isoprefill.models.config.parameters import PARAMETERS
from isoprefill.models.config.rope_gguf import rope_from_gguf
from isoprefill.models.config.size_limits import check_sizes


def config_from_gguf(
    metadata: Mapping[str, Any],
    tensors: Container[str],
    rope_tensors: Mapping[str, tuple[float, ...]],
) -> ModelConfig:
    """Builds the configuration from a GGUF file's metadata and from which optional tensors it has.

    Args:
        metadata: the file's key-value pairs.
        tensors: the names of its tensors.
        rope_tensors: those of its tensors that divide frequencies, by name (`rope_gguf.tensors_of`).

    Raises:
        ValueError: as for `config_from_huggingface`.
    """
    gguf_name = metadata.get("general.architecture")
    name = gguf_model_type(metadata)
    architecture = ARCHITECTURES[name]
    check_sizes(metadata, f"{gguf_name}.")

    def key(suffix: str) -> str:
        return f"{gguf_name}.{suffix}"

    def get(suffix: str) -> Any:
        return metadata.get(key(suffix))

    def has(field: str) -> bool:
        return PARAMETERS[field].gguf.format(layer=0) in tensors

    def number(suffix: str) -> float | None:
        """A number of which 0 means that there is none."""
        return required(metadata, key(suffix), float) if get(suffix) else None

    hidden_size = required(metadata, key("embedding_length"), int)
    num_layers = required(metadata, key("block_count"), int)
    num_query_heads = required(metadata, key("attention.head_count"), int)
    head_dim = get("attention.key_length") or hidden_size // (num_query_heads or 1)
    if (found := get("attention.value_length") or head_dim) != head_dim:
        raise ValueError(
            f"{key('attention.value_length')} must equal the key length {head_dim}, got {found}"
        )
    rope = rope_from_gguf(metadata, rope_tensors, architecture, str(gguf_name), head_dim)
    interval = architecture.no_rope_interval
    sliding = _sliding_layers(get("attention.sliding_window_pattern"), architecture, num_layers)
    derived = derived_fields(
        architecture,
        rope,
        unrotated=[interval is not None and (i + 1) % interval == 0 for i in range(num_layers)],
        sliding=sliding,
        window=get("attention.sliding_window") or None,
    )
    if (window := derived["sliding_window"]) is not None and not architecture.gguf_windows:
        raise ValueError(f"{key('attention.sliding_window')} must be 0 here, got {window}")
    query_scale = number("attention.scale")
    if num_layers == architecture.gguf_wide_scale_layers:
        query_scale = (num_query_heads / hidden_size) ** 0.5
    return ModelConfig(
        architecture=name,
        vocab_size=get("vocab_size") or len(metadata.get("tokenizer.ggml.tokens", ())),
        hidden_size=hidden_size,
        intermediate_size=required(metadata, key("feed_forward_length"), int),
        num_layers=num_layers,
        num_query_heads=num_query_heads,
        num_kv_heads=get("attention.head_count_kv") or num_query_heads,
        head_dim=head_dim,
        rms_norm_eps=required(metadata, key("attention.layer_norm_rms_epsilon"), float),
        tied_head=not has("head"),
        qkv_bias=has("query_bias"),
        output_bias=has("output_bias"),
        query_scale=query_scale,
        attention_sinks=architecture.attention_sinks,
        score_softcap=number("attn_logit_softcapping") if architecture.score_softcap else None,
        activation="clamped_silu"
        if architecture.clamped_gate
        else ACTIVATIONS[architecture.activation],
        experts=_experts(metadata, architecture, str(gguf_name)),
        embedding_scale=hidden_size**0.5
        if architecture.embedding_scaled
        else number("embedding_scale") or 1.0,
        residual_scale=number("residual_scale") or 1.0,
        logit_scale=1.0 / (number("logit_scale") or 1.0),
        logit_softcap=number("final_logit_softcapping"),
        **derived,
    )


# Keys of other mixtures of experts, and what they may be: these are not computed, or not by llama.cpp.
_OTHER_MIXTURES: dict[str, tuple[Any, ...]] = {
    "expert_shared_count": (None, 0),
    "expert_shared_feed_forward_length": (None, 0),
    "expert_weights_scale": (None, 0.0, 1.0),
    "expert_weights_norm": (None, True),
    "expert_gating_func": (None, 0, 1),  # softmax
    "expert_group_count": (None, 0, 1),
    "interleave_moe_layer_step": (None, 0, 1),
    "leading_dense_block_count": (None, 0),
}


def _experts(
    metadata: Mapping[str, Any], architecture: Architecture, gguf_name: str
) -> Experts | None:
    """Returns the mixture of experts, if the model is one: the shares of those chosen always add up to 1."""
    if not architecture.mixture:
        return None
    for suffix, allowed in _OTHER_MIXTURES.items():
        if (value := metadata.get(f"{gguf_name}.{suffix}")) not in allowed:
            raise ValueError(
                f"{gguf_name}.{suffix} must be {allowed[-1]}, got {value!r}: such a mixture of experts is not supported"
            )
    # Mixtral is a llama there, whose one width is that of its experts.
    width = "feed_forward_length" if gguf_name == "llama" else "expert_feed_forward_length"
    return Experts(
        number=required(metadata, f"{gguf_name}.expert_count", int),
        chosen=required(metadata, f"{gguf_name}.expert_used_count", int),
        width=required(metadata, f"{gguf_name}.{width}", int),
        normalised=True,
        biased=architecture.experts_biased,
    )


def _sliding_layers(pattern: object, architecture: Architecture, num_layers: int) -> list[bool]:
    """Returns which layers a window is for: of a period all but the last, or as a list says."""
    if isinstance(pattern, list):
        if len(pattern) != num_layers:
            raise ValueError(
                f"attention.sliding_window_pattern must hold {num_layers} values, got {len(pattern)}"
            )
        return [bool(on) for on in pattern]
    if architecture.window_rule != "all_but_last":
        return [True] * num_layers
    period = pattern or architecture.defaults["sliding_window_pattern"]
    if type(period) is not int or period < 1:
        raise ValueError(f"attention.sliding_window_pattern must be at least 1, got {period!r}")
    return [(layer + 1) % period != 0 for layer in range(num_layers)]
