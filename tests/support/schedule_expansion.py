"""What a tile schedule covers, written out entry by entry (see csrc/tile_schedule.h)."""

import dataclasses

import numpy as np

from isoprefill_csrc import ANCHOR_KEYS, StepFlag, UnitBits, UnitInterval


@dataclasses.dataclass(frozen=True)
class Tile:
    """Rows and columns of one full step, whole or masked unit, window or anchor.

    `columns` is what counts: those of a window or unit to the last that one of its rows sees, a unit's (of all its
    `unit_columns`) without those that an earlier, overlapping block has covered; where the far interval of a row begins
    that an anchor is for.
    """

    kind: str
    rows: slice
    columns: slice
    interval: int = 0
    unit_columns: slice | None = None
    step: int = 0


def expand(schedule, sizes, anchors=False) -> list[Tile]:
    """Every tile of the schedule, in the order in which the kernel handles them."""
    unit_q, unit_kv = sizes.get("unit_q", 256), sizes.get("unit_kv", 256)
    window_keys = sizes.get("window_keys", 160)
    tiles = []
    for step, fields in enumerate(schedule.steps.T.tolist()):
        q_tile, start, flags, key_range, anchor, whole, masked, end = fields
        first_row = q_tile * sizes["block_q"]
        if flags & StepFlag.FIRST:
            first_is_full = bool(flags & StepFlag.FULL)
        begin, stop = start + (key_range & 0xFFFF), start + (key_range >> 16)
        for index in range(anchor, end):
            entry = int(schedule.units[index])
            interval = entry >> 20 & 3
            if interval == UnitInterval.NOTHING:
                assert entry == UnitInterval.NOTHING << 20
                continue
            row = first_row + (entry & 255) * unit_q
            key = start + (entry >> 8 & 4095) * 16
            rows = slice(row, row + unit_q)
            if index < whole:
                if anchors:
                    starts = slice(max(key, begin), key + ANCHOR_KEYS)
                    tiles.append(Tile("anchor", rows, starts, step=step))
                continue
            length = entry >> UnitBits.LENGTH_SHIFT & UnitBits.LENGTH_MASK
            columns = slice(max(key, begin), min(key + length, stop))
            unit = slice(key, key + unit_kv)
            kind = "whole unit" if index < masked else "masked unit"
            tiles.append(Tile(kind, rows, columns, interval, unit))
        if flags & StepFlag.FULL:
            rows = slice(first_row, first_row + sizes["block_q"])
            tiles.append(Tile("full", rows, slice(begin, stop)))
            if anchors and flags & StepFlag.FIRST:
                tiles.append(Tile("anchor", rows, slice(begin, begin + 1), step=step))
        if flags & StepFlag.WINDOWS:
            assert flags & (StepFlag.LAST if first_is_full else StepFlag.FIRST)
            local_start, *windows = schedule.tiles[q_tile].tolist()
            for i, (window, end) in enumerate(zip(windows[::2], windows[1::2], strict=True)):
                if window >= 0:
                    assert end <= window + window_keys
                    rows = slice(first_row + 128 * i, first_row + 128 * (i + 1))
                    columns = slice(local_start + window, local_start + end)
                    tiles.append(Tile("window", rows, columns, 1))
    return tiles


def covered_pairs(schedule, sizes, num_columns) -> np.ndarray:
    """int32 [T, S]: how often the kernel adds each pair to a row's softmax."""
    far_begin, far_end, near_begin, near_end = (x[:, None] for x in schedule.row_bounds)
    live = (far_end > far_begin) | (near_end > near_begin)
    column = np.arange(num_columns)[None, :]
    inside = [
        (column >= far_begin) & (column < far_end),
        (column >= near_begin) & (column < near_end),
    ]
    count = np.zeros(inside[0].shape, np.int32)
    for tile in expand(schedule, sizes):
        rows = range(*tile.rows.indices(len(live)))
        pairs = np.ix_(rows, range(*tile.columns.indices(num_columns)))
        masked = tile.kind not in ("full", "whole unit")
        count[pairs] += inside[tile.interval][pairs] if masked else live[rows]
    return count
