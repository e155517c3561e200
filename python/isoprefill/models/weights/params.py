"""The decoder's weights as two tuples of arrays: those of every layer, and the others.

Letters: V vocab_size, C classes, E hidden_size, F intermediate_size, L layers, Hq query heads, Hkv key and value heads,
D head_dim, X experts, Fx width of an expert. Matrices are [out, in], as in both checkpoint formats; on a CPU they are
packed (`packed_weights`). Vectors are float32, whatever the matrices are. Layers are stacked on axis 0.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from isoprefill.models.weights.packed_weights import PackedWeights


class LayerParams(NamedTuple):
    """Weights of all layers, stacked on axis L; `parameters` has a row of each. What a model lacks is None."""

    query: Float[Array, "L Hq*D E"] | PackedWeights
    key: Float[Array, "L Hkv*D E"] | PackedWeights
    value: Float[Array, "L Hkv*D E"] | PackedWeights
    output: Float[Array, "L E Hq*D"] | PackedWeights
    gate: Float[Array, "L F E"] | PackedWeights | None = None
    up: Float[Array, "L F E"] | PackedWeights | None = None
    down: Float[Array, "L E F"] | PackedWeights | None = None
    router: Float[Array, "L X E"] | PackedWeights | None = None
    expert_gate: Float[Array, "L X Fx E"] | PackedWeights | None = None
    expert_up: Float[Array, "L X Fx E"] | PackedWeights | None = None
    expert_down: Float[Array, "L X E Fx"] | PackedWeights | None = None
    router_bias: Float[Array, "L X"] | None = None
    expert_gate_bias: Float[Array, "L X Fx"] | None = None
    expert_up_bias: Float[Array, "L X Fx"] | None = None
    expert_down_bias: Float[Array, "L X E"] | None = None
    sinks: Float[Array, "L Hq"] | None = None
    attention_norm: Float[Array, "L E"] | None = None
    post_attention_norm: Float[Array, "L E"] | None = None
    feed_forward_norm: Float[Array, "L E"] | None = None
    post_feed_forward_norm: Float[Array, "L E"] | None = None
    query_bias: Float[Array, "L Hq*D"] | None = None
    key_bias: Float[Array, "L Hkv*D"] | None = None
    value_bias: Float[Array, "L Hkv*D"] | None = None
    output_bias: Float[Array, "L E"] | None = None
    query_norm: Float[Array, "L D"] | None = None
    key_norm: Float[Array, "L D"] | None = None
    query_projection_norm: Float[Array, "L Hq*D"] | None = None
    key_projection_norm: Float[Array, "L Hkv*D"] | None = None


class Params(NamedTuple):
    """All weights. `head` is None when it is tied to `embedding`.

    `class_head` is that of a classification model, which has no use for the other.
    """

    embedding: Float[Array, "V E"] | PackedWeights
    layers: LayerParams
    final_norm: Float[Array, "E"]
    head: Float[Array, "V E"] | PackedWeights | None = None
    class_head: Float[Array, "C E"] | PackedWeights | None = None
    class_bias: Float[Array, "C"] | None = None

    @property
    def dtype(self) -> jnp.dtype:
        """Of the matrices, and so of what is multiplied with them and of keys and values."""
        dtype: jnp.dtype = self.embedding.dtype
        return dtype if dtype != jnp.uint16 else jnp.dtype(jnp.bfloat16)  # bits

    @classmethod
    def from_fields(cls, weights: Mapping[str, Array | PackedWeights]) -> "Params":
        """Makes both classes of one mapping, by the fields of both."""
        layers = {field: weights[field] for field in LayerParams._fields if field in weights}
        others = {field: array for field, array in weights.items() if field not in layers}
        return cls(layers=LayerParams(**layers), **others)  # type: ignore[arg-type]
