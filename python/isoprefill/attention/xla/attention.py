"""Isolated multi-item attention in plain XLA, for CPUs and GPUs.

What a row sees is split in two, and the two softmaxes are merged by their log-sum-exp:

- Tiles of up to block_q rows by block_kv columns, visited in a loop. They hold what rows see of their
  prefix and, for items longer than a local block, what a row sees of its own item before its own local block.
- Local blocks: every item cut into blocks of B rows from the item's start, each attending causally to itself.

Tiles start where a request or an item starts, never at a multiple of the tile's size in the pack, and their size
follows from the request alone: there is a loop for each size. A row's arithmetic is therefore the same wherever in
the pack its request and its item stand, which makes scores bit-identical under reordering of the neighbours. Loop
counts are traced, so padding a schedule costs nothing.

Letters: T rows, S columns, Hq query heads, Hkv key and value heads, G = Hq / Hkv, D head_dim, Q rows and K columns
of a tile, B rows of a local block, C local blocks computed at once.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int32

from isoprefill.attention.backend import Attended
from isoprefill.attention.xla.schedule import AlignedSchedule, TileVisits

HIDDEN_SCORE = -1e30  # finite, so that a row that has seen nothing yet stays free of NaN
# Float32 scores of one chunk of local blocks: 4 MiB, about a core's cache.
LOCAL_SCORES_AT_ONCE = 1 << 20

_einsum = functools.partial(
    jnp.einsum, precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32
)


class Partial(NamedTuple):
    """A softmax on its way: for each row the largest score, the sum of weights and the weighted values."""

    largest: Float[Array, "*rows"]
    total: Float[Array, "*rows"]
    values: Float[Array, "*rows D"]


def xla_attention(
    q: Float[Array, "T Hq D"],
    k: Float[Array, "S Hkv D"],
    v: Float[Array, "S Hkv D"],
    row_intervals: Int32[Array, "4 T"],
    schedule: AlignedSchedule,
    *,
    scale: float,
    soft_cap: float | None = None,
    window: int | None = None,
) -> Attended:
    """Does what `isoprefill_pallas.reference.dense_attention` does, without any T x S array.

    `row_intervals` and `window` are the layout's, and the schedule is of the same layout. q, k and v are float32 or
    bfloat16.
    """
    rows, query_heads, head_dim = q.shape
    kv_heads = k.shape[1]
    q = (q.astype(jnp.float32) * scale).astype(q.dtype)
    grouped = q.reshape(rows, kv_heads, query_heads // kv_heads, head_dim)

    state = _local_blocks(grouped, k, v, schedule, soft_cap, window)
    begins = _first_seen(row_intervals, window)
    state = _tiles(grouped, k, v, begins, row_intervals[1], schedule, soft_cap, state)

    sees_something = state.total > 0
    total = jnp.where(sees_something, state.total, 1.0)
    out = state.values / total[..., None]  # [Hkv, G, T, D]
    lse = jnp.where(sees_something, state.largest + jnp.log(total), -jnp.inf)  # [Hkv, G, T]
    out = jnp.moveaxis(out, 2, 0).reshape(rows, query_heads, head_dim)
    lse = jnp.moveaxis(lse, 2, 0).reshape(rows, query_heads)
    return out.astype(q.dtype), lse


def _first_seen(row_intervals: Int32[Array, "4 T"], window: int | None) -> Int32[Array, "2 T"]:
    """Returns where what a row sees of its prefix and of its own item begins: with the last `window` columns."""
    prefix_begin, prefix_end, own_begin, own_end = row_intervals
    if window is None:
        return jnp.stack([prefix_begin, own_begin])
    prefix = prefix_end - prefix_begin
    hidden = jnp.maximum(prefix - window + (own_end - own_begin), 0)
    of_prefix = jnp.minimum(hidden, prefix)
    return jnp.stack([prefix_begin + of_prefix, own_begin + hidden - of_prefix])


def _local_blocks(
    q: Float[Array, "T Hkv G D"],
    k: Float[Array, "S Hkv D"],
    v: Float[Array, "S Hkv D"],
    schedule: AlignedSchedule,
    soft_cap: float | None,
    window: int | None,
) -> Partial:
    """Each item row's softmax over its own local block up to itself; nothing for the other rows."""
    _, kv_heads, groups, head_dim = q.shape
    block = schedule.local_block
    capacity = schedule.local_blocks.shape[1]
    chunk = _local_chunk(capacity, kv_heads * groups, block)
    offsets = jnp.arange(block, dtype=jnp.int32)
    causal = offsets <= offsets[:, None]  # [B, B]
    if window is not None:
        causal &= offsets[:, None] - offsets < window

    def compute(index, blocks):
        chosen = lax.dynamic_slice_in_dim(schedule.local_blocks, index * chunk, chunk, axis=1)
        first_row, first_column, length = chosen  # each [C]
        block_rows = first_row[:, None] + offsets  # [C, B]
        block_columns = first_column[:, None] + offsets
        q_blocks = jnp.take(q, block_rows, axis=0, mode="clip")  # [C, B, Hkv, G, D]
        q_blocks = q_blocks.transpose(0, 2, 3, 1, 4).reshape(
            chunk, kv_heads, groups * block, head_dim
        )
        k_blocks, v_blocks = (
            jnp.take(array, block_columns, axis=0, mode="clip").transpose(0, 2, 1, 3)
            for array in (k, v)
        )  # each [C, Hkv, B, D]
        inside = offsets < length[:, None]  # [C, B]
        v_blocks = jnp.where(inside[:, None, :, None], v_blocks, 0)  # 0 * NaN would be NaN
        mask = causal & inside[:, None, :]  # [C, B, B]
        scores = _scores(q_blocks, k_blocks, soft_cap).reshape(
            chunk, kv_heads, groups, block, block
        )
        scores = jnp.where(mask[:, None, None], scores, HIDDEN_SCORE)
        largest = scores.max(axis=-1)
        weights = jnp.exp(scores - largest[..., None])
        values = _weighted_values(weights.reshape(chunk, kv_heads, groups * block, block), v_blocks)
        computed = Partial(
            largest, weights.sum(axis=-1), values.reshape(chunk, kv_heads, groups, block, head_dim)
        )
        return _put(computed, blocks, index * chunk, axis=0)

    chunks = (schedule.num_local_blocks + chunk - 1) // chunk
    rows = (capacity, kv_heads, groups, block)
    nothing_seen = Partial(
        jnp.full(rows, HIDDEN_SCORE), jnp.zeros(rows), jnp.zeros((*rows, head_dim))
    )
    blocks = lax.fori_loop(0, chunks, compute, nothing_seen)

    # Back to rows. Rows outside every local block (prefix, delimiters, padding) have seen nothing.
    in_block = schedule.row_slot >= 0  # [T]
    slot = jnp.maximum(schedule.row_slot, 0)
    which, offset = slot // block, slot % block

    def of_rows(per_block, default):
        per_row = per_block[which, :, :, offset]  # [T, Hkv, G, ...]
        kept = in_block.reshape(-1, *[1] * (per_row.ndim - 1))
        return jnp.moveaxis(jnp.where(kept, per_row, default), 0, 2)  # [Hkv, G, T, ...]

    return Partial(*map(of_rows, blocks, (HIDDEN_SCORE, 0.0, 0.0)))


def _tiles(
    q: Float[Array, "T Hkv G D"],
    k: Float[Array, "S Hkv D"],
    v: Float[Array, "S Hkv D"],
    first_seen: Int32[Array, "2 T"],
    prefix_end: Int32[Array, "T"],
    schedule: AlignedSchedule,
    soft_cap: float | None,
    state: Partial,
) -> Partial:
    """Adds what rows see outside their local block, one tile of rows by columns at a time."""
    num_rows, kv_heads, groups, head_dim = q.shape
    block_q = max(tiles.block_q for tiles in schedule.tiles)
    block_kv = max(tiles.block_kv for tiles in schedule.tiles)

    # A tile may start anywhere, so a last one may reach past the end: a slice there must not be moved back.
    def pad(array, axis, by):
        widths = [(0, 0)] * array.ndim
        widths[axis] = (0, by)
        return jnp.pad(array, widths)

    q = pad(q.transpose(1, 2, 0, 3), 2, block_q)  # [Hkv, G, T + Q, D]
    k = pad(k.transpose(1, 0, 2), 1, block_kv)  # [Hkv, S + K, D]
    v = pad(v.transpose(1, 0, 2), 1, block_kv)
    state = jax.tree.map(lambda array: pad(array, 2, block_q), state)
    # Each [2, T + Q]: by the visit's kind.
    begins = pad(first_seen, 1, block_q)
    ends = pad(jnp.stack([prefix_end, schedule.tile_own_end]), 1, block_q)

    def visit(tiles: TileVisits, index, state):
        block_q, block_kv = tiles.block_q, tiles.block_kv
        row, row_end, column, column_end, kind = tiles.visits[:, index]

        def of_tile(array):
            return lax.dynamic_slice_in_dim(array, row, block_q, axis=2)

        q_tile = of_tile(q).reshape(kv_heads, groups * block_q, head_dim)
        k_tile = lax.dynamic_slice_in_dim(k, column, block_kv, axis=1)
        v_tile = lax.dynamic_slice_in_dim(v, column, block_kv, axis=1)
        begin = lax.dynamic_slice(begins, (kind, row), (1, block_q))[0]  # [Q]
        end = jnp.minimum(lax.dynamic_slice(ends, (kind, row), (1, block_q))[0], column_end)
        row_inside = row + jnp.arange(block_q) < row_end  # [Q]
        end = jnp.where(row_inside, end, 0)
        columns = column + jnp.arange(block_kv, dtype=jnp.int32)
        # What lies in the tile beside its rows and columns is another's: 0 * NaN would be NaN.
        v_tile = jnp.where((columns < column_end)[:, None], v_tile, 0)
        mask = (begin[:, None] <= columns) & (columns < end[:, None])  # [Q, K]

        before = jax.tree.map(of_tile, state)
        scores = _scores(q_tile, k_tile, soft_cap).reshape(kv_heads, groups, block_q, block_kv)
        scores = jnp.where(mask, scores, HIDDEN_SCORE)
        largest = jnp.maximum(before.largest, scores.max(axis=-1))
        # A row that still has seen nothing must not weigh its hidden scores with exp(0).
        anchor = jnp.maximum(largest, HIDDEN_SCORE / 2)
        weights = jnp.exp(scores - anchor[..., None])
        kept = jnp.exp(before.largest - anchor)
        values = _weighted_values(weights.reshape(kv_heads, groups * block_q, block_kv), v_tile)
        values = values.reshape(kv_heads, groups, block_q, head_dim)
        after = Partial(
            largest,
            before.total * kept + weights.sum(axis=-1),
            before.values * kept[..., None] + jnp.where(row_inside[:, None], values, 0),
        )
        return _put(after, state, row, axis=2)

    for tiles in schedule.tiles:
        state = lax.fori_loop(0, tiles.num_visits, functools.partial(visit, tiles), state)
    return jax.tree.map(lambda array: array[:, :, :num_rows], state)


def _put(part: Partial, whole: Partial, begin: Int32[Array, ""], axis: int) -> Partial:
    update = functools.partial(lax.dynamic_update_slice_in_dim, start_index=begin, axis=axis)
    return jax.tree.map(update, whole, part)


def _local_chunk(capacity: int, query_heads: int, block: int) -> int:
    """How many local blocks to compute at once: a power of two that divides the capacity."""
    fitting = max(1, LOCAL_SCORES_AT_ONCE // (query_heads * block * block))
    return math.gcd(capacity, 1 << (fitting.bit_length() - 1))


def _scores(
    q: Float[Array, "*batch R D"], k: Float[Array, "*batch K D"], soft_cap: float | None
) -> Float[Array, "*batch R K"]:
    scores = _einsum("...rd,...kd->...rk", q, k)
    return scores if soft_cap is None else soft_cap * jnp.tanh(scores / soft_cap)


def _weighted_values(
    weights: Float[Array, "*batch R K"], v: Float[Array, "*batch K D"]
) -> Float[Array, "*batch R D"]:
    return _einsum("...rk,...kd->...rd", weights.astype(v.dtype), v)
