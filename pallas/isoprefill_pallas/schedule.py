"""Tile schedules in the form that the kernel takes: padded to a capacity, and split if they exceed scalar memory."""

import dataclasses

import jax
import numpy as np
from jaxtyping import Int32

from isoprefill_csrc import (
    KEY_GRANULE,
    Layout,
    StepField,
    TileField,
    TileSchedule,
    tile_schedule_of_intervals,
)
from isoprefill_pallas.block_sizes import BlockSizes, choose_block_sizes
from isoprefill_pallas.chips import CHIPS, present_chip
from isoprefill_pallas.heads import Heads
from isoprefill_pallas.padding import bucket, capacity
from isoprefill_pallas.unit_checks import check_units

# Scalar memory has 2^18 words; some are the compiler's.
SMEM_WORDS = 220_000
# Room that packs get whatever their items are: steps per Q tile, and units per unit_q rows. Steps and units that
# are not there cost nothing but scalar memory.
USUAL_STEPS = 8
USUAL_UNITS = 16
# Least room where a schedule is cut up.
LEAST_STEPS = 8
LEAST_UNITS = 64


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class SchedulePart:
    """The steps of consecutive Q tiles, counted from the part's first."""

    steps: Int32[np.ndarray, "8 n"]
    num_steps: (
        Int32[np.ndarray, ""] | int
    )  # of n; the rest is padding. An int fixes the kernel's grid
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
    def of(
        cls,
        layout: Layout,
        heads: Heads | None = None,
        *,
        chip: str | None = None,
        sizes: BlockSizes | None = None,
        smem_words: int = SMEM_WORDS,
        padded: bool = True,
    ) -> "KernelSchedule":
        """Makes the schedule of a layout.

        Padded to a capacity that depends on the layout's rows alone unless it needs more, so that layouts of one
        size share a compilation.

        Args:
            layout: as `build_layout` makes it.
            heads: of the attention; with the chip and the layout's lengths they choose the block sizes.
            chip: the TPU whose tuned block sizes are taken, such as "v6e"; by default the one that is there.
            sizes: the block sizes, instead of `heads` and `chip`.
            smem_words: of scalar memory; what exceeds them is cut into parts.
            padded: False leaves the padding out, for a schedule that is only looked at.

        Raises:
            ValueError: naming the argument, its value and what is allowed; or if the steps of one Q tile alone exceed
                `smem_words`.
        """
        sizes = sizes or _choose_sizes(
            heads, chip, layout.row_intervals, layout.num_columns, layout.window
        )
        schedule = layout.tile_schedule(**sizes.schedule_arguments())
        return cls._from_tiles(schedule, layout.num_columns, sizes, smem_words, padded)

    @classmethod
    def of_intervals(
        cls,
        row_intervals: Int32[np.ndarray, "4 T"],
        num_columns: int,
        heads: Heads | None = None,
        *,
        chip: str | None = None,
        sizes: BlockSizes | None = None,
    ) -> "KernelSchedule":
        """Makes the schedule of rows that are not of a layout, such as those of a chunk of a request.

        Args:
            row_intervals: prefix_begin, prefix_end, own_begin, own_end of each row, in columns, half open. Own
                columns follow the prefix, and neither begin nor end before those of an earlier row.
            num_columns: columns of k and v.
            heads, chip, sizes: as in `of`.

        Raises:
            ValueError: as `of`, and naming the row that breaks these rules.
        """
        intervals = np.ascontiguousarray(row_intervals, np.int32)
        sizes = sizes or _choose_sizes(heads, chip, intervals, num_columns)
        arguments = sizes.schedule_arguments()
        schedule = tile_schedule_of_intervals(intervals, num_columns, **arguments)
        return cls._from_tiles(schedule, num_columns, sizes, SMEM_WORDS, padded=True)

    @classmethod
    def _from_tiles(
        cls,
        schedule: TileSchedule,
        num_columns: int,
        sizes: BlockSizes,
        smem_words: int,
        padded: bool,
    ) -> "KernelSchedule":
        num_rows, num_tiles = schedule.row_bounds.shape[1], schedule.tiles.shape[0]
        room = (
            capacity(schedule.steps.shape[1], USUAL_STEPS * num_tiles),
            capacity(schedule.units.size, USUAL_UNITS * -(-num_rows // sizes.unit_q)),
        )
        words = len(StepField) * room[0] + room[1] + schedule.tiles.size
        ranges = [(0, num_tiles)]
        if words > smem_words:
            ranges = _cut(schedule, smem_words)
        parts = []
        for first, end in ranges:
            first_row = first * sizes.block_q
            rows = min(num_rows, end * sizes.block_q) - first_row
            steps, units = _steps_and_units(schedule, first, end)
            num_steps = np.asarray(steps.shape[1], np.int32)
            if not padded:
                room = (1, 1)
            elif words > smem_words:
                # A schedule that does not fit with its capacity may fit, whole, without it.
                room = (bucket(steps.shape[1], LEAST_STEPS), bucket(units.size, LEAST_UNITS))
            steps = np.pad(steps, ((0, 0), (0, max(0, room[0] - steps.shape[1]))))
            units = np.pad(units, (0, max(0, room[1] - units.size)))
            tiles = schedule.tiles[first:end]
            part = SchedulePart(steps, num_steps, units, tiles, first_row, rows)
            check_blocks(part, sizes, schedule.padded_columns)
            check_units(steps, units, sizes, schedule.row_bounds[:, first_row : first_row + rows])
            parts.append(part)
        return cls(tuple(parts), schedule.row_bounds, sizes, num_columns, schedule.padded_columns)


def check_blocks(part: SchedulePart, sizes: BlockSizes, padded_columns: int) -> None:
    """Checks that every block which a step brings into VMEM lies in the arrays.

    On a TPU nothing does that later: the kernel copies whatever these numbers say (`tile_attention`).

    Raises:
        ValueError: naming the number, its value and the limit.
    """
    tiles = -(-part.num_rows // sizes.block_q)
    windows = padded_columns - max(sizes.local_keys, KEY_GRANULE)
    for name, found, most in (
        ("Q tile", part.steps[StepField.Q_TILE], max(tiles, 1) - 1),
        ("first column", part.steps[StepField.KEY_START], padded_columns - sizes.block_kv),
        ("first column of windows", part.tiles[:, TileField.LOCAL_START], windows),
    ):
        outside = found[(found < 0) | (found > most)]
        if outside.size:
            raise ValueError(f"the {name} of a step must be from 0 to {most}, got {outside[0]}")


def _choose_sizes(
    heads: Heads | None,
    chip: str | None,
    row_intervals: Int32[np.ndarray, "4 T"],
    num_columns: int,
    window: int | None = None,
) -> BlockSizes:
    if heads is None:
        raise ValueError("the kernel's schedule needs heads or sizes, got neither")
    if chip is not None and chip not in CHIPS:
        raise ValueError(f"chip must be one of {tuple(CHIPS)}, got {chip!r}")
    return choose_block_sizes(
        chip or present_chip(), heads, row_intervals, num_columns, window=window
    )


def _steps_and_units(
    schedule: TileSchedule, first: int, end: int
) -> tuple[Int32[np.ndarray, "8 n"], Int32[np.ndarray, "m"]]:
    """Returns those of Q tiles `first` to `end`, counted from the first."""
    q_tile = schedule.steps[StepField.Q_TILE]
    steps = np.array(schedule.steps[:, (q_tile >= first) & (q_tile < end)])
    first_unit = steps[StepField.ANCHORS, 0]
    units = schedule.units[first_unit : steps[StepField.UNITS_END, -1]]
    steps[StepField.Q_TILE] -= first
    steps[StepField.ANCHORS : StepField.UNITS_END + 1] -= first_unit
    return steps, units


def _cut(schedule: TileSchedule, smem_words: int) -> list[tuple[int, int]]:
    """Returns ranges of Q tiles whose padded schedules fit into `smem_words`."""
    fields, (num_tiles, tile_words) = schedule.steps, schedule.tiles.shape
    q_tile = fields[StepField.Q_TILE]
    steps = np.bincount(q_tile, minlength=num_tiles)
    units_of_steps = fields[StepField.UNITS_END] - fields[StepField.ANCHORS]
    units = np.bincount(q_tile, units_of_steps, num_tiles).astype(int)

    def words(first: int, end: int) -> int:
        of_steps = len(StepField) * bucket(steps[first:end].sum(), LEAST_STEPS)
        of_units = bucket(units[first:end].sum(), LEAST_UNITS)
        return of_steps + of_units + tile_words * (end - first)

    for tile in range(num_tiles):
        if words(tile, tile + 1) > smem_words:
            raise ValueError(
                f"the schedule of Q tile {tile} takes {words(tile, tile + 1)} words; scalar memory holds {smem_words}"
            )
    ranges, first = [], 0
    for end in range(1, num_tiles + 1):
        if words(first, end) > smem_words:
            ranges.append((first, end - 1))
            first = end - 1
    return [*ranges, (first, num_tiles)]
