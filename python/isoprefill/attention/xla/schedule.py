"""The schedule of the XLA back end: tile sizes, and which tiles and local blocks are visited.

csrc/aligned_schedule.h explains the arrays and makes them; here they get the capacities that let packs share a
compilation. Letters: T rows, R requests.
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Int32

import isoprefill_csrc
from isoprefill.attention.layout import Ints
from isoprefill_pallas.heads import AttentionHeads
from isoprefill_pallas.padding import capacity

# Rows x columns. A request gets the first square tile that holds its prefix; the flat one if it has so few rows,
# because its prefix is cached; else the last. So the order of its sums follows from its own lengths alone: XLA's
# matmul was seen to give other bits for other numbers of rows. Large tiles are faster where they are full: one layer
# of 2000 + 500 x 20 with SmolLM2's heads took 0.64 s with tiles of 512 x 512, 0.72 s with 256 x 256 and 0.80 s with
# 512 x 1024, on two shared cores in one run.
TILES: tuple[tuple[int, int], ...] = ((64, 64), (256, 256), (64, 512), (512, 512))
# An item is one local block, of which XLA sums 64 and 256 columns in the same order (16 not). Only items of more than
# 64 tokens can be cut differently beside other items, which costs rounding of float32.
LOCAL_BLOCKS = (64, 256)  # few, because each is a compilation of its own
OWN_COLUMNS = 1  # a kind of visit, csrc/aligned_schedule.h
CAPACITY_STEP = 64


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class TileVisits:
    """The visits of tiles of one size."""

    visits: Int32[Ints, "5 capacity"]
    num_visits: Int32[Ints, ""]
    block_q: int = dataclasses.field(metadata={"static": True})
    block_kv: int = dataclasses.field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class AlignedSchedule:
    """What the XLA back end visits.

    The arrays are padded to a capacity; how much of them counts is traced, so that two packs whose capacities
    are equal share one compilation.
    """

    tiles: tuple[TileVisits, ...]  # one for each size of tile
    tile_own_end: Int32[Ints, "T"]
    local_blocks: Int32[Ints, "3 capacity"]
    num_local_blocks: Int32[Ints, ""]
    row_slot: Int32[Ints, "T"]
    local_block: int = dataclasses.field(metadata={"static": True})


def aligned_schedules(
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
        local_block: rows of a local block; by default those with which the first layout's items compute the fewest
            pairs.
    """
    tiles = TILES
    if block_q is not None or block_kv is not None:
        tiles = ((block_q or TILES[-1][0], block_kv or TILES[-1][1]),)
    if local_block is None:
        most_rows, most_columns = tiles[-1]
        local_block = layouts[0].choose_local_block(
            block_q=most_rows,
            block_kv=most_columns,
            candidates=[block for block in LOCAL_BLOCKS if block <= most_rows] or [most_rows],
        )
    return [aligned_schedule(layout, tiles, local_block) for layout in layouts]


def aligned_schedule(
    layout: isoprefill_csrc.Layout, tiles: Sequence[tuple[int, int]], local_block: int
) -> AlignedSchedule:
    """Returns the schedule of a layout.

    Args:
        layout: of the C++ op.
        tiles: sizes of tiles, rows x columns; the last, the largest, suits every request.
        local_block: rows of a local block.

    Raises:
        ValueError: naming the size, its value and the limit.
    """
    num_rows, num_columns = layout.num_rows, layout.num_columns
    last, (block_q, block_kv) = len(tiles) - 1, tiles[-1]
    largest = layout.aligned_schedule(block_q=block_q, block_kv=block_kv, local_block=local_block)
    usual = max(num_rows // 8, -(-num_rows // block_q) * -(-num_columns // block_kv))
    tile_of_request = _tile_of_requests(layout, tiles)
    tiles_visited = []
    for index, (rows, columns) in enumerate(tiles):
        schedule = largest
        # Small tiles of a long prefix are many: they are made only if a request has them. Only visits of an item's
        # own columns depend on the local block, and these are of the last tiles.
        if index < last and (tile_of_request == index).any():
            schedule = layout.aligned_schedule(
                block_q=rows, block_kv=columns, local_block=min(local_block, rows)
            )
        first_row, *_, kind = schedule.tile_visits
        tile = np.where(kind == OWN_COLUMNS, last, tile_of_request[layout.request_ids[first_row]])
        visits = schedule.tile_visits[:, tile == index]
        count = np.asarray(visits.shape[1], np.int32)
        tiles_visited.append(TileVisits(_with_capacity(visits, usual), count, rows, columns))
    return AlignedSchedule(
        tiles=tuple(tiles_visited),
        tile_own_end=largest.tile_own_end,
        local_blocks=_with_capacity(largest.local_blocks, 2 * num_rows // local_block),
        num_local_blocks=np.asarray(largest.local_blocks.shape[1], np.int32),
        row_slot=largest.row_slot,
        local_block=local_block,
    )


def _tile_of_requests(
    layout: isoprefill_csrc.Layout, tiles: Sequence[tuple[int, int]]
) -> Int32[np.ndarray, "R"]:
    """Returns which of the tiles each request gets."""
    rows = np.diff(layout.request_rows)
    columns = np.zeros_like(rows)  # of the prefix
    begin, end, *_ = layout.row_intervals
    inside = layout.request_ids >= 0
    np.maximum.at(columns, layout.request_ids[inside], (end - begin)[inside])
    tile = np.full_like(rows, len(tiles) - 1)
    for index, (most_rows, most_columns) in reversed(list(enumerate(tiles[:-1]))):
        suits = columns <= most_columns if most_rows == most_columns else rows <= most_rows
        tile[suits] = index
    return tile


def _with_capacity(
    entries: Int32[np.ndarray, "fields n"], usual: int
) -> Int32[np.ndarray, "fields capacity"]:
    """Returns the entries, padded to what packs of this size usually need, or to more."""
    steps = max(1, -(-usual // CAPACITY_STEP))
    room = capacity(entries.shape[1], steps * CAPACITY_STEP)
    return np.pad(entries, ((0, 0), (0, room - entries.shape[1])))
