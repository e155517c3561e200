"""Isolated multi-item attention on a CPU: the C++ of csrc/attention.h, inside `jax.jit`."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

import isoprefill_csrc
from isoprefill.bits import from_bits, to_bits

_TARGET = "isoprefill_attention"

jax.ffi.register_ffi_target(_TARGET, isoprefill_csrc.ffi_targets()[_TARGET], platform="cpu")


def cpu_attention(
    q: Float[Array, "T Hq D"],
    k: Float[Array, "S Hkv D"],
    v: Float[Array, "S Hkv D"],
    row_intervals: Int32[Array, "4 T"],
    *,
    scale: float,
    soft_cap: float | None = None,
    instructions: str = "best",
) -> tuple[Float[Array, "T Hq D"], Float[Array, "T Hq"]]:
    """Same contract as `isoprefill_pallas.reference.dense_attention`, in time and memory of what rows see.

    Args:
        q, k, v: float32 or bfloat16, D at most `isoprefill_csrc.MAX_HEAD_DIM`.
        row_intervals: the columns that each row sees: prefix_begin, prefix_end, own_begin, own_end.
        scale: factor of the scores.
        soft_cap: a score s becomes soft_cap * tanh(s / soft_cap).
        instructions: one of `isoprefill_csrc.available_instructions()`, or "best".

    Raises:
        jax.errors.JaxRuntimeError: when it runs, if a size is too large or an interval reaches outside the columns.
    """
    operands = [to_bits(array) for array in (q, k, v)]
    outputs = (
        jax.ShapeDtypeStruct(q.shape, operands[0].dtype),
        jax.ShapeDtypeStruct(q.shape[:2], jnp.float32),
    )
    call = jax.ffi.ffi_call(_TARGET, outputs, vmap_method="sequential")
    out, lse = call(
        *operands,
        row_intervals,
        scale=np.float32(scale),
        soft_cap=np.float32(soft_cap or 0.0),
        instructions=instructions,
    )
    return from_bits(out), lse
