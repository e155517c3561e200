"""The back end "cpu": the C++ of csrc/attention.h, inside `jax.jit`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

import isoprefill_csrc
from isoprefill.attention.backend import Attended, AttentionBackend
from isoprefill.attention.layout import PackedLayout
from isoprefill.bits import from_bits, to_bits
from isoprefill_pallas.heads import AttentionHeads

_TARGET = "isoprefill_attention"
NO_WINDOW = 2**31 - 1  # more columns than any row can see

jax.ffi.register_ffi_target(_TARGET, isoprefill_csrc.ffi_targets()[_TARGET], platform="cpu")


def _check(heads: AttentionHeads) -> None:
    limit = isoprefill_csrc.MAX_HEAD_DIM
    if heads.head_dim > limit:
        raise ValueError(f"the cpu back end takes head_dim up to {limit}, got {heads.head_dim}")


def _attend(q: Array, k: Array, v: Array, layout: PackedLayout, **options: Any) -> Attended:
    intervals = jnp.asarray(layout.row_intervals)
    return cpu_attention(q, k, v, intervals, window=layout.window, **options)


BACKEND = AttentionBackend("cpu", _attend, _check, platform="cpu", takes_sinks=True)


def cpu_attention(
    q: Float[Array, "T Hq D"],
    k: Float[Array, "S Hkv D"],
    v: Float[Array, "S Hkv D"],
    row_intervals: Int32[Array, "4 T"],
    *,
    scale: float,
    soft_cap: float | None = None,
    window: int | None = None,
    sinks: Float[Array, "Hq"] | None = None,
    instructions: str = "best",
) -> Attended:
    """Does what `isoprefill_pallas.reference.dense_attention` does, in time and memory of what rows see.

    Args:
        q, k, v: float32 or bfloat16, D at most `isoprefill_csrc.MAX_HEAD_DIM`.
        row_intervals: the layout's.
        scale, soft_cap: as of `dense_attention`.
        window: how many of these columns a row sees at most, the last ones; None: all.
        sinks: of each query head, a logit that joins the denominator of the softmax, float32; None: there is none.
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
        jnp.zeros(0, jnp.float32) if sinks is None else sinks,
        scale=np.float32(scale),
        soft_cap=np.float32(soft_cap or 0.0),
        window=np.int64(NO_WINDOW if window is None else window),
        instructions=instructions,
    )
    return from_bits(out), lse
