"""The attention operation: checks its inputs and hands them to a back end."""

import functools
from collections.abc import Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

import isoprefill_csrc
from isoprefill.attention.cpu import cpu_attention
from isoprefill.attention.layout import PackedLayout
from isoprefill.attention.xla import xla_attention
from isoprefill.modes import Backend
from isoprefill_pallas.heads import Heads, check_heads
from isoprefill_pallas.op import pallas_attention
from isoprefill_pallas.operands import check_operands
from isoprefill_pallas.reference import dense_attention, visible

# Platforms that have a back end of their own.
_MADE_FOR: dict[str, Literal["pallas", "cpu", "xla"]] = {"tpu": "pallas", "cpu": "cpu"}


def multi_item_attention(
    q: Float[Array, "T Hq D"],
    k: Float[Array, "S Hkv D"],
    v: Float[Array, "S Hkv D"],
    layout: PackedLayout,
    *,
    backend: Backend = "auto",
    scale: float | None = None,
    soft_cap: float | None = None,
    return_lse: bool = False,
    interpret: bool | pltpu.InterpretParams | None = None,
) -> Float[Array, "T Hq D"] | tuple[Float[Array, "T Hq D"], Float[Array, "T Hq"]]:
    """Attention in which a row sees its request's prefix and its own item, and nothing else.

    Works inside `jax.jit`; there the layout must carry the schedule of "xla" or "pallas"
    (`layout.with_schedule(backend)`). Accumulates in float32. Rows that see nothing (padding) give zeros.

    Another item's or request's q, k and v cannot change a row's output by a single bit as long as they are
    finite, nor can NaN or infinity in another's q or k. NaN or infinity in another item's v cannot with "cpu" and
    "xla"; with "pallas" it can where it shares a window or a unit of the kernel with the row, and with "dense"
    anywhere in the pack, because 0 * NaN is NaN.

    Args:
        q: queries, float32 or bfloat16; T is `layout.num_rows`. Hq is a multiple of Hkv, and query heads
            h * Hq / Hkv and following use KV head h.
        k, v: keys and values, S is `layout.num_columns`; dtype as q.
        layout: what the rows and columns are.
        backend: "pallas" (the TPU kernel; without a TPU it runs in the TPU interpreter, which is slow), "cpu" (C++,
            CPUs only), "xla", "dense" (the reference, O(T * S) memory) or "auto": the one whose schedule the layout
            carries; without one, "pallas" on a TPU and "cpu" on a CPU if they take these heads, else "xla".
        scale: factor of the scores, by default 1 / sqrt(D).
        soft_cap: a score s becomes soft_cap * tanh(s / soft_cap); from 1e-30 to 1e30.
        return_lse: also return the log-sum-exp of each row's scores, float32, natural log, -inf for padding.
        interpret: "pallas" only: None compiles on a TPU and interprets elsewhere; False compiles for a TPU wherever
            it is lowered; InterpretParams are the interpreter's.

    Raises:
        ValueError: naming the argument, its value and what is allowed.
    """
    rows, columns = layout.num_rows, layout.num_columns
    check_operands(q, k, v, of="layout", rows=rows, columns=columns, soft_cap=soft_cap)
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {get_args(Backend)}, got {backend!r}")
    heads = (q.shape[1], k.shape[1], q.shape[2], q.dtype.name)
    if backend == "auto":
        backend = _backend_of(layout) or choose_backend(*heads)
    _check_heads(backend, *heads)
    if interpret is not None and backend != "pallas":
        raise ValueError(f"interpret is for the 'pallas' back end, got {interpret} for {backend!r}")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if layout.num_rows == 0:  # a cached prefix without items: nothing that a kernel could tile
        out, lse = jnp.zeros_like(q), jnp.zeros(q.shape[:2], jnp.float32)
    elif backend == "pallas":
        if layout.kernel is None:
            layout = layout.with_schedule("pallas", heads=Heads(*heads))
        out, lse = _pallas(q, k, v, layout, scale=scale, soft_cap=soft_cap, interpret=interpret)
    elif backend == "xla":
        if layout.aligned is None:
            layout = layout.with_schedule("xla")
        out, lse = _xla(q, k, v, layout, scale=scale, soft_cap=soft_cap)
    elif backend == "cpu":
        out, lse = _cpu(q, k, v, layout.row_intervals, scale=scale, soft_cap=soft_cap)
    else:
        out, lse = _dense(q, k, v, layout, scale=scale, soft_cap=soft_cap)
    return (out, lse) if return_lse else out


def with_schedules_of(
    backend: Backend,
    layouts: Sequence[PackedLayout],
    *,
    query_heads: int,
    kv_heads: int,
    head_dim: int,
    dtype: str,
) -> list[PackedLayout]:
    """Layouts of one size with the schedules that a back end needs for these heads, ready for a jitted function.

    All get the block sizes that are best for the first, so that one function can take them side by side.

    Raises:
        ValueError: if the back end does not take them; names the value.
    """
    if backend == "auto":
        backend = choose_backend(query_heads, kv_heads, head_dim, dtype)
    _check_heads(backend, query_heads, kv_heads, head_dim, dtype)
    if backend in ("cpu", "dense"):
        return list(layouts)
    first, *others = layouts
    if backend == "xla":
        first = first.with_schedule("xla")
        assert first.aligned is not None
        block = first.aligned.local_block  # tiles depend on nothing but the padded size
        return [first, *(one.with_schedule("xla", local_block=block) for one in others)]
    first = first.with_schedule("pallas", heads=Heads(query_heads, kv_heads, head_dim, dtype))
    assert first.kernel is not None
    sizes = first.kernel.sizes
    made = [first, *(one.with_schedule("pallas", block_sizes=sizes) for one in others)]
    cuts = [
        tuple((part.first_row, part.num_rows) for part in one.kernel.parts)
        for one in made
        if one.kernel is not None
    ]
    if len(set(cuts)) > 1:
        parts = [[rows for _, rows in cut] for cut in cuts]
        raise ValueError(
            "packs side by side must be cut into the same parts for scalar memory, got parts of "
            f"{parts} rows: use fewer pack_tokens"
        )
    return made


def choose_backend(
    query_heads: int, kv_heads: int, head_dim: int, dtype: str
) -> Literal["pallas", "cpu", "xla"]:
    """What "auto" is where no schedule says it: what is made for the platform, if it takes these heads."""
    backend = _MADE_FOR.get(jax.default_backend(), "xla")
    try:
        _check_heads(backend, query_heads, kv_heads, head_dim, dtype)
    except ValueError:
        return "xla"
    return backend


def _check_heads(
    backend: Backend, query_heads: int, kv_heads: int, head_dim: int, dtype: str
) -> None:
    """Refuses heads that the back end does not take.

    Raises:
        ValueError: naming the value and what is allowed.
    """
    check_heads(query_heads, kv_heads, head_dim)
    if backend == "pallas":
        Heads(query_heads, kv_heads, head_dim, dtype)
    elif backend == "cpu" and head_dim > isoprefill_csrc.MAX_HEAD_DIM:
        raise ValueError(
            f"the cpu back end takes head_dim up to {isoprefill_csrc.MAX_HEAD_DIM}, got {head_dim}"
        )


def _backend_of(layout: PackedLayout) -> Literal["pallas", "xla"] | None:
    if layout.kernel is not None:
        return "pallas"
    return None if layout.aligned is None else "xla"


@functools.partial(jax.jit, static_argnames=("scale", "soft_cap", "interpret"))
def _pallas(
    q: Float[Array, "T Hq D"],
    k: Float[Array, "S Hkv D"],
    v: Float[Array, "S Hkv D"],
    layout: PackedLayout,
    *,
    scale: float,
    soft_cap: float | None,
    interpret: bool | pltpu.InterpretParams | None,
) -> tuple[Float[Array, "T Hq D"], Float[Array, "T Hq"]]:
    schedule = layout.kernel
    assert schedule is not None  # the operation's entry checks it
    return pallas_attention(
        q,
        k,
        v,
        schedule,
        scale=scale,
        soft_cap=soft_cap,
        interpret=interpret,
    )


_cpu = jax.jit(cpu_attention, static_argnames=("scale", "soft_cap"))
_xla = jax.jit(xla_attention, static_argnames=("scale", "soft_cap"))


@functools.partial(jax.jit, static_argnames=("scale", "soft_cap"))
def _dense(
    q: Float[Array, "T Hq D"],
    k: Float[Array, "S Hkv D"],
    v: Float[Array, "S Hkv D"],
    layout: PackedLayout,
    *,
    scale: float,
    soft_cap: float | None,
) -> tuple[Float[Array, "T Hq D"], Float[Array, "T Hq"]]:
    mask = visible(
        jnp.asarray(layout.segment_ids),
        jnp.asarray(layout.request_ids),
        jnp.asarray(layout.row_columns),
        jnp.asarray(layout.key_segment_ids),
        jnp.asarray(layout.key_request_ids),
    )
    return dense_attention(q, k, v, mask, scale=scale, soft_cap=soft_cap)
