"""The Llama-family decoder: RMSNorm, RoPE, grouped-query attention, SwiGLU.

The decoder knows nothing of items or masks: the caller passes the attention. A row's arithmetic is the same wherever in
the array the row stands, so scores do not depend on how rows are packed. With packed weights (`packed_weights`) its
operations are those of `cpu_operations`.

Letters: T rows, V vocab_size, E hidden_size, L layers, Hq query heads, Hkv key and value heads, D head_dim. Weights are
[out, in]. Layers are stacked on axis 0 and scanned: unrolling them costs a tenfold compilation and, with stacked
weights, a copy of them all.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from isoprefill.bits import from_bits, to_bits
from isoprefill.models import cpu_operations, rope
from isoprefill.models.config import ModelConfig
from isoprefill.models.packed_weights import PackedWeights
from isoprefill.models.params import LayerParams, Params

Attend = Callable[
    [Float[Array, "T Hq D"], Float[Array, "T Hkv D"], Float[Array, "T Hkv D"], Any],
    Float[Array, "T Hq D"],
]
AllReduce = Callable[[Float[Array, "T E"]], Float[Array, "T E"]] | None
Rotation = tuple[Float[Array, "T pairs"], Float[Array, "T pairs"]]
Layer = Callable[[Float[Array, "T E"], Any], tuple[Float[Array, "T E"], Any]]
KeysAndValues = tuple[Float[Array, "L T Hkv D"], Float[Array, "L T Hkv D"]]


def decode(
    params: Params,
    config: ModelConfig,
    token_ids: Int[Array, "T"],
    positions: Int[Array, "T"],
    attend: Attend,
    cache: Any = None,
    *,
    num_rows: Int[Array, ""] | None = None,
    vectors: Float[Array, "R E"] | None = None,
    return_kv: bool = False,
    all_reduce: AllReduce = None,
) -> tuple[Float[Array, "T E"], KeysAndValues | None]:
    """Runs all layers over T rows.

    Args:
        params: weights. Their dtype is that of what matmuls read and of the keys and values; what is added up between
            them stays in float32.
        config: sizes and switches (static under jit).
        token_ids: one a row. Below 0, -1 - i, they stand for `vectors[i]`.
        positions: each in [0, config.max_positions).
        attend: of q, k, v and the layer's slice of the cache. q and k are after RoPE; q is not scaled. The result may
            be of any float dtype.
        cache: any pytree whose leaves have a leading layer axis, or None.
        num_rows: how many rows matter; None: all. With packed weights the others are not computed.
        vectors: what rows have instead of an embedding of a token, float32; None: no row has.
        return_kv: return the keys and values of these rows.
        all_reduce: sums over the devices that hold parts of the heads and of the feed-forward width, if there are.

    Returns:
        hidden states after the final norm [T, E], and (keys, values), each [L, T, Hkv, D], if `return_kv`, else None.
    """
    frequencies = rope.inverse_frequencies(
        config.head_dim, config.rope_theta, config.rope_frequency_divisors
    )
    rotation = rope.rotation(positions, frequencies)
    if isinstance(params.embedding, PackedWeights):
        rows = jnp.asarray(token_ids.shape[0] if num_rows is None else num_rows, jnp.int32)
        known = jnp.maximum(token_ids, 0).astype(jnp.int32)
        stream = cpu_operations.embed(params.embedding, known, rows)
        stream = _with_vectors(stream, token_ids, vectors)
        layer = _packed_layer(params.layers, config, rotation, rows, attend, all_reduce)
        stream, keys_and_values = _scan(
            layer, stream, (jnp.arange(config.num_layers, dtype=jnp.int32), cache), return_kv
        )
        hidden = cpu_operations.norm(stream, params.final_norm, rows, config.rms_norm_eps)
        return hidden, keys_and_values
    stream = from_bits(params.embedding[jnp.maximum(token_ids, 0)]).astype(jnp.float32)
    stream = _with_vectors(stream, token_ids, vectors)
    layer = _layer(config, rotation, attend, all_reduce)
    stream, keys_and_values = _scan(layer, stream, (params.layers, cache), return_kv)
    final_norm = from_bits(params.final_norm)
    hidden = rms_norm(stream, final_norm, config.rms_norm_eps)
    return hidden.astype(final_norm.dtype), keys_and_values


def _with_vectors(
    embedded: Float[Array, "T E"],
    token_ids: Int[Array, "T"],
    vectors: Float[Array, "R E"] | None,
) -> Float[Array, "T E"]:
    """Returns the embeddings with vectors where there is no token."""
    if vectors is None:
        return embedded
    return jnp.where(token_ids[:, None] < 0, vectors[jnp.maximum(-1 - token_ids, 0)], embedded)


def _layer(config: ModelConfig, rotation: Rotation, attend: Attend, all_reduce: AllReduce) -> Layer:
    """Returns one layer as `_scan` calls it, over (weights of the layer, cache of the layer)."""

    def heads(rows: Float[Array, "T H*D"]) -> Float[Array, "T H D"]:
        return rows.reshape(rows.shape[0], -1, config.head_dim)

    def layer(
        stream: Float[Array, "T E"], weights_and_cache: tuple[LayerParams, Any]
    ) -> tuple[Float[Array, "T E"], Any]:
        weights, layer_cache = weights_and_cache
        dtype = weights.query.dtype
        normed = rms_norm(stream, weights.attention_norm, config.rms_norm_eps).astype(dtype)
        q = heads(project(normed, weights.query, weights.query_bias))
        k = heads(project(normed, weights.key, weights.key_bias))
        v = heads(project(normed, weights.value, weights.value_bias)).astype(dtype)
        if weights.query_norm is not None and weights.key_norm is not None:
            q = rms_norm(q, weights.query_norm, config.rms_norm_eps)
            k = rms_norm(k, weights.key_norm, config.rms_norm_eps)
        q = rope.rotate(q, *rotation).astype(dtype)
        k = rope.rotate(k, *rotation).astype(dtype)
        attended = attend(q, k, v, layer_cache).reshape(stream.shape[0], -1).astype(dtype)
        output = _reduced(project(attended, weights.output), all_reduce)
        if weights.output_bias is not None:
            output = output + weights.output_bias
        stream = stream + output
        normed = rms_norm(stream, weights.feed_forward_norm, config.rms_norm_eps).astype(dtype)
        gated = jax.nn.silu(project(normed, weights.gate)) * project(normed, weights.up)
        down = project(gated.astype(dtype), weights.down)
        return stream + _reduced(down, all_reduce), (k, v)

    return layer


def _packed_layer(
    layers: LayerParams,
    config: ModelConfig,
    rotation: Rotation,
    rows: Int[Array, ""],
    attend: Attend,
    all_reduce: AllReduce,
) -> Layer:
    """Returns the same by `cpu_operations`, over (index of the layer, cache of the layer).

    The weights of all layers are at hand: a slice of them would be a copy.
    """
    assert isinstance(layers.output, PackedWeights)
    dtype, output_weights = layers.output.dtype, layers.output

    def layer(
        stream: Float[Array, "T E"], index_and_cache: tuple[Int[Array, ""], Any]
    ) -> tuple[Float[Array, "T E"], Any]:
        index, layer_cache = index_and_cache
        q, k, v = cpu_operations.attention_inputs(layers, index, stream, rows, *rotation, config)
        attended = attend(q, k, v, layer_cache).reshape(stream.shape[0], -1).astype(dtype)
        output = functools.partial(
            cpu_operations.projection, attended, output_weights, layer=index, num_rows=rows
        )
        forward = functools.partial(
            cpu_operations.feed_forward, layers, index, num_rows=rows, eps=config.rms_norm_eps
        )
        if all_reduce is None:
            stream = output(layers.output_bias, residual=stream)
            return forward(stream, add_residual=True), (k, v)
        stream = stream + all_reduce(output())
        if layers.output_bias is not None:
            stream = stream + cpu_operations.floats(layers.output_bias)[index]
        return stream + all_reduce(forward(stream, add_residual=False)), (k, v)

    return layer


def _reduced(partial: Float[Array, "T E"], all_reduce: AllReduce) -> Float[Array, "T E"]:
    return partial if all_reduce is None else all_reduce(partial)


def _scan(
    layer: Layer, stream: Float[Array, "T E"], stacked: Any, return_kv: bool
) -> tuple[Float[Array, "T E"], KeysAndValues | None]:
    """Runs all layers; a layer sees bfloat16 where `stacked` holds bits, which slice faster on a CPU."""
    bits = any(array.dtype == jnp.uint16 for array in jax.tree.leaves(stacked))

    def step(stream: Float[Array, "T E"], slices: Any) -> tuple[Float[Array, "T E"], Any]:
        if not bits:
            stream, kv = layer(stream, slices)
            return stream, kv if return_kv else None
        stream, kv = layer(stream, jax.tree.map(from_bits, slices))
        return stream, jax.tree.map(to_bits, kv) if return_kv else None

    stream, keys_and_values = lax.scan(
        step, stream, jax.tree.map(to_bits, stacked) if bits else stacked
    )
    return stream, jax.tree.map(from_bits, keys_and_values)


def head_weights(params: Params) -> Float[Array, "V E"] | PackedWeights:
    """Returns the weights that turn rows into logits."""
    weights = params.embedding if params.head is None else params.head
    return weights if isinstance(weights, PackedWeights) else from_bits(weights)


def rms_norm(
    x: Float[Array, "... N"], weight: Float[Array, "N"], eps: float
) -> Float[Array, "... N"]:
    """Returns x / rms(x) * weight over the last axis. x is float32, and so is the result."""
    scale = lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps)
    return x * scale * weight


def project(
    x: Float[Array, "T N"],
    weight: Float[Array, "M N"] | PackedWeights,
    bias: Float[Array, "M"] | None = None,
) -> Float[Array, "T M"]:
    """Multiplies x by the transposed weight, of the same dtype, and adds the bias, in float32."""
    if isinstance(weight, PackedWeights):
        return cpu_operations.projection(x, weight, None if bias is None else bias[None])
    # HIGHEST: without it a TPU computes float32 products from one bfloat16 pass.
    product: Float[Array, "T M"] = lax.dot_general(
        x,
        weight,
        (((1,), (1,)), ((), ())),
        precision=lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )
    return product if bias is None else product + bias
