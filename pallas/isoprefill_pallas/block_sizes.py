"""Block sizes of the TPU kernel: what they mean, and which are chosen for a chip, head_dim and dtype."""

import dataclasses
import functools
import importlib.resources
import json
import math
import warnings

import numpy as np
from jaxtyping import Int32

from isoprefill_csrc import LANES, check_tile_sizes
from isoprefill_pallas.heads import Heads


@dataclasses.dataclass(frozen=True, slots=True)
class BlockSizes:
    """How the kernel cuts rows and columns; csrc/tile_schedule.h explains tiles, units and windows.

    Attributes:
        block_q: rows of a Q tile, which stay in VMEM with their accumulators over all steps of the tile.
        block_kv: columns that a step brings into VMEM.
        chunk_kv: columns of a full step that are computed at a time; bounds the scores held in VMEM.
        unit_q, unit_kv: rows and columns of a unit, the piece that partly visible blocks are made of.
        unit_group: units computed together. Their chains of matmul, exponential and matmul have nothing to do
            with each other, so one fills the other's waiting times.
        window_keys: columns of a window, the own columns of 128 rows. Items up to about window_keys - 128
            tokens need no unit. 0 is for none.
        full_keys: fewest columns for which a full step beats units. 0 is for none: the kernel is then compiled
            without them, and without units that apply no mask.

    Raises:
        ValueError: naming the size, its value and the limit.
    """

    block_q: int
    block_kv: int
    chunk_kv: int
    unit_q: int
    unit_kv: int
    unit_group: int
    window_keys: int
    full_keys: int

    def __post_init__(self) -> None:
        check_tile_sizes(**self.schedule_arguments())
        if self.chunk_kv < LANES or self.chunk_kv % LANES:
            raise ValueError(
                f"chunk_kv is {self.chunk_kv}; it must be a multiple of {LANES} from {LANES}"
            )
        if self.full_keys and self.block_kv % self.chunk_kv:
            raise ValueError(
                f"chunk_kv is {self.chunk_kv}; it must divide block_kv = {self.block_kv}"
            )

    @property
    def local_keys(self) -> int:
        """Columns that are kept for the windows of a Q tile."""
        return self.block_q + self.window_keys - LANES if self.window_keys else 0

    def schedule_arguments(self) -> dict[str, int]:
        """Returns the keyword arguments of `isoprefill_csrc.Layout.tile_schedule`."""
        arguments = dataclasses.asdict(self)
        del arguments["chunk_kv"]
        return arguments


def choose_block_sizes(
    chip: str | None,
    heads: Heads,
    row_intervals: Int32[np.ndarray, "4 T"],
    num_columns: int,
    *,
    window: int | None = None,
) -> BlockSizes:
    """Chooses the tuned sizes of a chip for a kind of pack, and cuts them down to the pack.

    tuned/CHIP.json gives them per head_dim, dtype and kind of pack, with rows counted over the query heads of a
    KV head: what matters to the matmul unit is how many rows are stacked. Where there is no entry, the untuned
    sizes of UNTUNED are taken, with one warning per case. `chip` None is for the interpreter: no warning.

    The kind is "short" if no row sees a prefix that is worth a full step by the sizes of "long". It follows, as the
    sizes do, from lengths alone, so the content of a pack changes nothing.

    Args:
        row_intervals: prefix_begin, prefix_end, own_begin, own_end of each row, in columns, half open.
        num_columns: columns of k and v.
        window: how many of these columns a row sees at most.
    """
    longest = int((row_intervals[1] - row_intervals[0]).max(initial=0))
    longest = longest if window is None else min(longest, window)
    entries = {} if chip is None else _tuned(chip)
    for kind in ("long", "short"):
        entry = entries.get((heads.head_dim, heads.dtype, kind))
        if entry is None:
            entry = UNTUNED[heads.dtype, kind]
            if chip is not None:
                _warn_untuned(chip, heads.head_dim, heads.dtype)
        rows = row_intervals.shape[1]
        sizes = cut_to_pack(entry, groups=heads.groups, rows=rows, columns=num_columns)
        if longest >= sizes.full_keys:
            break
    return sizes


def cut_to_pack(entry: dict[str, int], *, groups: int, rows: int, columns: int) -> BlockSizes:
    """Fits sizes of a JSON file to `groups` query heads per KV head and to a pack that may be smaller."""
    unit_q = max(LANES, entry["unit_stacked_rows"] // groups // LANES * LANES)
    unit_kv = entry["unit_kv"]
    # With many query heads even the least unit_q stacks more rows than asked for; then fewer units are a group.
    area = entry["unit_group"] * entry["unit_stacked_rows"]
    unit_group = min(entry["unit_group"], max(1, area // (groups * unit_q)))
    most = max(unit_q, entry["stacked_rows"] // groups // unit_q * unit_q)
    # Tiles of equal size: the last one is computed whole, however few rows it has.
    tiles = -(-max(rows, 1) // most)
    block_q = _round_up(-(-rows // tiles), unit_q)
    chunk_kv = entry["chunk_kv"]
    block_kv = entry["block_kv"]
    if columns < block_kv:
        block_kv = _round_up(columns, math.lcm(unit_kv, LANES) if entry["full_keys"] else unit_kv)
        # The largest chunk that cuts the smaller block evenly.
        chunks = range(LANES, min(chunk_kv, block_kv) + 1, LANES)
        chunk_kv = max((c for c in chunks if block_kv % c == 0), default=LANES)
    return BlockSizes(
        block_q=block_q,
        block_kv=block_kv,
        chunk_kv=chunk_kv,
        unit_q=unit_q,
        unit_kv=unit_kv,
        unit_group=unit_group,
        window_keys=entry["window_keys"],
        full_keys=min(entry["full_keys"], block_kv),
    )


# Sizes that compile on every chip for every head_dim.
UNTUNED: dict[tuple[str, str], dict[str, int]] = {
    ("bfloat16", "long"): {
        "stacked_rows": 2048,
        "block_kv": 1024,
        "chunk_kv": 512,
        "unit_stacked_rows": 512,
        "unit_kv": 256,
        "unit_group": 4,
        "window_keys": 160,
        "full_keys": 512,
    },
    ("float32", "long"): {
        "stacked_rows": 1024,
        "block_kv": 1024,
        "chunk_kv": 256,
        "unit_stacked_rows": 256,
        "unit_kv": 256,
        "unit_group": 2,
        "window_keys": 160,
        "full_keys": 512,
    },
}
UNTUNED |= {
    (dtype, "short"): UNTUNED[dtype, "long"] | {"full_keys": 0} for dtype in ("bfloat16", "float32")
}


@functools.cache
def _tuned(chip: str) -> dict[tuple[int, str, str], dict[str, int]]:
    file = importlib.resources.files("isoprefill_pallas") / "tuned" / f"{chip}.json"
    if not file.is_file():
        return {}
    entries = json.loads(file.read_text())["entries"]
    return {
        (entry["head_dim"], entry["dtype"], entry["prefixes"]): entry["sizes"] for entry in entries
    }


@functools.cache
def _warn_untuned(chip: str, head_dim: int, dtype: str) -> None:
    warnings.warn(
        f"no tuned block sizes for head_dim {head_dim}, {dtype} on {chip}; untuned ones are used",
        stacklevel=3,
    )


def _round_up(value: int, to: int) -> int:
    return -(-max(value, 1) // to) * to
