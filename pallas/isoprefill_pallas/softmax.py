"""The softmax of the TPU kernel: weights against an anchor per row, and the certificate of their sum.

Exponentials are taken against a fixed anchor per row, HEADROOM bits above its largest score in its window or among the
first columns that it sees, instead of a running maximum: the accumulator is then never rescaled and no maximum is
taken over all scores. An anchor need not be a bound. Every row's sum l certifies it afterwards: with 2^-64 < l < 2^80
nothing has overflowed and what underflowed is below 2^-40 of the result. The headroom lets scores be up to 112 bits
above the anchor's columns, and costs nothing: l is at least 2^-32. Rows out of range get the log-sum-exp NaN, and the
caller takes their results from the running-maximum variant (online=True). Anchor and certificate of a row are functions
of the row's query and of keys that it sees, so other items cannot change which variant a row gets.

The certificate does not look at the sums of V, which the same weights make: in a certified row they may overflow
where |V| reaches 2^48, and lose products that are flushed to zero where |V| is below about 2^-40.

Scores are in base 2, [columns, R] as in kernel.py, and what is per row is [1, R].
"""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

LOG2_E = math.log2(math.e)
# What a masked score becomes. Not -inf, which turns a row that sees nothing into NaN; and far below the scores
# of huge keys.
HIDDEN = -0.7 * float(jnp.finfo(jnp.float32).max)
HEADROOM = 32.0
LEAST_CERTIFIED, MOST_CERTIFIED = 2.0**-64, 2.0**80

_NT = (((1,), (1,)), ((), ()))  # x [m, d], y [n, d] -> x y^T
_NN = (((1,), (0,)), ((), ()))

PerRow = Float[Array, "1 R"]


def _dot(x: jax.Array, y: jax.Array, dimensions) -> jax.Array:
    # The MXU multiplies float32 in bfloat16 passes unless told otherwise.
    precision = lax.Precision.HIGHEST if x.dtype == jnp.float32 else lax.Precision.DEFAULT
    return lax.dot_general(
        x, y, dimensions, precision=precision, preferred_element_type=jnp.float32
    )


def scores(
    keys: Float[Array, "columns D"], queries: Float[Array, "R D"], log2_cap: float | None
) -> Float[Array, "columns R"]:
    """Returns the scores of scaled queries, capped, in base 2."""
    s = _dot(keys, queries, _NT)
    return s if log2_cap is None else log2_cap * jnp.tanh(s * (1 / log2_cap))


def weights(s: Float[Array, "columns R"], subtract: PerRow, dtype) -> Float[Array, "columns R"]:
    """Returns 2^(s - subtract), in the dtype that multiplies V."""
    return jnp.exp2(s - subtract).astype(dtype)


def weigh(
    v_t: Float[Array, "depth columns"], weight: Float[Array, "columns R"]
) -> Float[Array, "depth R"]:
    """Returns the weighted sums of the values, float32; the sums of the weights too, where V^T has rows of ones."""
    return _dot(v_t, weight, _NN)


def raise_top(s: Float[Array, "columns R"], top: PerRow) -> tuple[PerRow, PerRow, PerRow]:
    """Returns of a running maximum: the new one, what to subtract from scores, the factor for the accumulator."""
    new = jnp.maximum(top, s.max(axis=0, keepdims=True))
    # A row that has seen nothing yet: subtract 0, so that its masked scores weigh 0 and not 1.
    subtract = jnp.where(new <= HIDDEN, 0.0, new)
    return new, subtract, jnp.exp2(top - subtract)


def certified(total: PerRow) -> Bool[Array, "1 R"]:
    """Tells whether a row's sum of weights says that its anchor was good enough."""
    return (total > LEAST_CERTIFIED) & (total < MOST_CERTIFIED)
