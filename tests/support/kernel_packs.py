"""Packs for the TPU kernel in the TPU interpreter, and how its numbers are compared.

The interpreter looks for races between copies and computation, fills memory that was not written with NaN and
raises on reads out of bounds. Columns that are padding hold NaN. One compilation serves all packs of a case.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import kernel_interpreter
from attention_oracle import attend_float64
from csrc_layout import build
from isoprefill_pallas import BlockSizes, KernelSchedule, attend, dense_attention
from isoprefill_pallas.reference import visible
from isoprefill_pallas.tile_attention import tile_attention

TOKENS = 1024  # rows and columns of all packs but the largest
SIZES = BlockSizes(
    block_q=256,
    block_kv=256,
    chunk_kv=128,
    unit_q=128,
    unit_kv=128,
    unit_group=2,
    window_keys=160,
    full_keys=100,
)
KV_HEADS = 2


@functools.cache
def compiled(sizes, soft_cap=None, online=None):
    """`attend`, or with `online` one of its two variants alone."""

    def both(q, k, v, schedule):
        return attend(
            q,
            k,
            v,
            schedule,
            scale=q.shape[-1] ** -0.5,
            soft_cap=soft_cap,
            interpret=kernel_interpreter.checking(),
        )

    def one(q, k, v, schedule):
        (part,) = schedule.parts
        return tile_attention(
            q,
            k,
            v,
            schedule.row_bounds,
            part,
            sizes=sizes,
            scale=q.shape[-1] ** -0.5,
            soft_cap=soft_cap,
            online=online,
            interpret=kernel_interpreter.checking(),
        )

    run = jax.jit(both if online is None else one)

    def wait(*arrays):
        # The interpreter calls back into Python: work that is dispatched beside it can starve it of threads.
        jax.block_until_ready(arrays)
        return jax.block_until_ready(run(*arrays))

    return wait


def layout_of(requests, tokens=TOKENS, window=None):
    return build(requests, pad_to=tokens, pad_columns_to=tokens, window=window)


def mask_of(layout):
    return np.asarray(
        visible(
            layout.segment_ids,
            layout.request_ids,
            layout.row_columns,
            layout.key_segment_ids,
            layout.key_request_ids,
            layout.window,
        )
    )


def inputs(layout, shape, seed=0):
    """q, k, v with NaN in the columns that are padding."""
    groups, head_dim, dtype = shape
    random = np.random.default_rng(seed)
    heads = (KV_HEADS * groups, KV_HEADS, KV_HEADS)
    tokens = (layout.num_rows, layout.num_columns, layout.num_columns)
    q, k, v = (
        random.standard_normal((count, head, head_dim))
        for count, head in zip(tokens, heads, strict=True)
    )
    k[layout.key_request_ids < 0] = np.nan
    v[layout.key_request_ids < 0] = np.nan
    return [jnp.asarray(x, dtype) for x in (q, k, v)]


def exact(q, k, v, mask, soft_cap=None):
    """Output and log-sum-exp in float64, of columns that may hold NaN where nobody sees them."""
    clean = (np.nan_to_num(np.asarray(x, np.float64)) for x in (q, k, v))
    return attend_float64(*clean, mask, soft_cap=soft_cap)


def check_close(out, lse, q, k, v, layout, soft_cap=None):
    """The bound of the product: 1e-2 of the largest value in bfloat16; float32 as good as the dense one."""
    mask = mask_of(layout)
    want, want_lse = exact(q, k, v, mask, soft_cap)
    largest = np.nanmax(np.abs(np.asarray(v, np.float64)))
    error = np.abs(np.asarray(out, np.float64) - want).max() / largest
    limit = 1e-2
    if q.dtype == jnp.float32:
        clean = [jnp.nan_to_num(x) for x in (q, k, v)]
        dense, _ = dense_attention(*clean, mask, scale=q.shape[-1] ** -0.5, soft_cap=soft_cap)
        limit = max(1e-5, 2 * np.abs(np.asarray(dense, np.float64) - want).max() / largest)
    assert error <= limit
    padding = ~mask.any(axis=1)
    assert np.all(np.asarray(out)[padding] == 0)
    assert np.all(np.isneginf(np.asarray(lse)[padding]))
    scale = max(1.0, np.abs(want_lse[~padding]).max())
    assert np.abs(np.asarray(lse)[~padding] - want_lse[~padding]).max() <= 1e-2 * scale


def run(requests, shape, sizes=SIZES, tokens=TOKENS, change=None, window=None, **options):
    layout = layout_of(requests, tokens, window)
    q, k, v = inputs(layout, shape)
    if change is not None:
        q, k, v = change(q, k, v)
    schedule = KernelSchedule.of(layout, sizes=sizes)
    out, lse = compiled(sizes, **options)(q, k, v, schedule)
    return out, lse, (q, k, v), layout
