"""Chooses the kernel's block sizes by the compiler's static schedule.

    bazel run //tools:tune_tpu -- --chip v6e --output pallas/isoprefill_pallas/tuned

No TPU is needed. From the sizes in use it changes one size at a time, keeps what costs fewer cycles, and stops when
no change of any size helps. One compilation takes 10 to 60 seconds; `--size` limits which sizes are tried, and with
`--rounds 0` the sizes in use are only compiled and counted. The result goes into the chip's JSON file of tuned sizes.
"""

import dataclasses
import datetime
import itertools
import json
import pathlib
import sys
import tempfile
from typing import Any

from absl import app, flags, logging

import callers_directory
from benchmark import error_line
from isoprefill_pallas.block_sizes import UNTUNED, cut_to_pack
from isoprefill_pallas.chips import CHIPS
from isoprefill_tpu_lab import tpu_compiler
from isoprefill_tpu_lab.estimate import estimate_kernel
from isoprefill_tpu_lab.packs import PACKS, Pack

# For packs of long prefixes, and of short ones, which have no full step: block_sizes.py.
CANDIDATES = {
    "long": {
        "stacked_rows": (2048, 4096, 4608, 5120),
        "block_kv": (1024, 2048, 4096),
        "chunk_kv": (256, 512, 1024, 2048),
        "unit_stacked_rows": (256, 512, 1024),
        "unit_kv": (128, 256, 512),
        "unit_group": (1, 2, 4, 8),
        "window_keys": (144, 160, 192, 256),
    },
    "short": {
        "stacked_rows": (1024, 2048, 4096, 8192),
        "unit_stacked_rows": (256, 512),
        "unit_kv": (128, 160, 256, 320),
        "unit_group": (2, 4, 8),
        "window_keys": (144, 160, 192, 256),
    },
}
# The workload that the sizes are judged by.
JUDGES = {"long": "W", "short": "P"}

_CHIP = flags.DEFINE_enum("chip", "v6e", list(CHIPS), "Chip to tune for.")
_HEAD_DIM = flags.DEFINE_multi_integer(
    "head-dim", [128], "Head dimensions to tune; may be repeated."
)
_DTYPE = flags.DEFINE_multi_enum(
    "dtype", ["bfloat16"], ["bfloat16", "float32"], "Types of q, k and v to tune; may be repeated."
)
_PREFIXES = flags.DEFINE_multi_enum(
    "prefixes", list(JUDGES), list(JUDGES), "Kinds of pack to tune for; may be repeated."
)
_SIZE = flags.DEFINE_multi_enum(
    "size", None, sorted(CANDIDATES["long"]), "Sizes to change; may be repeated. Default: all."
)
_START = flags.DEFINE_string("start", None, "Sizes to start from, as JSON. Default: those in use.")
_OUTPUT = flags.DEFINE_string("output", None, "Directory of the JSON files.", required=True)
_ROUNDS = flags.DEFINE_integer("rounds", 2, "How many times to try every size.", lower_bound=0)


def main(argv: list[str]) -> None:
    callers_directory.enter(argv)
    path = pathlib.Path(_OUTPUT.value) / f"{_CHIP.value}.json"
    if not path.parent.is_dir():
        raise app.UsageError(f"--output is {_OUTPUT.value}, which is not a directory")
    with tempfile.TemporaryDirectory() as dump:
        tpu_compiler.prepare_process(_CHIP.value, dump)
        entries = {}
        if path.is_file():
            entries = {_key(entry): entry for entry in json.loads(path.read_text())["entries"]}
        for at in itertools.product(_HEAD_DIM.value, _DTYPE.value, _PREFIXES.value):
            entries[at] = tune(*at, entries.get(at, {}).get("sizes"), dump)
            content = {"chip": _CHIP.value, "entries": [entries[key] for key in sorted(entries)]}
            path.write_text(json.dumps(content, indent=2) + "\n")


def _key(entry: dict[str, Any]) -> tuple[int, str, str]:
    return entry["head_dim"], entry["dtype"], entry["prefixes"]


def tune(
    head_dim: int, dtype: str, prefixes: str, sizes: dict[str, int] | None, dump: str
) -> dict[str, Any]:
    """Returns the entry of the JSON file for a head_dim, dtype and kind of pack; starts from `sizes`."""
    judge = JUDGES[prefixes]
    pack = dataclasses.replace(PACKS[judge], head_dim=head_dim, dtype=dtype)
    best = dict(sizes or UNTUNED[dtype, prefixes])
    if _START.value:
        best |= json.loads(_START.value)
    fewest, tried = cycles(pack, best, dump), 1
    logging.info("head_dim %d, %s, %s: %s cycles with %s", head_dim, dtype, prefixes, fewest, best)
    for _ in range(_ROUNDS.value):
        before = dict(best)
        for name, values in CANDIDATES[prefixes].items():
            for value in values if name in (_SIZE.value or [name]) else ():
                trial = _changed(best, name, value)
                if value == best[name] or (
                    prefixes == "long" and trial["block_kv"] % trial["chunk_kv"]
                ):
                    continue
                count = cycles(pack, trial, dump)
                tried += 1
                logging.info("%s = %d: %s", name, value, count or "does not compile")
                if count is not None and (fewest is None or count < fewest):
                    best, fewest = trial, count
        if best == before:
            break
    if fewest is None:
        sys.exit(
            f"tune_tpu: no sizes compile for head_dim {head_dim}, {dtype}, {prefixes} prefixes on {_CHIP.value}"
        )
    counted = f"static cycles of {judge}, {pack.query_heads} query and {pack.kv_heads} KV heads"
    search = (
        f"fewest of {tried} sizes that were compiled" if tried > 1 else "no other sizes were tried"
    )
    obtained = f"tools/tune_tpu, {datetime.date.today()}: {counted}; {search}"
    return {
        "head_dim": head_dim,
        "dtype": dtype,
        "prefixes": prefixes,
        "obtained": obtained,
        "static_cycles": fewest,
        "sizes": best,
    }


def _changed(sizes: dict[str, int], name: str, value: int) -> dict[str, int]:
    """Returns the sizes with another value of one of them, and of those that depend on it."""
    changed = sizes | {name: value}
    if changed["full_keys"]:
        changed["full_keys"] = changed["block_kv"] // 2
    else:  # a whole number of units, about as many columns as before
        changed["block_kv"] = max(1, sizes["block_kv"] // changed["unit_kv"]) * changed["unit_kv"]
    return changed


def cycles(pack: Pack, sizes: dict[str, int], dump: str) -> int | None:
    """Returns the static cycles of the kernel with these sizes, or None if it does not compile."""
    try:
        rows, columns = pack.layout.num_rows, pack.layout.num_columns
        blocks = cut_to_pack(sizes, groups=pack.heads.groups, rows=rows, columns=columns)
        return estimate_kernel(_CHIP.value, pack, blocks, dump).static_cycles
    except Exception as error:  # out of memory, or sizes that do not fit each other
        logging.info("%s", error_line(error))
        return None


if __name__ == "__main__":
    app.run(main)
