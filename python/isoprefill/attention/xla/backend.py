"""The back end "xla": plain XLA, for every platform and all heads."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

import isoprefill_csrc
from isoprefill.attention.backend import Attended, AttentionBackend
from isoprefill.attention.layout import PackedLayout
from isoprefill.attention.xla.attention import xla_attention
from isoprefill.attention.xla.schedule import (
    TILES,
    AlignedSchedule,
    aligned_schedule,
    choose_local_block,
)
from isoprefill_pallas.heads import AttentionHeads


def _attend(q: Array, k: Array, v: Array, layout: PackedLayout, **options: Any) -> Attended:
    return xla_attention(q, k, v, jnp.asarray(layout.row_intervals), layout.schedule, **options)


def _schedule(
    layouts: Sequence[isoprefill_csrc.Layout],
    heads: AttentionHeads | None,
    *,
    block_q: int | None = None,
    block_kv: int | None = None,
    local_block: int | None = None,
) -> list[AlignedSchedule]:
    """Returns a schedule for each layout, all with one size of local block.

    Args:
        layouts: of one size.
        heads: not needed.
        block_q, block_kv: rows and columns of a tile; by default as many as the request is large, up to 512.
        local_block: rows of a local block; by default the one with the least work for the first layout's items.
    """
    tiles = TILES
    if block_q is not None or block_kv is not None:
        tiles = ((block_q or TILES[-1][0], block_kv or TILES[-1][1]),)
    if local_block is None:
        local_block = choose_local_block(layouts[0], tiles)
    return [aligned_schedule(layout, tiles, local_block) for layout in layouts]


BACKEND = AttentionBackend(
    "xla",
    _attend,
    schedule=_schedule,
    schedule_options=("block_q", "block_kv", "local_block"),
)
