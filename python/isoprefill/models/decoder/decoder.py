"""The decoder: RMSNorm, RoPE, grouped-query attention, and a gated feed-forward part or a mixture of experts.

It is Llama's, with the switches of `ModelConfig` for what other families do otherwise. The decoder knows nothing of
items or masks: the caller passes the attention. A row's arithmetic is the same wherever in the array the row stands, so
scores do not depend on how rows are packed (but for sums over devices: `row_shares`). With packed weights
(`packed_weights`) its operations are those of `cpu_operations`.

Letters: T rows, t those of one device (`row_shares`), V vocab_size, E hidden_size, L layers, Hq query heads, Hkv key
and value heads, D head_dim. Weights are [out, in]. Layers are stacked on axis 0 and scanned: unrolling them costs a
tenfold compilation and, with stacked weights, a copy of them all.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from isoprefill.bits import from_bits, to_bits
from isoprefill.models.config.architectures import find_architecture
from isoprefill.models.config.config import Activation, LayerRope, ModelConfig
from isoprefill.models.decoder import cpu_operations, mixture, rope
from isoprefill.models.decoder.norms import (
    AllReduce,
    inputs_normed_over_devices,
    norm_of_all_heads,
    rms_norm,
)
from isoprefill.models.decoder.row_shares import ONE_DEVICE, RowShares
from isoprefill.models.weights.packed_weights import PackedWeights
from isoprefill.models.weights.params import LayerParams, Params

Attend = Callable[
    [Float[Array, "T Hq D"], Float[Array, "T Hkv D"], Float[Array, "T Hkv D"], Any],
    Float[Array, "T Hq D"],
]
Layer = Callable[[Float[Array, "t E"], Any], tuple[Float[Array, "t E"], Any]]


@dataclasses.dataclass(frozen=True, slots=True)
class LayerKernels:
    """What a device computes of a layer by kernels of its own, which read the layer's part of stacked weights.

    Attributes:
        heads: of rows [T, E], weights [L, H*D, E], the layer's index, the rows' cosine and sine or None, and the
            heads' norm [D] or None: the rows' heads [T, H*D], normalised and rotated; None: XLA computes them.
        gated: of rows, the gate's and up's weights [L, F, E] and the index: what `down` multiplies, [T, F].
    """

    heads: Callable[..., Float[Array, "T H*D"]] | None = None
    gated: Callable[..., Float[Array, "T F"]] | None = None


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
    shares: RowShares = ONE_DEVICE,
    kernels: LayerKernels | None = None,
) -> tuple[Float[Array, "T E"], KeysAndValues | None]:
    """Runs all layers over T rows.

    Args:
        params: weights. The matrices' dtype is that of what matmuls read and of the keys and values; what is added up
            between them stays in float32.
        config: sizes and switches (static under jit).
        token_ids: one a row. Below 0, -1 - i, they stand for `vectors[i]`.
        positions: each in [0, config.max_positions).
        attend: of q, k, v and the layer's slice of the cache. q and k are after RoPE; q is not scaled. The result may
            be of any float dtype.
        cache: any pytree whose leaves have a leading layer axis, or None.
        num_rows: how many rows matter; None: all. With packed weights the others are not computed.
        vectors: what rows have instead of an embedding of a token, float32; None: no row has.
        return_kv: return the keys and values of these rows.
        shares: how the devices that hold parts of the heads and of the feed-forward width add them up, and which rows
            each has between products; with packed weights each has all.
        kernels: what the device computes of a layer by kernels of its own; not with packed weights.

    Returns:
        hidden states after the final norm [T, E], and (keys, values), each [L, T, Hkv, D], if `return_kv`, else None.
    """
    rotations = Rotations.of(config, positions)
    head = head_weights(params)
    indices = jnp.arange(config.num_layers, dtype=jnp.int32)
    if isinstance(params.embedding, PackedWeights):
        rows = jnp.asarray(token_ids.shape[0] if num_rows is None else num_rows, jnp.int32)
        known = jnp.maximum(token_ids, 0).astype(jnp.int32)
        stream = cpu_operations.embed(params.embedding, known, rows)
        stream = _with_vectors(stream, token_ids, vectors)
        stream = scaled_embeddings(stream, config, params.embedding.dtype)
        layer = _packed_layer(params.layers, config, rotations, rows, attend, shares.all_reduce)
        stream, keys_and_values = _scan(layer, stream, (indices, cache), return_kv)
        assert isinstance(head, PackedWeights)
        hidden = cpu_operations.norm(stream, params.final_norm, rows, config.rms_norm_eps, head)
        return hidden, keys_and_values
    # Without it a TPU's compiler computes sine and cosine in every layer, instead of once.
    rotations = dataclasses.replace(rotations, kinds=lax.optimization_barrier(rotations.kinds))
    with jax.named_scope("embedding"):
        token_ids = shares.own(token_ids)
        embeddings = from_bits(params.embedding[jnp.maximum(token_ids, 0)])
    stream = _with_vectors(embeddings.astype(jnp.float32), token_ids, vectors)
    stream = scaled_embeddings(stream, config, embeddings.dtype)
    layer = _layer(config, rotations, attend, shares, kernels or LayerKernels(), params.layers)
    stream, keys_and_values = _scan(layer, stream, (params.layers, indices, cache), return_kv)
    with jax.named_scope("norm"):
        hidden = rms_norm(stream, params.final_norm, config.rms_norm_eps)
    return shares.gathered(hidden.astype(head.dtype)), keys_and_values


@dataclasses.dataclass(frozen=True, slots=True)
class Rotations:
    """Cosine and sine of each row's angles: of the kinds of layers that a model has, and which layer is of which.

    Attributes:
        kinds: cosine and sine of each kind.
        layers: the index of each layer's kind.
    """

    kinds: tuple[rope.Rotation, ...]
    layers: tuple[int, ...]

    @classmethod
    def of(cls, config: ModelConfig, positions: Int[Array, "T"]) -> "Rotations":
        """Makes those of a model."""
        all_global: tuple[LayerRope, ...] = ("global",)
        layers = config.layer_ropes or all_global * config.num_layers
        kinds = list(dict.fromkeys(layers))
        return cls(
            tuple(rope.rotation(config, kind, positions) for kind in kinds),
            tuple(map(kinds.index, layers)),
        )

    def at(self, layer: Int[Array, ""]) -> rope.Rotation:
        """Returns those of one layer."""
        if len(self.kinds) == 1:
            return self.kinds[0]
        kind = jnp.asarray(self.layers)[layer]
        cosine, sine = (jnp.stack(arrays)[kind] for arrays in zip(*self.kinds, strict=True))
        return cosine, sine


def _with_vectors(
    embedded: Float[Array, "T E"],
    token_ids: Int[Array, "T"],
    vectors: Float[Array, "R E"] | None,
) -> Float[Array, "T E"]:
    """Returns the embeddings with vectors where there is no token."""
    if vectors is None:
        return embedded
    return jnp.where(token_ids[:, None] < 0, vectors[jnp.maximum(-1 - token_ids, 0)], embedded)


def scaled_embeddings(
    embeddings: Float[Array, "T E"], config: ModelConfig, dtype: jnp.dtype
) -> Float[Array, "T E"]:
    """Returns float32 embeddings times their scale, which some models round to the weights' dtype."""
    if config.embedding_scale == 1.0:
        return embeddings
    rounds = find_architecture(config.architecture).embedding_scaled
    return embeddings * np.asarray(config.embedding_scale, dtype if rounds else np.float32).astype(
        np.float32
    )


def _layer(
    config: ModelConfig,
    rotations: Rotations,
    attend: Attend,
    shares: RowShares,
    kernels: LayerKernels,
    stacked: LayerParams,
) -> Layer:
    """Returns one layer as `_scan` calls it, over (weights of the layer, its index, its cache).

    Kernels read the weights of all layers, `stacked`.
    """

    def heads(rows: Float[Array, "T H*D"]) -> Float[Array, "T H D"]:
        return rows.reshape(rows.shape[0], -1, config.head_dim)

    def norm(x: Float[Array, "... N"], weight: Float[Array, "N"] | None) -> Float[Array, "... N"]:
        if weight is None:
            return x
        with jax.named_scope("norm"):
            return rms_norm(x, weight, config.rms_norm_eps)

    def attention_inputs(
        normed: Float[Array, "T E"], weights: LayerParams, index: Int[Array, ""]
    ) -> tuple[Float[Array, "T Hq D"], Float[Array, "T Hkv D"], Float[Array, "T Hkv D"]]:
        dtype, rotation = normed.dtype, rotations.at(index)
        if kernels.heads is not None:
            q = kernels.heads(normed, stacked.query, index, rotation, weights.query_norm)
            k = kernels.heads(normed, stacked.key, index, rotation, weights.key_norm)
            v = kernels.heads(normed, stacked.value, index, None, None)
            return heads(q), heads(k), heads(v)
        with jax.named_scope("projections"):
            q = project(normed, weights.query, weights.query_bias)
            k = project(normed, weights.key, weights.key_bias)
            v = heads(project(normed, weights.value, weights.value_bias)).astype(dtype)
        if config.projection_norm:
            q = norm_of_all_heads(q, weights.query_projection_norm, config, shares.all_reduce)
            k = norm_of_all_heads(k, weights.key_projection_norm, config, shares.all_reduce)
        with jax.named_scope("rope"):
            q = rope.rotate(norm(heads(q), weights.query_norm), *rotation).astype(dtype)
            k = rope.rotate(norm(heads(k), weights.key_norm), *rotation).astype(dtype)
        return q, k, v

    def layer(
        stream: Float[Array, "t E"], slices: tuple[LayerParams, Int[Array, ""], Any]
    ) -> tuple[Float[Array, "t E"], Any]:
        weights, index, layer_cache = slices
        dtype = weights.query.dtype
        normed = shares.gathered(norm(stream, weights.attention_norm).astype(dtype))
        q, k, v = attention_inputs(normed, weights, index)
        attended = attend(q, k, v, layer_cache).reshape(q.shape[0], -1).astype(dtype)
        with jax.named_scope("projections"):
            output = shares.summed(project(attended, weights.output))
        if weights.output_bias is not None:
            output = output + weights.output_bias
        output = norm(output, weights.post_attention_norm)
        stream = stream + output * config.residual_scale
        normed = shares.gathered(norm(stream, weights.feed_forward_norm).astype(dtype))
        with jax.named_scope("feed_forward"):
            down = shares.summed(feed_forward(normed, weights, index))
        down = norm(down, weights.post_feed_forward_norm)
        return stream + down * config.residual_scale, (k, v)

    def feed_forward(
        x: Float[Array, "T E"], weights: LayerParams, index: Int[Array, ""]
    ) -> Float[Array, "T E"]:
        if config.experts is None:
            gate, up, down = map(_plain, (weights.gate, weights.up, weights.down))
            if kernels.gated is not None:
                return project(kernels.gated(x, stacked.gate, stacked.up, index), down)
            return project(gated(project(x, gate), project(x, up)).astype(x.dtype), down)
        logits = project(x, _plain(weights.router), weights.router_bias)
        gate, up, down = map(_plain, (weights.expert_gate, weights.expert_up, weights.expert_down))
        biases = (weights.expert_gate_bias, weights.expert_up_bias, weights.expert_down_bias)
        matrices = mixture.ExpertWeights(gate, up, down, *biases)
        return mixture.mix(x, logits, matrices, config.experts, gated)

    gated = GATES[config.activation]
    return layer


def _plain(weights: Float[Array, "..."] | PackedWeights | None) -> Float[Array, "..."]:
    """Returns weights that the model has, and that are not packed."""
    assert weights is not None
    assert not isinstance(weights, PackedWeights)
    return weights


def _clamped_silu(gate: Float[Array, "T F"], up: Float[Array, "T F"]) -> Float[Array, "T F"]:
    gate = jnp.minimum(gate, 7.0)
    return gate * jax.nn.sigmoid(1.702 * gate) * (1.0 + jnp.clip(up, -7.0, 7.0))


# What a feed-forward part makes of its gate and of what goes through it.
GATES: dict[Activation, mixture.Gate] = {
    "silu": lambda gate, up: jax.nn.silu(gate) * up,
    "gelu_tanh": lambda gate, up: jax.nn.gelu(gate, approximate=True) * up,
    "clamped_silu": _clamped_silu,
}


def _packed_layer(
    layers: LayerParams,
    config: ModelConfig,
    rotations: Rotations,
    rows: Int[Array, ""],
    attend: Attend,
    all_reduce: AllReduce,
) -> Layer:
    """Returns the same by `cpu_operations`, over (index of the layer, cache of the layer).

    The weights of all layers are at hand: a slice of them would be a copy.
    """
    assert isinstance(layers.output, PackedWeights)
    dtype, output_weights = layers.output.dtype, layers.output
    adds = all_reduce is None and not config.post_norms
    single = config.experts is None
    feed_forward = cpu_operations.feed_forward if single else cpu_operations.experts

    def added(
        stream: Float[Array, "T E"],
        part: Float[Array, "T E"],
        post_norms: Float[Array, "L E"] | None,
        index: Int[Array, ""],
    ) -> Float[Array, "T E"]:
        if post_norms is None:
            return stream + part * config.residual_scale
        return cpu_operations.add_normed(stream, part, post_norms, index, rows, config.rms_norm_eps)

    def layer(
        stream: Float[Array, "T E"], index_and_cache: tuple[Int[Array, ""], Any]
    ) -> tuple[Float[Array, "T E"], Any]:
        index, layer_cache = index_and_cache
        rotation = rotations.at(index)
        if config.projection_norm and all_reduce is not None:
            q, k, v = inputs_normed_over_devices(
                layers, index, stream, rows, rotation, config, all_reduce
            )
        else:
            q, k, v = cpu_operations.attention_inputs(
                layers, index, stream, rows, *rotation, config
            )
        attended = attend(q, k, v, layer_cache).reshape(stream.shape[0], -1).astype(dtype)
        output = functools.partial(
            cpu_operations.projection, attended, output_weights, layer=index, num_rows=rows
        )
        forward = functools.partial(feed_forward, layers, index, num_rows=rows, config=config)
        if adds:
            stream = output(layers.output_bias, residual=stream, scale=config.residual_scale)
            return forward(stream, add_residual=True), (k, v)
        if all_reduce is None:
            part = output(layers.output_bias)
        else:
            part = all_reduce(output())
            if layers.output_bias is not None:
                part = part + layers.output_bias[index]
        stream = added(stream, part, layers.post_attention_norm, index)
        part = forward(stream, add_residual=False)
        if all_reduce is not None:
            part = all_reduce(part)
        return added(stream, part, layers.post_feed_forward_norm, index), (k, v)

    return layer


def _scan(
    layer: Layer, stream: Float[Array, "t E"], stacked: Any, return_kv: bool
) -> tuple[Float[Array, "t E"], KeysAndValues | None]:
    """Runs all layers; a layer sees bfloat16 where `stacked` holds bits, which slice faster on a CPU."""
    bits = any(array.dtype == jnp.uint16 for array in jax.tree.leaves(stacked))

    def step(stream: Float[Array, "t E"], slices: Any) -> tuple[Float[Array, "t E"], Any]:
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
