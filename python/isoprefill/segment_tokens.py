"""Segment ids and positions from packed tokens, inside `jax.jit` on a CPU.

The C++ of csrc/segment_tokens.h as an XLA FFI call. Tokens `q q q q q d a a a d b b d c c c c d` give

    segment_ids   0 0 0 0 0 -2 1 1 1 -2 2 2 -2 3 3 3 3 -2
    positions     0 1 2 3 4  4 5 6 7  4 5 6  4 5 6 7 8  4
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32

import isoprefill_csrc

_TARGET = "isoprefill_segment_tokens"
_Delimiter = Literal["hidden", "prefix_first"]

jax.ffi.register_ffi_target(_TARGET, isoprefill_csrc.ffi_targets()[_TARGET], platform="cpu")


def segment_tokens(
    tokens: Int32[Array, "*batch T"], delimiter_id: int, delimiter: _Delimiter = "hidden"
) -> tuple[Int32[Array, "*batch T"], Int32[Array, "*batch T"]]:
    """Segment ids and positions of packed tokens `q <d> i1 <d> … iN <d>`; CPU only.

    What follows the last delimiter is padding (segment -1, position 0); tokens without any are all prefix.

    Args:
        tokens: int32 [T], or [B, T] with a packed request in each row.
        delimiter_id: the token between items.
        delimiter: whether the first delimiter is hidden or belongs to the prefix.

    Returns:
        Segment ids and positions, as `PackedLayout.from_tokens` gives them.

    Raises:
        ValueError: for other dtypes, ranks or delimiters.
        jax.errors.JaxRuntimeError: when it runs, if the prefix or an item is empty; says where.
    """
    dtype = getattr(tokens, "dtype", type(tokens).__name__)
    if dtype != np.int32:  # before JAX sees them: it would wrap int64 silently
        raise ValueError(f"tokens has dtype {dtype}; it must be int32")
    tokens = jnp.asarray(tokens)
    if tokens.ndim not in (1, 2):
        raise ValueError(f"tokens has shape {tokens.shape}; it must be [T] or [B, T]")
    if delimiter not in get_args(_Delimiter):
        raise ValueError(f"delimiter is {delimiter!r}; it must be one of {get_args(_Delimiter)}")
    like_tokens = jax.ShapeDtypeStruct(tokens.shape, jnp.int32)
    call = jax.ffi.ffi_call(_TARGET, (like_tokens, like_tokens), vmap_method="sequential")
    segment_ids, positions = call(tokens, delimiter_id=np.int64(delimiter_id), delimiter=delimiter)
    return segment_ids, positions
