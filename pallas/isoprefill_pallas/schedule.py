"""Tile schedules as the kernel takes them: padded to a capacity, and cut up where scalar memory is too small."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jaxtyping import Int32

import isoprefill_csrc
from isoprefill_pallas.block_sizes import BlockSizes
from isoprefill_pallas.kernel import ANCHORS, Q_TILE

# Scalar memory has 2^18 words; some are the compiler's.
SMEM_WORDS = 220_000
# Room that packs get whatever their items are: steps per Q tile, and units per unit_q rows. Steps and units that
# are not there cost nothing but scalar memory.
USUAL_STEPS = 8
USUAL_UNITS = 16


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class SchedulePart:
    """The steps of consecutive Q tiles, counted from the part's first."""

    steps: Int32[np.ndarray, "7 n"]
    num_steps: Int32[np.ndarray, ""]  # of n; the rest is padding
    units: Int32[np.ndarray, "m"]
    tiles: Int32[np.ndarray, "K windows"]
    first_row: int = dataclasses.field(metadata={"static": True})
    num_rows: int = dataclasses.field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class KernelSchedule:
    """What the kernel visits. Arrays are traced; sizes, rows and the number of parts are static.

    Attributes:
        parts: one call of the kernel each. More than one only if the schedule does not fit into scalar memory.
        row_bounds: the columns that each row sees, split into far and near ones; see csrc/tile_schedule.h.
        sizes: the block sizes it was made for.
        num_columns: columns of k and v.
        padded_columns: columns that the kernel wants of them.
    """

    parts: tuple[SchedulePart, ...]
    row_bounds: Int32[np.ndarray, "4 T"]
    sizes: BlockSizes = dataclasses.field(metadata={"static": True})
    num_columns: int = dataclasses.field(metadata={"static": True})
    padded_columns: int = dataclasses.field(metadata={"static": True})

    @property
    def num_rows(self) -> int:
        """T, padding included."""
        return self.row_bounds.shape[1]

    @classmethod
    def build(
        cls, layout: Any, sizes: BlockSizes, *, smem_words: int = SMEM_WORDS, padded: bool = True
    ) -> "KernelSchedule":
        """The schedule of an `isoprefill_csrc.Layout`.

        Padded to a capacity that depends on the layout's rows alone unless it needs more, so that layouts of one
        size share a compilation.

        Raises:
            ValueError: if the steps of one Q tile alone exceed `smem_words`.
        """
        schedule = layout.tile_schedule(**sizes.schedule_arguments())
        return cls._of(schedule, layout.num_columns, sizes, smem_words, padded)

    @classmethod
    def of_intervals(
        cls,
        row_intervals: Int32[np.ndarray, "4 T"],
        num_columns: int,
        sizes: BlockSizes,
        *,
        smem_words: int = SMEM_WORDS,
    ) -> "KernelSchedule":
        """The schedule of rows that are not of a layout, such as those of a chunk of a request.

        Args:
            row_intervals: prefix_begin, prefix_end, own_begin, own_end of each row, in columns, half open. A prefix
                does not begin before that of an earlier row. Own columns follow the prefix, and neither begin nor end
                before those of an earlier row.
            num_columns: columns of k and v.

        Raises:
            ValueError: naming the row that breaks these rules.
        """
        intervals = np.ascontiguousarray(row_intervals, np.int32)
        schedule = isoprefill_csrc.tile_schedule_of_intervals(
            intervals, num_columns, **sizes.schedule_arguments()
        )
        return cls._of(schedule, num_columns, sizes, smem_words, padded=True)

    @classmethod
    def _of(
        cls, schedule: Any, num_columns: int, sizes: BlockSizes, smem_words: int, padded: bool
    ) -> "KernelSchedule":
        num_rows = schedule.row_bounds.shape[1]
        capacity = (
            _capacity(schedule.num_steps, USUAL_STEPS * schedule.num_q_tiles),
            _capacity(schedule.num_units, USUAL_UNITS * -(-num_rows // sizes.unit_q)),
        )
        words = schedule.steps.shape[0] * capacity[0] + capacity[1] + schedule.tiles.size
        parts = [(0, schedule.num_q_tiles)] if words <= smem_words else _cut(schedule, smem_words)
        made = []
        for first, end in parts:
            # A schedule that does not fit with its capacity may fit, whole, without it.
            room = capacity if words <= smem_words else None
            part = _part(schedule, first, end, room if padded else (1, 1))
            first_row = first * sizes.block_q
            rows = min(num_rows, end * sizes.block_q) - first_row
            made.append(SchedulePart(*part, first_row=first_row, num_rows=rows))
        return cls(
            tuple(made),
            schedule.row_bounds,
            sizes,
            num_columns=num_columns,
            padded_columns=schedule.padded_columns,
        )


def _part(
    schedule: Any, first: int, end: int, capacity: tuple[int, int] | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The arrays of Q tiles `first` to `end`, with room for `capacity` steps and units, or for a bucket of them."""
    of_part = (schedule.steps[Q_TILE] >= first) & (schedule.steps[Q_TILE] < end)
    steps = np.array(schedule.steps[:, of_part])
    first_unit, end_unit = steps[ANCHORS, 0], steps[-1, -1]
    steps[Q_TILE] -= first
    steps[ANCHORS:] -= first_unit
    units = schedule.units[first_unit:end_unit]
    if capacity is None:
        capacity = (_bucket(steps.shape[1], 8), _bucket(units.size, 64))
    return (
        np.pad(steps, ((0, 0), (0, max(0, capacity[0] - steps.shape[1])))),
        np.asarray(steps.shape[1], np.int32),
        np.pad(units, (0, max(0, capacity[1] - units.size))),
        schedule.tiles[first:end],
    )


def _cut(schedule: Any, smem_words: int) -> list[tuple[int, int]]:
    """Ranges of Q tiles whose padded schedules fit into `smem_words`."""
    fields, tile_words = schedule.steps.shape[0], schedule.tiles.shape[1]
    q_tile = schedule.steps[Q_TILE]
    steps = np.bincount(q_tile, minlength=schedule.num_q_tiles)
    units = np.bincount(
        q_tile, schedule.steps[-1] - schedule.steps[ANCHORS], schedule.num_q_tiles
    ).astype(int)

    def words(first: int, end: int) -> int:
        of_steps = fields * _bucket(steps[first:end].sum(), 8)
        return of_steps + _bucket(units[first:end].sum(), 64) + tile_words * (end - first)

    for tile in range(schedule.num_q_tiles):
        if words(tile, tile + 1) > smem_words:
            raise ValueError(
                f"the schedule of Q tile {tile} takes {words(tile, tile + 1)} words; scalar memory holds {smem_words}"
            )
    ranges, first = [], 0
    for end in range(1, schedule.num_q_tiles + 1):
        if words(first, end) > smem_words:
            ranges.append((first, end - 1))
            first = end - 1
    return [*ranges, (first, schedule.num_q_tiles)]


def _capacity(count: int, usual: int) -> int:
    return usual if count <= usual else 1 << (count - 1).bit_length()


def _bucket(count: int, least: int) -> int:
    """At most 1/8 more than `count`, and few different values."""
    step = max(least, 1 << max(0, int(count).bit_length() - 4))
    return max(step, -(-int(count) // step) * step)
