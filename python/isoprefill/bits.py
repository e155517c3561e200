"""bfloat16 as integers, for a CPU.

XLA's CPU compiler does not slice, pad or gather bfloat16: it converts the whole array to float32 first, which for one
layer of stacked weights is all layers, at every call. So there bfloat16 weights are stored as uint16, their bits, and
become bfloat16 after they are sliced; what calls C++ hands it bits. An array of uint16 always means
that, but for packed weights that are parts of float32, which say so (`models.packed_weights`).
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Shaped


def to_bits(array: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
    """Returns bfloat16 as its bits, anything else unchanged."""
    return lax.bitcast_convert_type(array, jnp.uint16) if array.dtype == jnp.bfloat16 else array


def from_bits(array: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
    """Returns bits as bfloat16, anything else unchanged."""
    return lax.bitcast_convert_type(array, jnp.bfloat16) if array.dtype == jnp.uint16 else array
