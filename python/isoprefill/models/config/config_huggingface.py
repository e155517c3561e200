"""Reads a model's configuration from a Hugging Face config.json."""

from collections.abc import Mapping
from typing import Any

from isoprefill.models.config.architectures import Architecture, Switch, find_architecture
from isoprefill.models.config.classes import classes_from_huggingface
from isoprefill.models.config.config import Activation, ModelConfig, required
from isoprefill.models.config.derived_fields import derived_fields
from isoprefill.models.config.experts import Experts
from isoprefill.models.config.rope_huggingface import rope_from_huggingface
from isoprefill.models.config.size_limits import check_sizes

ACTIVATIONS: dict[str, Activation] = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
_LAYER_TYPES = {"full_attention": False, "sliding_attention": True}


def config_from_huggingface(config: Mapping[str, Any]) -> ModelConfig:
    """Builds the configuration from the contents of a Hugging Face config.json.

    Args:
        config: the parsed file, in the form that transformers 4 or 5 writes.

    Raises:
        ValueError: the architecture is not supported, a needed key is missing, or the model uses something that the
            decoder does not compute (an unknown RoPE scaling, another activation, quantised weights).
    """
    name: Any = config.get("model_type")
    architecture = find_architecture(name)
    check_sizes(config)
    # An absent key is transformers' default; only null means that there is no such thing.
    config = {**architecture.defaults, **config}
    if config.get("quantization_config"):
        raise ValueError(
            "quantization_config: quantised Hugging Face checkpoints are not supported"
        )
    if config.get("mlp_bias"):
        raise ValueError(
            "mlp_bias = true is not supported: the feed-forward projections have no bias here"
        )
    if config.get("use_bidirectional_attention"):
        raise ValueError(
            "use_bidirectional_attention = true is not supported: a query's rows would differ from item to item"
        )

    hidden_size = required(config, "hidden_size", int)
    num_layers = required(config, "num_hidden_layers", int)
    num_query_heads = required(config, "num_attention_heads", int)
    head_dim = config.get("head_dim")
    if head_dim is None:
        head_dim = hidden_size // (num_query_heads or 1)
    rope = rope_from_huggingface(config, architecture, head_dim)
    unrotated = _unrotated_layers(config, architecture, num_layers)
    sliding = _sliding_layers(config, architecture, unrotated, num_layers)
    windows = _is_on(config, architecture.window_switch)
    return ModelConfig(
        architecture=name,
        vocab_size=required(config, "vocab_size", int),
        hidden_size=hidden_size,
        intermediate_size=required(config, "intermediate_size", int),
        num_layers=num_layers,
        num_query_heads=num_query_heads,
        num_kv_heads=config.get("num_key_value_heads") or num_query_heads,
        head_dim=head_dim,
        rms_norm_eps=float(config.get("rms_norm_eps", 1e-6)),
        tied_head=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=_is_on(config, architecture.qkv_bias),
        output_bias=_is_on(config, architecture.output_bias),
        activation=_activation(config, architecture),
        experts=_experts(config, architecture, num_layers),
        attention_sinks=architecture.attention_sinks,
        **_scales(config, architecture, hidden_size, head_dim),
        **derived_fields(
            architecture,
            rope,
            unrotated=unrotated,
            sliding=sliding,
            window=config.get("sliding_window") if windows else None,
        ),
        classes=classes_from_huggingface(config),
    )


def _is_on(config: Mapping[str, Any], switch: Switch) -> bool:
    return bool(config.get(switch)) if isinstance(switch, str) else switch


def _activation(config: Mapping[str, Any], architecture: Architecture) -> Activation:
    key = architecture.activation_key
    name = config.get(key, architecture.activation)
    if name == "gelu" and architecture.gelu_by_tanh:
        name = "gelu_pytorch_tanh"
    if name not in ACTIVATIONS:
        raise ValueError(f"{key} {name!r} is not supported; supported: {', '.join(ACTIVATIONS)}")
    if architecture.clamped_gate:
        for key, value in {
            "hidden_act": "silu",
            "swiglu_alpha": 1.702,
            "swiglu_limit": 7.0,
        }.items():
            if (found := config.get(key, value)) != value:
                raise ValueError(
                    f"{key} of a {config['model_type']} model must be {value!r}, got {found!r}"
                )
        return "clamped_silu"
    return ACTIVATIONS[name]


def _experts(
    config: Mapping[str, Any], architecture: Architecture, num_layers: int
) -> Experts | None:
    """Returns the mixture of experts of all layers; None if no layer has one."""
    if not architecture.mixture:
        return None
    # transformers 5 has another name for the number than the files of transformers 4.
    keys = [key for key in ("num_experts", "num_local_experts") if config.get(key) is not None]
    numbers = {required(config, key, int) for key in keys or ["num_experts"]}
    if len(numbers) > 1:
        raise ValueError(f"num_experts and num_local_experts must be equal, got {sorted(numbers)}")
    (number,) = numbers
    if number == 0 or not any(sparse := _sparse_layers(config, num_layers)):
        return None
    if not all(sparse):
        dense = [layer for layer, mixed in enumerate(sparse) if not mixed]
        raise ValueError(
            "decoder_sparse_step and mlp_only_layers must make mixtures of experts of all layers or of none, but "
            f"layers {dense} are none"[:200]
        )
    return Experts(
        number=number,
        chosen=required(config, "num_experts_per_tok", int),
        width=required(config, architecture.expert_width_key, int),
        normalised=_is_on(config, architecture.shares_normalised),
        biased=architecture.experts_biased,
    )


def _sparse_layers(config: Mapping[str, Any], num_layers: int) -> list[bool]:
    """Returns which layers are mixtures of experts."""
    step = config.get("decoder_sparse_step", 1)
    if type(step) is not int or step < 1:
        raise ValueError(f"decoder_sparse_step must be a positive integer, got {step!r}")
    dense = config.get("mlp_only_layers") or []
    if not isinstance(dense, list):
        raise ValueError(f"mlp_only_layers must be a list of layers, got {dense!r}"[:200])
    return [layer not in dense and (layer + 1) % step == 0 for layer in range(num_layers)]


def _unrotated_layers(
    config: Mapping[str, Any], architecture: Architecture, num_layers: int
) -> list[bool]:
    """Returns which layers are without RoPE."""
    if architecture.no_rope_interval is None:
        return [False] * num_layers
    listed = config.get("no_rope_layers")
    if listed is None:
        interval = config.get("no_rope_layer_interval", architecture.no_rope_interval)
        if type(interval) is not int or interval < 1:
            raise ValueError(f"no_rope_layer_interval must be a positive integer, got {interval!r}")
        return [(layer + 1) % interval == 0 for layer in range(num_layers)]
    if not isinstance(listed, list) or len(listed) < num_layers:
        raise ValueError(f"no_rope_layers must hold a number for each of {num_layers} layers")
    return [not rotates for rotates in listed[:num_layers]]


def _sliding_layers(
    config: Mapping[str, Any],
    architecture: Architecture,
    unrotated: list[bool],
    num_layers: int,
) -> list[bool]:
    """Returns which layers are of the kind that a sliding window is for."""
    if not _is_on(config, architecture.window_switch):
        by_rule = [False] * num_layers
    elif architecture.window_rule == "every":
        by_rule = [True] * num_layers
    elif architecture.window_rule == "unrotated":
        by_rule = unrotated
    elif architecture.window_rule == "upper":
        first = required(config, "max_window_layers", int)
        by_rule = [layer >= first for layer in range(num_layers)]
    else:
        period = required(config, "sliding_window_pattern", int)
        if period < 1:
            raise ValueError(f"sliding_window_pattern must be at least 1, got {period}")
        by_rule = [(layer + 1) % period != 0 for layer in range(num_layers)]
    layer_types = config.get("layer_types")
    if not layer_types:
        return by_rule
    if not isinstance(layer_types, list) or len(layer_types) != num_layers:
        raise ValueError(f"layer_types must hold a name for each of {num_layers} layers")
    for layer_type in layer_types:
        if layer_type not in _LAYER_TYPES:
            raise ValueError(
                f"layer_types must be of {', '.join(_LAYER_TYPES)}, got {layer_type!r}"
            )
    listed = [_LAYER_TYPES[layer_type] for layer_type in layer_types]
    # Where transformers has windows without layer_types, or has none, it does not look at it.
    if architecture.window_rule == "every" or not any(by_rule):
        if any(listed) and listed != by_rule:
            raise ValueError(
                f"layer_types has 'sliding_attention' where a {config['model_type']} model of this configuration has "
                "no sliding window"
            )
        return by_rule
    return listed


def _scales(
    config: Mapping[str, Any], architecture: Architecture, hidden_size: int, head_dim: int
) -> dict[str, Any]:
    """Returns the fields of ModelConfig that multiply or cap something."""
    scales: dict[str, Any] = {}

    def number(key: str) -> float | None:
        return None if config.get(key) is None else required(config, key, float)

    if architecture.embedding_scaled:
        scales["embedding_scale"] = hidden_size**0.5
    if architecture.soft_caps:
        scalar = required(config, "query_pre_attn_scalar", float)
        if not scalar > 0.0:
            raise ValueError(f"query_pre_attn_scalar must be positive, got {scalar}")
        scales["query_scale"] = None if scalar == head_dim else scalar**-0.5
        scales["logit_softcap"] = number("final_logit_softcapping")
        cap = number("attn_logit_softcapping")
        if cap is not None and not architecture.score_softcap:
            raise ValueError(
                f"attn_logit_softcapping must be null in a {config['model_type']} model, got {cap}"
            )
        scales["score_softcap"] = cap
    if architecture.multipliers:
        scales["query_scale"] = number("attention_multiplier") or 1.0
        scales["embedding_scale"] = number("embedding_multiplier") or 1.0
        scales["residual_scale"] = number("residual_multiplier") or 1.0
        scales["logit_scale"] = 1.0 / (number("logits_scaling") or 1.0)
    return scales
