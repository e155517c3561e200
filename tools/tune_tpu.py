"""Chooses the kernel's block sizes by the compiler's static schedule: `bazel run //tools:tune_tpu -- --chip v6e`.

No TPU is needed. From the sizes in use it changes one size at a time, keeps what costs fewer cycles, and stops when
no change of any size helps. One compilation takes 10 to 60 seconds. The result goes into the chip's JSON file of
tuned sizes.
"""

import dataclasses
import datetime
import json
import pathlib
import tempfile
from typing import Any

from absl import app, flags, logging

_CHIP = flags.DEFINE_enum("chip", "v6e", ["v5e", "v6e", "v5p", "tpu7x"], "chip to tune for")
_HEAD_DIM = flags.DEFINE_multi_integer(
    "head_dim", [128], "head dimensions to tune; may be repeated"
)
_DTYPE = flags.DEFINE_multi_enum(
    "dtype", ["bfloat16"], ["bfloat16", "float32"], "dtypes to tune; may be repeated"
)
_OUTPUT = flags.DEFINE_string("output", None, "directory of the JSON files", required=True)
_ROUNDS = flags.DEFINE_integer("rounds", 2, "times that every size is tried", lower_bound=1)

CANDIDATES = {
    "stacked_rows": (1024, 2048, 4096, 5120),
    "block_kv": (1024, 2048, 4096),
    "chunk_kv": (256, 512, 1024),
    "unit_stacked_rows": (256, 512, 1024),
    "unit_kv": (128, 256, 512),
    "unit_group": (1, 2, 4, 8),
    "window_keys": (144, 160, 192, 256),
}


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    from isoprefill_pallas import tpu_compiler

    path = pathlib.Path(_OUTPUT.value) / f"{_CHIP.value}.json"
    if not path.parent.is_dir():
        raise app.UsageError(f"--output is {_OUTPUT.value}, which is not a directory")
    with tempfile.TemporaryDirectory() as dump:
        tpu_compiler.prepare_process(_CHIP.value, dump)
        entries = {}
        if path.is_file():
            entries = {
                (e["head_dim"], e["dtype"]): e for e in json.loads(path.read_text())["entries"]
            }
        for head_dim in _HEAD_DIM.value:
            for dtype in _DTYPE.value:
                at = (head_dim, dtype)
                entries[at] = tune(head_dim, dtype, entries.get(at, {}).get("sizes"), dump)
                content = {
                    "chip": _CHIP.value,
                    "entries": [entries[key] for key in sorted(entries)],
                }
                path.write_text(json.dumps(content, indent=2) + "\n")


def tune(head_dim: int, dtype: str, sizes: dict[str, int] | None, dump: str) -> dict[str, Any]:
    """The entry of the JSON file for a head_dim and dtype, from `sizes` on."""
    from isoprefill_pallas.block_sizes import UNTUNED
    from isoprefill_pallas.workloads import WORKLOADS

    workload = dataclasses.replace(WORKLOADS["W"], head_dim=head_dim, dtype=dtype)
    best = dict(sizes or UNTUNED[dtype])
    fewest = cycles(workload, best, dump)
    logging.info("head_dim %d, %s: %s cycles with %s", head_dim, dtype, fewest, best)
    for _ in range(_ROUNDS.value):
        before = dict(best)
        for name, values in CANDIDATES.items():
            for value in values:
                trial = best | {name: value}
                trial["full_keys"] = trial["block_kv"] // 2
                if value == best[name] or trial["block_kv"] % trial["chunk_kv"]:
                    continue
                count = cycles(workload, trial, dump)
                logging.info("%s = %d: %s", name, value, count or "does not compile")
                if count is not None and (fewest is None or count < fewest):
                    best, fewest = trial, count
        if best == before:
            break
    if fewest is None:
        raise app.UsageError(f"no sizes compile for head_dim {head_dim}, {dtype} on {_CHIP.value}")
    obtained = f"tools/tune_tpu, {datetime.date.today()}: fewest static cycles of W, 16 query and 8 KV heads"
    return {
        "head_dim": head_dim,
        "dtype": dtype,
        "obtained": obtained,
        "static_cycles": fewest,
        "sizes": best,
    }


def cycles(workload: Any, sizes: dict[str, int], dump: str) -> int | None:
    """Static cycles of the kernel with these sizes, or None if it does not compile."""
    from isoprefill_pallas.block_sizes import cut_to_pack
    from isoprefill_pallas.estimate import estimate_kernel

    rows = sum(workload.prefix_lens) + sum(map(sum, workload.item_lens))
    try:
        blocks = cut_to_pack(sizes, groups=workload.groups, rows=rows, columns=rows)
        return estimate_kernel(_CHIP.value, workload, blocks, dump).static_cycles
    except Exception as error:  # out of memory, or sizes that do not fit each other
        logging.info("%s", str(error).splitlines()[0] if str(error) else type(error).__name__)
        return None


if __name__ == "__main__":
    app.run(main)
