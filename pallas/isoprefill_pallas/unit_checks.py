"""Checks the units of a tile schedule, above all the whole ones, to which the kernel applies no mask.

`csrc/tile_schedule.h` explains units. Nothing looks at them later: the kernel adds what they say.
"""

import numpy as np
from jaxtyping import Int32

from isoprefill_csrc import (
    KEY_END_SHIFT,
    KEY_GRANULE,
    StepField,
    UnitBits,
    UnitInterval,
)
from isoprefill_pallas.block_sizes import BlockSizes


def check_units(
    steps: Int32[np.ndarray, "8 n"],
    units: Int32[np.ndarray, "m"],
    sizes: BlockSizes,
    row_bounds: Int32[np.ndarray, "4 rows"],
) -> None:
    """Checks that all rows of a whole unit see all of its columns, and that no row gets a column twice.

    Args:
        steps, units: of the Q tiles that hold these rows.
        row_bounds: rows that see nothing are padding; their output is zero whatever they see.

    Raises:
        ValueError: naming the unit, and what is wrong with it.
    """
    counts = steps[StepField.UNITS_END] - steps[StepField.WHOLE_UNITS]
    step = np.repeat(np.arange(steps.shape[1]), counts)
    index = np.arange(step.size) + np.repeat(
        steps[StepField.WHOLE_UNITS] - np.cumsum(counts) + counts, counts
    )
    whole = index < steps[StepField.MASKED_UNITS, step]
    interval = units[index] >> UnitBits.INTERVAL_SHIFT & UnitBits.INTERVAL_MASK
    filler = interval >= UnitInterval.NOTHING
    for unit in index[whole & filler]:
        raise ValueError(f"unit {unit} must be of far or near columns to be whole, got neither")
    index, step, whole, interval = (of[~filler] for of in (index, step, whole, interval))

    entries, row_blocks = units[index], sizes.block_q // sizes.unit_q
    row_block = entries & UnitBits.ROW_BLOCK_MASK
    for at in np.flatnonzero(row_block >= row_blocks):
        raise ValueError(
            f"the row block of unit {index[at]} must be from 0 to {row_blocks - 1}, got {row_block[at]}"
        )
    row_block += steps[StepField.Q_TILE, step] * row_blocks
    start, key_range = steps[StepField.KEY_START, step], steps[StepField.KEY_RANGE, step]
    begin = start + (entries >> UnitBits.KEY_SHIFT & UnitBits.KEY_MASK) * KEY_GRANULE
    end = begin + sizes.unit_kv
    step_begin = start + (key_range & (1 << KEY_END_SHIFT) - 1)
    step_end = start + (key_range >> KEY_END_SHIFT)

    last_begin, first_end = _common_columns(row_bounds, sizes)
    last_begin = np.maximum(last_begin[interval, row_block], step_begin)
    first_end = np.minimum(first_end[interval, row_block], step_end)
    for at in np.flatnonzero(whole & ((begin < last_begin) | (end > first_end))):
        raise ValueError(
            f"unit {index[at]} must see all of its columns to be whole, {begin[at]} to {end[at]}; its rows, from "
            f"{row_block[at] * sizes.unit_q} on, all see {last_begin[at]} to {first_end[at]}"
        )

    begin = np.maximum(begin, step_begin)  # masked units leave out what an earlier step has covered
    order = np.lexsort((begin, interval, row_block))
    same = (np.diff(row_block[order]) == 0) & (np.diff(interval[order]) == 0)
    for at in np.flatnonzero(same & (begin[order[1:]] < end[order[:-1]])):
        raise ValueError(
            f"units {index[order[at]]} and {index[order[at + 1]]} are of the same rows and must not overlap; they "
            f"begin at columns {begin[order[at]]} and {begin[order[at + 1]]}, and hold {sizes.unit_kv}"
        )


def _common_columns(
    row_bounds: Int32[np.ndarray, "4 rows"], sizes: BlockSizes
) -> tuple[Int32[np.ndarray, "2 blocks"], Int32[np.ndarray, "2 blocks"]]:
    """Returns where what all rows of a row block see begins and ends, of their far and of their near intervals."""
    rows = row_bounds.shape[1]
    blocks = -(-rows // sizes.block_q) * sizes.block_q // sizes.unit_q
    far_begin, far_end, near_begin, near_end = row_bounds
    padding = (far_begin == far_end) & (near_begin == near_end)
    begins = np.zeros((2, blocks * sizes.unit_q), np.int32)
    ends = np.full_like(begins, np.iinfo(np.int32).max)
    begins[:, :rows] = np.where(padding, 0, (far_begin, near_begin))
    ends[:, :rows] = np.where(padding, np.iinfo(np.int32).max, (far_end, near_end))
    shape = (2, blocks, sizes.unit_q)
    return begins.reshape(shape).max(axis=2), ends.reshape(shape).min(axis=2)
