"""Times the mask op against NumPy broadcasting and a Python loop: `bazel run //tools:bench_mask`.

Packs have the shape of workload W (2000 + 500 x 20): a sixth of the rows is prefix, the rest items of 20 tokens.

- `dense_mask`: bool [T, T]. `numpy` computes the rule for any pack, as the C++ does; `numpy short` only what one
  request without delimiters needs. `memset` allocates and fills the same number of bytes in one call, which is as fast
  as memory allows; `memset warm` fills bytes that were used before.
- `schedule`: which tiles have a visible pair and which are wholly visible. The C++ writes the aligned and the tile
  schedule from lengths; NumPy and the loop classify 512 x 512 tiles of the mask.

In each repeat all implementations run one after another and free their results. `x csrc` compares medians. Peak
memory is the largest growth of a fresh process's resident set during one call; the layout does not count.
"""

import concurrent.futures
import multiprocessing
import pathlib
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from absl import app, flags, logging

import callers_directory
import isoprefill_csrc as csrc
from benchmark import alternating_seconds, write_json

_JSON = flags.DEFINE_string("json", None, "Write the rows to this file, as JSON.")
_REPEATS = flags.DEFINE_integer(
    "repeats", 7, "Measured calls of each implementation; the median counts.", lower_bound=1
)
_MAX_ROWS = flags.DEFINE_integer("max-rows", 131_072, "Rows of the largest pack.", lower_bound=1024)

W = (2000, 500)  # prefix, items of 20
TILE = 512
MAX_NUMPY_ROWS = 16_384
MAX_LOOP_ROWS = 2048
SHORTEST_TIMING = 0.002  # seconds; shorter calls are repeated

Call = Callable[[], Any]
Bools = npt.NDArray[np.bool_]


def pack(rows: int) -> tuple[int, int]:
    """Returns the prefix length and the number of 20-token items that make up `rows` rows."""
    items = rows * 5 // 6 // 20
    return rows - 20 * items, items


def build(prefix: int, items: int) -> csrc.Layout:
    return csrc.build_layout(prefix_lens=[prefix], item_lens=[np.full(items, 20)])


def numpy_mask(layout: csrc.Layout) -> Bools:
    """Computes the mask of any pack by broadcasting the rule of docs/design.md; bool [T, S]."""
    segment, key_segment = layout.segment_ids[:, None], layout.key_segment_ids[None, :]
    request, key_request = layout.request_ids[:, None], layout.key_request_ids[None, :]
    one_request = (request == key_request) & (request >= 0)
    not_later = (
        np.arange(layout.num_columns, dtype=np.int32)[None, :] <= layout.row_columns[:, None]
    )
    own = (key_segment == segment) & (segment > 0)
    return one_request & not_later & ((key_segment == 0) | own)


def numpy_mask_of_one_request(layout: csrc.Layout) -> Bools:
    """Computes the mask of one request without delimiters, padding or a cached prefix; bool [T, T]."""
    segment = layout.segment_ids
    row = np.arange(segment.size, dtype=np.int32)
    seen = (segment == 0)[None, :] | (segment[None, :] == segment[:, None])
    return seen & (row[None, :] <= row[:, None])


def loop_mask(layout: csrc.Layout) -> list[list[bool]]:
    """Computes the mask by a Python loop over all pairs."""
    segments = layout.segment_ids.tolist()
    return [
        [j <= i and (key == 0 or key == segment) for j, key in enumerate(segments)]
        for i, segment in enumerate(segments)
    ]


def numpy_tiles(layout: csrc.Layout) -> tuple[Bools, Bools]:
    """Finds in the mask the tiles with a visible pair, and those with only such; bool [T / 512, S / 512] each."""
    mask = numpy_mask(layout)
    padding = [(0, -size % TILE) for size in mask.shape]
    some = np.pad(mask, padding)
    every = np.pad(mask, padding, constant_values=True)
    split = (some.shape[0] // TILE, TILE, some.shape[1] // TILE, TILE)
    return np.any(some.reshape(split), axis=(1, 3)), np.all(every.reshape(split), axis=(1, 3))


def loop_tiles(layout: csrc.Layout) -> list[list[tuple[bool, bool]]]:
    mask = loop_mask(layout)
    tiles = []
    for top in range(0, len(mask), TILE):
        line = []
        for left in range(0, len(mask), TILE):
            pairs = [pair for row in mask[top : top + TILE] for pair in row[left : left + TILE]]
            line.append((any(pairs), all(pairs)))
        tiles.append(line)
    return tiles


def aligned_schedule(layout: csrc.Layout) -> csrc.AlignedSchedule:
    """Builds the schedule with the local block chosen for these items, as the XLA back end does."""
    block = layout.choose_local_block(block_q=TILE, block_kv=TILE, candidates=(64, 256))
    return layout.aligned_schedule(block_q=TILE, block_kv=TILE, local_block=block)


def calls(prefix: int, items: int) -> dict[tuple[str, str], Call]:
    """Returns what is measured on one pack: (operation, implementation) -> call."""
    layout = build(prefix, items)
    rows = layout.num_rows
    measured: dict[tuple[str, str], Call] = {
        ("layout", "csrc"): lambda: build(prefix, items),
        ("schedule", "csrc aligned"): lambda: aligned_schedule(layout),
        ("schedule", "csrc tile"): lambda: layout.tile_schedule(block_q=2048, block_kv=2048),
    }
    if rows <= MAX_NUMPY_ROWS:
        warm = np.empty((rows, rows), np.uint8)
        measured |= {
            ("schedule", "numpy"): lambda: numpy_tiles(layout),
            ("dense_mask", "csrc"): lambda: layout.dense_mask(),
            ("dense_mask", "numpy"): lambda: numpy_mask(layout),
            ("dense_mask", "numpy short"): lambda: numpy_mask_of_one_request(layout),
            ("dense_mask", "memset"): lambda: np.ones((rows, rows), np.uint8),
            ("dense_mask", "memset warm"): lambda: warm.fill(1),
        }
    if rows <= MAX_LOOP_ROWS:
        measured |= {
            ("schedule", "python"): lambda: loop_tiles(layout),
            ("dense_mask", "python"): lambda: loop_mask(layout),
        }
    return measured


def check_same(name: str, measured: dict[tuple[str, str], Call]) -> None:
    """Raises RuntimeError unless all implementations compute the same mask."""
    for implementation in ("numpy", "numpy short", "python"):
        other = measured.get(("dense_mask", implementation))
        if other and not np.array_equal(measured["dense_mask", "csrc"](), other()):
            raise RuntimeError(f"{name}: dense_mask of csrc differs from that of {implementation}")


def _status_kib(field: str) -> int:
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}")


def peak_bytes(prefix: int, items: int, key: tuple[str, str]) -> int:
    """Returns the largest growth of the resident set during one call; for a fresh process."""
    call = calls(prefix, items)[key]
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _status_kib("VmRSS")
    kept = call()
    peak = _status_kib("VmHWM")
    del kept
    return max(0, peak - before) * 1024


def peak_in_fresh_process(prefix: int, items: int, key: tuple[str, str]) -> int | None:
    """Returns `peak_bytes`, or None on systems without Linux's /proc."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(peak_bytes, prefix, items, key).result()
        except OSError as error:
            logging.warning("no peak memory: %s", error)
            return None


def measure(name: str, prefix: int, items: int) -> Iterator[dict[str, Any]]:
    logging.info("measuring %s", name)
    rows = prefix + 20 * items
    measured = calls(prefix, items)
    check_same(name, measured)
    timings = alternating_seconds(measured, _REPEATS.value, SHORTEST_TIMING)
    medians = {key: statistics.median(values) for key, values in timings.items()}
    references = {"layout": "csrc", "schedule": "csrc aligned", "dense_mask": "csrc"}
    for (operation, implementation), seconds in sorted(medians.items()):
        dense = operation == "dense_mask"
        yield {
            "pack": name,
            "rows": rows,
            "operation": operation,
            "implementation": implementation,
            "seconds": seconds,
            "fastest_seconds": min(timings[operation, implementation]),
            "times_csrc": seconds / medians[operation, references[operation]],
            "nanoseconds_per_row": seconds / rows * 1e9,
            "gigabytes_per_second": rows * rows / seconds / 1e9 if dense else None,
            "peak_bytes": None
            if implementation == "memset warm"
            else peak_in_fresh_process(prefix, items, (operation, implementation)),
            "source": "measured",
        }


HEADER = "{:>5} {:>10} {:>12} {:>12} {:>12} {:>10} {:>10} {:>6} {:>9}".format(
    "pack", "operation", "by", "median us", "fastest us", "x csrc", "ns per row", "GB/s", "peak MiB"
)


def line(row: dict[str, Any]) -> str:
    cells = [f"{row['pack']:>5} {row['operation']:>10} {row['implementation']:>12}"]
    cells.append(f"{row['seconds'] * 1e6:>12.1f} {row['fastest_seconds'] * 1e6:>12.1f}")
    cells.append(f"{row['times_csrc']:>10.2f} {row['nanoseconds_per_row']:>10.2f}")
    rate, peak = row["gigabytes_per_second"], row["peak_bytes"]
    cells.append(" " * 6 if rate is None else f"{rate:>6.2f}")
    cells.append("" if peak is None else f"{peak / 2**20:>9.1f}")
    return " ".join(cells)


def main(argv: list[str]) -> None:
    callers_directory.enter(argv)
    sizes = [1024 << i for i in range(8) if 1024 << i <= _MAX_ROWS.value]
    packs = [(f"{rows // 1024}k", *pack(rows)) for rows in sizes] + [("W", *W)]
    packs.sort(key=lambda entry: entry[1] + 20 * entry[2])
    print(
        f"{_REPEATS.value} calls each, alternating; peak: growth of a fresh process's resident set in a call"
    )
    print(HEADER)
    rows = []
    for name, prefix, items in packs:
        for row in measure(name, prefix, items):
            rows.append(row)
            print(line(row), flush=True)
    write_json(_JSON.value, rows)


if __name__ == "__main__":
    app.run(main)
