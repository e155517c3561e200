"""Whether all weights are finite numbers.

One NaN makes every score NaN, or, where a softmax hides it, a wrong number. It is found by the bits: infinity and NaN
are those with all bits of the exponent set. To compare integers, in pieces that stay in the cache, is much cheaper than
NumPy's isfinite, which writes an array of its own and is slow for bfloat16.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

_PIECE = 1 << 16  # values
# By dtype: the integer of its bits, all of them but the sign, and those of infinity.
_BITS = {
    "float32": (np.uint32, 0x7FFFFFFF, 0x7F800000),
    "bfloat16": (np.uint16, 0x7FFF, 0x7F80),
    "float16": (np.uint16, 0x7FFF, 0x7C00),
}
_ROUNDED_TO_INFINITY = 0x7F7F8000  # the least float32 that bfloat16 has no finite number for


def check_finite(
    tensor: str, values: Shaped[np.ndarray, "..."], dtype: str
) -> Shaped[np.ndarray, "..."]:
    """Returns the values, float32 if they were neither that, nor bfloat16, nor float16.

    Args:
        tensor: what the values are called.
        values: of any floating-point dtype.
        dtype: "float32" or "bfloat16", as which they will be stored.

    Raises:
        ValueError: a value is NaN or infinite, or would be infinite in `dtype`; names the tensor and the place.
    """
    name = jnp.dtype(values.dtype).name
    if name not in _BITS:
        with np.errstate(over="ignore"):  # infinity is found below
            values, name = np.asarray(values, np.float32), "float32"
    kind, magnitude, limit = _BITS[name]
    if name == "float32" and dtype == "bfloat16":
        limit = _ROUNDED_TO_INFINITY
    bits = np.ascontiguousarray(values).reshape(-1).view(kind)
    for begin in range(0, bits.size, _PIECE):
        piece = bits[begin : begin + _PIECE] & kind(magnitude)
        if piece.max() >= limit:
            first = begin + int((piece >= limit).argmax())
            place = [int(index) for index in np.unravel_index(first, values.shape)]
            raise ValueError(
                f"tensor {tensor} must be finite in {dtype}, but holds {float(values.reshape(-1)[first])} at {place}"
            )
    return values
