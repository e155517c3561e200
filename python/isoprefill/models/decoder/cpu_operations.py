"""The decoder's operations in C++, for packed weights on a CPU: csrc/decoder.h and csrc/token_logprobs.h.

What a row gives depends on that row and the weights alone, bit for bit. Rows after the first `num_rows` are not
computed; they give zeros. bfloat16 goes to C++ and comes back as its bits (`isoprefill.bits`).

Letters: T rows, E hidden_size, F intermediate_size, L layers, Hq query heads, Hkv key and value heads, D head_dim, V
vocab_size, M rows to read, K tokens at each.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

import isoprefill_csrc
from isoprefill.bits import from_bits, to_bits
from isoprefill.models.config.config import ModelConfig
from isoprefill.models.weights.packed_weights import PackedWeights
from isoprefill.models.weights.params import LayerParams

_TARGETS = (
    "add_normed",
    "attention_inputs",
    "embedding",
    "experts",
    "feed_forward",
    "norm",
    "projection",
    "token_logprobs",
)
for _target in _TARGETS:
    jax.ffi.register_ffi_target(
        f"isoprefill_{_target}",
        isoprefill_csrc.ffi_targets()[f"isoprefill_{_target}"],
        platform="cpu",
    )

isoprefill_csrc.best_instructions()  # an error at import, not in the first request

Scalar = Int32[Array, ""]


def embed(
    weights: PackedWeights, token_ids: Int32[Array, "T"], num_rows: Scalar
) -> Float[Array, "T E"]:
    """Returns the embeddings of tokens, float32."""
    out = jax.ShapeDtypeStruct((*token_ids.shape, weights.inner), jnp.float32)
    (stream,) = _call(
        "embedding", (out,), num_rows, token_ids, weights.data, vocab_size=weights.columns
    )
    return stream


def attention_inputs(
    layers: LayerParams,
    layer: Scalar,
    stream: Float[Array, "T E"],
    num_rows: Scalar,
    cosine: Float[Array, "T pairs"],
    sine: Float[Array, "T pairs"],
    config: ModelConfig,
) -> tuple[Float[Array, "T Hq D"], Float[Array, "T Hkv D"], Float[Array, "T Hkv D"]]:
    """Returns queries, keys and values: norm, projections, biases, norms of heads or of projections, RoPE."""
    projections = [_packed(weights) for weights in (layers.query, layers.key, layers.value)]
    outs = []
    for weights in projections:
        heads = (stream.shape[0], weights.columns // config.head_dim, config.head_dim)
        outs.append(jax.ShapeDtypeStruct(heads, _stored(weights.dtype)))
    small = (
        layers.query_bias,
        layers.key_bias,
        layers.value_bias,
        layers.query_norm if layers.query_projection_norm is None else layers.query_projection_norm,
        layers.key_norm if layers.key_projection_norm is None else layers.key_projection_norm,
    )
    q, k, v = _call(
        "attention_inputs",
        outs,
        layer,
        num_rows,
        stream,
        _or_nothing(layers.attention_norm, layers),
        *(weights.data for weights in projections),
        *(_or_nothing(array, layers) for array in small),
        cosine,
        sine,
        eps=np.float32(config.rms_norm_eps),
    )
    return from_bits(q), from_bits(k), from_bits(v)


def projection(
    x: Float[Array, "T N"],
    weights: PackedWeights,
    bias: Float[Array, "L M"] | None = None,
    *,
    layer: Scalar | int = 0,
    num_rows: Scalar | None = None,
    residual: Float[Array, "T M"] | None = None,
    scale: float = 1.0,
) -> Float[Array, "T M"]:
    """Returns residual + scale * (x times the transposed weights + bias), float32."""
    weights = weights.stacked
    rows = x.shape[0]
    nothing = jnp.zeros((0, weights.columns), jnp.float32)
    (out,) = _call(
        "projection",
        (jax.ShapeDtypeStruct((rows, weights.columns), jnp.float32),),
        jnp.asarray(layer, jnp.int32),
        jnp.asarray(rows if num_rows is None else num_rows, jnp.int32),
        to_bits(x),
        weights.data,
        jnp.zeros((weights.data.shape[0], 0), jnp.float32) if bias is None else bias,
        nothing if residual is None else residual,
        aliases=None if residual is None else {5: 0},
        scale=np.float32(scale),
    )
    return out


def feed_forward(
    layers: LayerParams,
    layer: Scalar,
    stream: Float[Array, "T E"],
    num_rows: Scalar,
    config: ModelConfig,
    *,
    add_residual: bool,
) -> Float[Array, "T E"]:
    """Returns the feed-forward part of the normed stream: scaled and added to the stream, or alone."""
    gate, up, down = map(_packed, (layers.gate, layers.up, layers.down))
    operands = [gate.data, up.data, down.data]
    return _call_feed_forward(
        "feed_forward", layers, layer, stream, num_rows, config, gate, operands, add_residual
    )


def experts(
    layers: LayerParams,
    layer: Scalar,
    stream: Float[Array, "T E"],
    num_rows: Scalar,
    config: ModelConfig,
    *,
    add_residual: bool,
) -> Float[Array, "T E"]:
    """Returns the same of a mixture of experts (csrc/experts.h)."""
    assert config.experts is not None
    weights = (layers.router, layers.expert_gate, layers.expert_up, layers.expert_down)
    biases = (
        layers.router_bias,
        layers.expert_gate_bias,
        layers.expert_up_bias,
        layers.expert_down_bias,
    )
    operands = [_packed(one).data for one in weights]
    operands += [_or_nothing(one, layers) for one in biases]
    return _call_feed_forward(
        "experts",
        layers,
        layer,
        stream,
        num_rows,
        config,
        _packed(layers.expert_gate),
        operands,
        add_residual,
        chosen=config.experts.chosen,
        normalised=config.experts.normalised,
    )


def _call_feed_forward(
    target: str,
    layers: LayerParams,
    layer: Scalar,
    stream: Float[Array, "T E"],
    num_rows: Scalar,
    config: ModelConfig,
    gate: PackedWeights,
    operands: Sequence[Any],
    add_residual: bool,
    **attributes: Any,
) -> Float[Array, "T E"]:
    """Calls what turns the normed stream into a feed-forward part, one or of experts; `gate` tells width and dtype."""
    (out,) = _call(
        target,
        (jax.ShapeDtypeStruct(stream.shape, jnp.float32),),
        layer,
        num_rows,
        stream,
        _or_nothing(layers.feed_forward_norm, layers),
        *operands,
        aliases={2: 0} if add_residual else None,
        eps=np.float32(config.rms_norm_eps),
        width=gate.columns,
        adds=add_residual,
        narrow=gate.dtype == jnp.bfloat16,
        activation=config.activation,
        scale=np.float32(config.residual_scale if add_residual else 1.0),
        **attributes,
    )
    return out


def add_normed(
    residual: Float[Array, "T E"],
    x: Float[Array, "T E"],
    norms: Float[Array, "L E"],
    layer: Scalar,
    num_rows: Scalar,
    eps: float,
) -> Float[Array, "T E"]:
    """Returns residual + the normed x."""
    (out,) = _call(
        "add_normed",
        (jax.ShapeDtypeStruct(x.shape, jnp.float32),),
        layer,
        num_rows,
        x,
        norms,
        residual,
        aliases={4: 0},
        eps=np.float32(eps),
    )
    return out


def norm(
    stream: Float[Array, "T E"],
    weight: Float[Array, "E"],
    num_rows: Scalar,
    eps: float,
    head: PackedWeights,
) -> Float[Array, "T E"]:
    """Returns the normed stream, in the dtype of the head that it is for."""
    out = jax.ShapeDtypeStruct(stream.shape, _stored(head.dtype))
    (normed,) = _call("norm", (out,), num_rows, stream, weight, eps=np.float32(eps))
    return from_bits(normed)


def token_logprobs(
    hidden: Float[Array, "T E"],
    weights: PackedWeights,
    rows: Int32[Array, "M"],
    num_rows: Scalar,
    token_ids: Int32[Array, "M K"],
    *,
    scale: float = 1.0,
    soft_cap: float | None = None,
) -> Float[Array, "M K"]:
    """Returns log P(token_ids[m, k]) over the full vocabulary at hidden[rows[m]], of logits scaled and then capped.

    Two ids are no tokens: csrc/token_logprobs.h has `LARGEST_LOGPROB` and `LARGEST_TOKEN` of head.py.
    """
    (out,) = _call(
        "token_logprobs",
        (jax.ShapeDtypeStruct(token_ids.shape, jnp.float32),),
        num_rows,
        to_bits(hidden),
        weights.data,
        rows,
        token_ids,
        vocab_size=weights.columns,
        scale=np.float32(scale),
        soft_cap=np.float32(soft_cap or 0.0),
    )
    return out


def _packed(weights: Float[Array, "..."] | PackedWeights | None) -> PackedWeights:
    """Returns weights that are packed, as those of a model are either all or not at all."""
    assert isinstance(weights, PackedWeights)
    return weights


def _stored(dtype: jnp.dtype) -> jnp.dtype:
    """Returns the dtype of what C++ writes: bfloat16 as its bits."""
    return jnp.dtype(jnp.uint16 if dtype == jnp.bfloat16 else dtype)


def _or_nothing(array: Float[Array, "L *N"] | None, layers: LayerParams) -> Float[Array, "L *N"]:
    if array is None:
        return jnp.zeros((_packed(layers.query).data.shape[0], 0), jnp.float32)
    return array


def _call(
    target: str,
    outs: Any,
    *operands: Any,
    aliases: dict[int, int] | None = None,
    **attributes: Any,
) -> tuple[Array, ...]:
    """Calls C++; of `aliases`, an operand's memory becomes a result's."""
    call = jax.ffi.ffi_call(
        f"isoprefill_{target}",
        tuple(outs),
        vmap_method="sequential",
        input_output_aliases=aliases,
    )
    return tuple(call(*operands, **attributes))
