"""The Llama-family decoder: RMSNorm, RoPE, grouped-query attention, SwiGLU.

The decoder knows nothing of items or masks: the caller passes the attention. A row's arithmetic is the same wherever in
the array the row stands, so scores do not depend on how rows are packed.

Letters: T rows, R read-out rows, V vocab_size, E hidden_size, F intermediate_size, L layers, Hq query heads, Hkv key
and value heads, D head_dim. Weights are [out, in], as in both checkpoint formats: XLA multiplies either orientation
equally fast and loading need not transpose. Layers are stacked on axis 0 and scanned: unrolling them costs a tenfold
compilation and, with stacked weights, a copy of them all.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from isoprefill.bits import from_bits, to_bits
from isoprefill.models import rope
from isoprefill.models.config import ModelConfig
from isoprefill.models.matrix_product import multiply_transposed


class LayerParams(NamedTuple):
    """Weights of all layers, stacked on axis L; `parameters` has a row of each. What a model lacks is None."""

    attention_norm: Float[Array, "L E"]
    query: Float[Array, "L Hq*D E"]
    key: Float[Array, "L Hkv*D E"]
    value: Float[Array, "L Hkv*D E"]
    output: Float[Array, "L E Hq*D"]
    feed_forward_norm: Float[Array, "L E"]
    gate: Float[Array, "L F E"]
    up: Float[Array, "L F E"]
    down: Float[Array, "L E F"]
    query_bias: Float[Array, "L Hq*D"] | None = None
    key_bias: Float[Array, "L Hkv*D"] | None = None
    value_bias: Float[Array, "L Hkv*D"] | None = None
    output_bias: Float[Array, "L E"] | None = None
    query_norm: Float[Array, "L D"] | None = None
    key_norm: Float[Array, "L D"] | None = None


class Params(NamedTuple):
    """All weights, or the bits of them (isoprefill.bits). `head` is None when it is tied to `embedding`."""

    embedding: Float[Array, "V E"]
    layers: LayerParams
    final_norm: Float[Array, "E"]
    head: Float[Array, "V E"] | None = None

    @classmethod
    def from_fields(cls, weights: Mapping[str, Array]) -> "Params":
        """Makes both classes of one mapping, by the fields of both."""
        layers = {field: weights[field] for field in LayerParams._fields if field in weights}
        others = {field: array for field, array in weights.items() if field not in layers}
        return cls(layers=LayerParams(**layers), **others)


Attend = Callable[
    [Float[Array, "T Hq D"], Float[Array, "T Hkv D"], Float[Array, "T Hkv D"], Any],
    Float[Array, "T Hq D"],
]
KeysAndValues = tuple[Float[Array, "L T Hkv D"], Float[Array, "L T Hkv D"]]


def decode(
    params: Params,
    config: ModelConfig,
    token_ids: Int[Array, "T"],
    positions: Int[Array, "T"],
    attend: Attend,
    cache: Any = None,
    *,
    return_kv: bool = False,
    all_reduce: Callable[[Float[Array, "T E"]], Float[Array, "T E"]] = lambda partial: partial,
) -> tuple[Float[Array, "T E"], KeysAndValues | None]:
    """Runs all layers over T rows.

    Args:
        params: weights. Their dtype is that of what matmuls read and of the keys and values; what is added up between
            them stays in float32.
        config: sizes and switches (static under jit).
        token_ids: one a row.
        positions: each in [0, config.max_positions).
        attend: of q, k, v and the layer's slice of the cache. q and k are after RoPE; q is not scaled. The result may
            be of any float dtype.
        cache: any pytree whose leaves have a leading layer axis, or None.
        return_kv: return the keys and values of these rows.
        all_reduce: sums over the devices that hold parts of the heads and of the feed-forward width.

    Returns:
        hidden states after the final norm [T, E], and (keys, values), each [L, T, Hkv, D], if `return_kv`, else None.
    """
    frequencies = rope.inverse_frequencies(
        config.head_dim, config.rope_theta, config.rope_frequency_divisors
    )
    cosine, sine = rope.rotation(positions, frequencies)

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
        q = rope.rotate(q, cosine, sine).astype(dtype)
        k = rope.rotate(k, cosine, sine).astype(dtype)
        attended = attend(q, k, v, layer_cache).reshape(stream.shape[0], -1).astype(dtype)
        output = all_reduce(project(attended, weights.output))
        if weights.output_bias is not None:
            output = output + weights.output_bias
        stream = stream + output
        normed = rms_norm(stream, weights.feed_forward_norm, config.rms_norm_eps).astype(dtype)
        gated = jax.nn.silu(project(normed, weights.gate)) * project(normed, weights.up)
        stream = stream + all_reduce(project(gated.astype(dtype), weights.down))
        return stream, (k, v) if return_kv else None

    stream = from_bits(params.embedding[token_ids]).astype(jnp.float32)
    stream, keys_and_values = _scan(layer, stream, (params.layers, cache))
    final_norm = from_bits(params.final_norm)
    hidden = rms_norm(stream, final_norm, config.rms_norm_eps)
    return hidden.astype(final_norm.dtype), keys_and_values


def _scan(layer: Any, carry: Any, stacked: Any) -> tuple[Any, Any]:
    """Runs `lax.scan(layer, carry, stacked)`; the layer sees bfloat16 where `stacked` holds bits."""
    if not any(array.dtype == jnp.uint16 for array in jax.tree.leaves(stacked)):
        return lax.scan(layer, carry, stacked)

    def layer_of_bits(carry: Any, slices: Any) -> tuple[Any, Any]:
        carry, result = layer(carry, jax.tree.map(from_bits, slices))
        return carry, jax.tree.map(to_bits, result)

    carry, results = lax.scan(layer_of_bits, carry, jax.tree.map(to_bits, stacked))
    return carry, jax.tree.map(from_bits, results)


def head_weights(params: Params) -> Float[Array, "V E"]:
    """Returns the weights that turn rows into logits."""
    return from_bits(params.embedding if params.head is None else params.head)


def rms_norm(
    x: Float[Array, "... N"], weight: Float[Array, "N"], eps: float
) -> Float[Array, "... N"]:
    """Returns x / rms(x) * weight over the last axis. x is float32, and so is the result."""
    scale = lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps)
    return x * scale * weight


def project(
    x: Float[Array, "T N"], weight: Float[Array, "M N"], bias: Float[Array, "M"] | None = None
) -> Float[Array, "T M"]:
    """Multiplies x by the transposed weight, of the same dtype, and adds the bias, in float32."""
    product = multiply_transposed(x, weight)
    return product if bias is None else product + bias
