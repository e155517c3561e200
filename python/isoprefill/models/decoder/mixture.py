"""A mixture of experts as XLA computes it: `cpu_operations.experts` is the same for packed weights.

No row is left out and no expert has a capacity, so a row's result does not depend on which experts other rows choose.

Letters: T rows, E hidden_size, X experts, Fx width of an expert, K experts chosen for a row.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int32

from isoprefill.models.config.experts import Experts

Gate = Callable[[Float[Array, "R Fx"], Float[Array, "R Fx"]], Float[Array, "R Fx"]]


class ExpertWeights(NamedTuple):
    """Of all experts of a layer; biases may be None."""

    gate: Float[Array, "X Fx E"]
    up: Float[Array, "X Fx E"]
    down: Float[Array, "X E Fx"]
    gate_bias: Float[Array, "X Fx"] | None = None
    up_bias: Float[Array, "X Fx"] | None = None
    down_bias: Float[Array, "X E"] | None = None


# Rows [R, N], sorted by expert, times the transposed weights [X, M, N] of their experts.
_TIMES_TRANSPOSED = lax.RaggedDotDimensionNumbers(
    dot_dimension_numbers=(((1,), (2,)), ((), ())),
    lhs_ragged_dimensions=(0,),
    rhs_group_dimensions=(0,),
)


def route(
    logits: Float[Array, "T X"], experts: Experts
) -> tuple[Int32[Array, "T K"], Float[Array, "T K"]]:
    """Returns each row's experts and their shares, the largest first; of equals the first expert."""
    shares, chosen = lax.top_k(jax.nn.softmax(logits.astype(jnp.float32)), experts.chosen)
    if experts.normalised:
        shares = shares / shares.sum(axis=-1, keepdims=True)
    return chosen, shares


def mix(
    x: Float[Array, "T E"],
    logits: Float[Array, "T X"],
    weights: ExpertWeights,
    experts: Experts,
    gated: Gate,
) -> Float[Array, "T E"]:
    """Returns the sum over each row's experts of share * down(gated(gate(x), up(x))), float32.

    Args:
        x: the normed rows, of the weights' dtype.
        logits: the router's.
        weights: of all experts.
        experts: numbers and switches.
        gated: what becomes of the gate and of what goes through it.
    """
    chosen, shares = route(logits, experts)
    order = jnp.argsort(chosen.reshape(-1), stable=True)
    sizes = jnp.bincount(chosen.reshape(-1), length=experts.number).astype(jnp.int32)
    of_rows = chosen.reshape(-1)[order]

    def product(
        rows: Float[Array, "R N"],
        matrices: Float[Array, "X M N"],
        biases: Float[Array, "X M"] | None,
    ) -> Float[Array, "R M"]:
        multiplied = _product(rows, matrices, sizes)
        return multiplied if biases is None else multiplied + biases[of_rows]

    rows = x[order // experts.chosen]
    inside = gated(
        product(rows, weights.gate, weights.gate_bias), product(rows, weights.up, weights.up_bias)
    )
    results = product(inside.astype(x.dtype), weights.down, weights.down_bias)
    # A gather, and a sum in the order in which they were chosen: the same for every row.
    results = results[jnp.argsort(order)].reshape(*chosen.shape, -1)
    return (results * shares[..., None]).sum(axis=1)


def _product(
    x: Float[Array, "R N"], weights: Float[Array, "X M N"], sizes: Int32[Array, "X"]
) -> Float[Array, "R M"]:
    product: Float[Array, "R M"] = lax.ragged_dot_general(
        x,
        weights,
        sizes,
        _TIMES_TRANSPOSED,
        precision=lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )
    return product
