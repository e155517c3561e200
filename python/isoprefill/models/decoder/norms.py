"""RMS norms of rows: of what one device has, or of the heads that several devices share out.

Letters: T rows, E hidden_size, L layers, H heads of one kind that a device has (Hq query heads, Hkv key and value
heads), D head_dim, M outputs of a projection.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from isoprefill.models.config.config import ModelConfig
from isoprefill.models.decoder import cpu_operations, rope
from isoprefill.models.weights.params import LayerParams

# Sums over the devices that hold parts of the heads and of the feed-forward width, if there are several.
AllReduce = Callable[[Float[Array, "T N"]], Float[Array, "T N"]] | None


def rms_norm(
    x: Float[Array, "... N"], weight: Float[Array, "N"], eps: float
) -> Float[Array, "... N"]:
    """Returns x / rms(x) * weight over the last axis. x is float32, and so is the result."""
    scale = lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps)
    return x * scale * weight


def norm_of_all_heads(
    x: Float[Array, "T H*D"],
    weight: Float[Array, "H*D"] | None,
    config: ModelConfig,
    all_reduce: AllReduce,
) -> Float[Array, "T H*D"]:
    """Returns x / rms(x) * weight over the heads of all devices. x is float32, and so is the result."""
    assert weight is not None
    if all_reduce is None:
        return rms_norm(x, weight, config.rms_norm_eps)
    # Every device has as many heads as the others.
    squares = all_reduce(jnp.sum(x * x, axis=-1, keepdims=True))
    width = all_reduce(jnp.full((1, 1), x.shape[-1], x.dtype))
    return x * lax.rsqrt(squares / width + config.rms_norm_eps) * weight


def inputs_normed_over_devices(
    layers: LayerParams,
    index: Int[Array, ""],
    stream: Float[Array, "T E"],
    rows: Int[Array, ""],
    rotation: rope.Rotation,
    config: ModelConfig,
    all_reduce: AllReduce,
) -> tuple[Float[Array, "T Hq D"], Float[Array, "T Hkv D"], Float[Array, "T Hkv D"]]:
    """Returns this device's queries, keys and values, where a norm is of the heads of all devices."""
    dtype = layers.output.dtype
    if layers.attention_norm is not None:
        stream = rms_norm(stream, layers.attention_norm[index], config.rms_norm_eps)
    inputs = stream.astype(dtype)

    def heads(
        weights: Any, bias: Float[Array, "L M"] | None, norms: Float[Array, "L M"] | None
    ) -> Float[Array, "T H D"]:
        x = cpu_operations.projection(inputs, weights, bias, layer=index, num_rows=rows)
        if norms is not None:
            x = norm_of_all_heads(x, norms[index], config, all_reduce)
        return x.reshape(x.shape[0], -1, config.head_dim)

    q = heads(layers.query, layers.query_bias, layers.query_projection_norm)
    k = heads(layers.key, layers.key_bias, layers.key_projection_norm)
    v = heads(layers.value, layers.value_bias, None)
    q, k = (rope.rotate(one, *rotation) for one in (q, k))
    return q.astype(dtype), k.astype(dtype), v.astype(dtype)
