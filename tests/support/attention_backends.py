"""Every back end of the attention, as one function, and how far a value that is not finite reaches in it.

A back end that `multi_item_attention` gains joins here by itself; tests ask for its line in `reached` below. "paged" is
the TPU kernel over a paged KV cache. The TPU kernel runs in the interpreter, with small tiles.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas import tpu as pltpu

import isoprefill_csrc
from isoprefill import PackedLayout, multi_item_attention
from isoprefill.attention.backends import BACKENDS as PRODUCT
from isoprefill_pallas import paged
from isoprefill_pallas.block_sizes import BlockSizes
from isoprefill_pallas.schedule import KernelSchedule
from schedule_expansion import expand

BACKENDS = [*PRODUCT, "paged"]
INTERPRETED = ("pallas", "paged")  # slow
SIZES = BlockSizes(256, 256, 128, 128, 128, 2, 160, 64)
PAGE_SIZE = 16


def attend(
    backend: str, q: Any, k: Any, v: Any, layout: PackedLayout
) -> tuple[np.ndarray, np.ndarray]:
    """The output and the log-sum-exp."""
    if backend == "paged":
        out = _attend_paged(q, k, v, layout)
    else:
        if backend == "xla":
            layout = layout.with_schedule("xla")
        if backend == "pallas":
            layout = layout.with_schedule("pallas", block_sizes=SIZES)
        interpret = _interpreter() if backend == "pallas" else None
        out = multi_item_attention(
            q, k, v, layout, backend=backend, return_lse=True, interpret=interpret
        )
    return tuple(np.asarray(array) for array in out)


def reached(backend: str, layout: PackedLayout) -> np.ndarray:
    """bool [T, S]: the rows in whose sums a column's value takes part, if only with weight 0: 0 * NaN is NaN."""
    of_backend = {
        "dense": lambda: np.ones((layout.num_rows, layout.num_columns), np.bool_),
        "cpu": layout.dense_mask,  # what a row does not see is not multiplied
        "xla": lambda: _same_prefix_or_item(layout),
        "pallas": lambda: _reached_kernel(_seen_intervals(layout), layout.num_columns)[
            :, : layout.num_columns
        ],
        "paged": lambda: _reached_paged(layout),
    }[backend]
    return of_backend() | layout.dense_mask()


def _interpreter() -> pltpu.InterpretParams:
    return pltpu.InterpretParams(uninitialized_memory="nan", out_of_bounds_reads="raise")


def _same_prefix_or_item(layout: PackedLayout) -> np.ndarray:
    """Later tokens too."""
    segment, key_segment = layout.segment_ids[:, None], layout.key_segment_ids
    same_request = layout.request_ids[:, None] == layout.key_request_ids
    return same_request & ((key_segment == 0) | ((key_segment == segment) & (segment > 0)))


def _reached_kernel(row_intervals: np.ndarray, num_columns: int) -> np.ndarray:
    """Of full steps and whole units rows see all columns; masked units also hold what an earlier step covered."""
    schedule = isoprefill_csrc.tile_schedule_of_intervals(
        row_intervals, num_columns, **SIZES.schedule_arguments()
    )
    found = np.zeros((row_intervals.shape[1], schedule.padded_columns), np.bool_)
    for tile in expand(schedule, SIZES.schedule_arguments()):
        if tile.kind == "window":
            found[tile.rows, tile.columns] = True
        elif tile.kind == "masked unit":
            found[tile.rows, tile.unit_columns.start : tile.columns.stop] = True
    return found


def _attend_paged(q: Any, k: Any, v: Any, layout: PackedLayout) -> tuple[Any, Any]:
    column, pages = _paged_columns(layout)
    order = np.random.default_rng(0).permutation(pages.size + 3)[: pages.size].astype(np.int32)
    slots = np.where(column < 0, -1, order[column // PAGE_SIZE] * PAGE_SIZE + column % PAGE_SIZE)
    _, kv_heads, head_dim = k.shape
    packing = paged.packing_of(k.dtype)
    cache = jnp.full(
        (
            pages.size + 3,
            PAGE_SIZE,
            2 * kv_heads // packing,
            packing,
            -(-head_dim // 128) * 128,
        ),
        jnp.nan,
        k.dtype,
    )
    cache = paged.write_columns(cache, k, v, jnp.asarray(slots, jnp.int32))
    intervals = _paged_intervals(layout, column)
    schedule = KernelSchedule.of_intervals(intervals, pages.size * PAGE_SIZE, sizes=SIZES)
    return _paged_attention(q, cache, order, pages, schedule)


@jax.jit
def _paged_attention(q, cache, page_indices, page_lens, schedule):
    return paged.paged_attention(
        q,
        cache,
        page_indices,
        page_lens,
        schedule,
        scale=q.shape[-1] ** -0.5,
        interpret=_interpreter(),
    )


def _paged_columns(layout: PackedLayout) -> tuple[np.ndarray, np.ndarray]:
    """The paged column of each column, -1 for padding, and how many tokens of each page count."""
    column = np.full(layout.num_columns, -1, np.int64)
    lens = []
    for request in range(layout.key_request_ids.max() + 1):
        (of_request,) = np.nonzero(layout.key_request_ids == request)
        column[of_request] = len(lens) * PAGE_SIZE + np.arange(of_request.size)
        full, rest = divmod(of_request.size, PAGE_SIZE)
        lens += [PAGE_SIZE] * full + [rest] * (rest > 0)
    return column, np.asarray(lens, np.int32)


def _seen_intervals(layout: PackedLayout) -> np.ndarray:
    """int32 [4, T]: the layout's intervals in its window, from its mask."""
    intervals = layout.row_intervals.copy()
    mask = layout.dense_mask()
    for begin, end in (intervals[:2], intervals[2:]):
        for row in range(layout.num_rows):
            (seen,) = np.nonzero(mask[row, begin[row] : end[row]])
            first = begin[row]
            begin[row], end[row] = (first + seen[0], end[row]) if seen.size else (0, 0)
    return intervals


def _paged_intervals(layout: PackedLayout, column: np.ndarray) -> np.ndarray:
    intervals = _seen_intervals(layout)
    begins, ends = intervals[::2], intervals[1::2]  # each [2, T]
    moved = np.zeros((4, layout.num_rows), np.int32)
    seen = ends > begins
    moved[::2][seen] = column[begins[seen]]
    moved[1::2][seen] = column[ends[seen] - 1] + 1
    return moved


def _reached_paged(layout: PackedLayout) -> np.ndarray:
    column, pages = _paged_columns(layout)
    found = _reached_kernel(_paged_intervals(layout, column), pages.size * PAGE_SIZE)
    return found[:, column] & (column >= 0)
