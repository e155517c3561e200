"""Scoring speed on a CPU, ours against PyTorch on the same weights: `bazel run //tools:bench_cpu`.

Every implementation runs in a process of its own, in rounds of alternating order; a row shows the median of all its
runs and their 95th percentile. A run is one request of random tokens with an empty prefix cache; only the rows
"warm_query" have the query's keys and values from an earlier request. Rates count useful work only: every token's
projections once, visible pairs, and the head where it is read. Implementations that would take longer than --limit
score only the first items, and the workload's name says so. One that fails gets a row that says why; the others go on,
and the exit status is 1.

After the rows of a small workload (tiny, small, page) stands how long all cores need to read the weights once.
"""

import json
import os
import pathlib

from absl import app, flags

import callers_directory
from bench_cpu.comparison import REFERENCE, compare
from bench_cpu.contestants import LLAMACPP, NAMES, OF_SMALL, WARM, is_present
from bench_cpu.implementation import DTYPES, Dtype
from bench_cpu.instructions import INSTRUCTIONS, in_use
from bench_cpu.measurement import Task
from bench_cpu.plot import draw_items
from bench_cpu.rows import Row, identity, with_ratios
from bench_cpu.table import header, line, weights_lines
from bench_cpu.workloads import KINDS, WORKLOADS, RandomRequest
from benchmark import write_json
from isoprefill.host.processor import processor_name

_WORKLOAD = flags.DEFINE_multi_enum(
    "workload", list(WORKLOADS), list(WORKLOADS), "Requests to score; may be repeated."
)
_IMPLEMENTATION = flags.DEFINE_multi_enum(
    "implementation",
    [name for name in NAMES if is_present(name)],
    list(NAMES),
    "Implementations to measure; may be repeated.",
)
_DTYPE = flags.DEFINE_multi_enum("dtype", DTYPES, DTYPES, "Types of the weights; may be repeated.")
_KIND = flags.DEFINE_multi_enum(
    "kind", list(KINDS), list(KINDS), "Kinds of scores; may be repeated."
)
_MODEL = flags.DEFINE_string(
    "model", "smollm2-135m", "A pinned model's name, a .gguf file, or a directory with safetensors."
)
_ROUNDS = flags.DEFINE_integer("rounds", 2, "Processes of each implementation.", lower_bound=1)
_SECONDS = flags.DEFINE_float("seconds", 4, "Seconds for which each process repeats a run.")
_REQUESTS = flags.DEFINE_integer(
    "requests",
    50,
    "Requests that each process times of the small workloads, instead of --seconds.",
    lower_bound=1,
)
_LIMIT = flags.DEFINE_float(
    "limit", 600, "Maximum seconds of a run; a longer one is scaled down to fewer items."
)
_JSON = flags.DEFINE_string(
    "json", None, "Write the rows to this file. It keeps the rows of other runs, to compare with."
)
_PLOT = flags.DEFINE_string(
    "plot", None, "Only plot time against the number of items, to this file (.svg or .png)."
)
_CLOCK = flags.DEFINE_enum(
    "clock",
    "wall",
    ["wall", "cpu"],
    "wall, or cpu: processor time divided by cores, a lower bound of the wall time, for a busy machine.",
)
_INSTRUCTIONS = flags.DEFINE_enum(
    "instructions",
    None,
    list(INSTRUCTIONS),
    "The highest instructions that ours and PyTorch may use. Default: all that the processor has.",
)
_QUICK = flags.DEFINE_bool(
    "quick", False, "Measure demo with labels in float32 only; takes under two minutes."
)

QUICK = ("ours-packed", "torch-serial", "torch-extend", "torch-dense")


def main(argv: list[str]) -> int:
    """Measures or draws; returns the exit status."""
    callers_directory.enter(argv)
    if _PLOT.value:
        return draw_items(_PLOT.value, _MODEL.value, _CLOCK.value, _INSTRUCTIONS.value)
    workloads, names, kinds = _WORKLOAD.value, implementations(), _KIND.value
    dtypes: list[Dtype] = _DTYPE.value
    rounds = _ROUNDS.value
    if _QUICK.value:
        workloads, kinds, dtypes, rounds = ["demo"], ["labels"], ["float32"], 1
    kept = _kept()
    print(f"{processor_name()}, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}")
    print(in_use(_INSTRUCTIONS.value))
    print(header(), flush=True)
    complete = True
    for workload in workloads:
        task = Task(
            *REFERENCE,
            _MODEL.value,
            [WORKLOADS[workload]],
            ["labels"] if WORKLOADS[workload].vectors else kinds,  # vectors have no likelihood
            _SECONDS.value,
            _LIMIT.value,
            clock=_CLOCK.value,
            requests=_REQUESTS.value,
            instructions=_INSTRUCTIONS.value,
        )
        who = [
            (name, dtype) for dtype in dtypes for name in _measured_of(WORKLOADS[workload], names)
        ]
        rows = compare(task, who, rounds)
        new = {identity(row) for row in rows}
        old = [row for row in kept.pop(workload, []) if identity(row) not in new]
        kept[workload] = with_ratios(rows + old)
        for row in rows:
            print(line(row), flush=True)
            complete &= row["max_score_diff"] is not None  # nor is one that failed
        for text in weights_lines(workload, rows):
            print(text, flush=True)
        write_json(_JSON.value, [row for rows in kept.values() for row in rows])
    return 0 if complete else 1


def implementations() -> list[str]:
    """Returns which implementations to measure."""
    names: list[str] = _IMPLEMENTATION.value
    asked = _IMPLEMENTATION.present
    if _QUICK.value and not asked:
        return list(QUICK)
    if _QUICK.value and (others := [name for name in names if name not in QUICK]):
        raise app.UsageError(
            f"--implementation must be one of {', '.join(QUICK)} with --quick, got {', '.join(others)}"
        )
    if _INSTRUCTIONS.value and LLAMACPP in names:
        if asked:
            raise app.UsageError(
                f"--instructions cannot restrict {LLAMACPP}: its own are chosen when it is built"
            )
        return [name for name in names if name != LLAMACPP]
    return names


def _measured_of(workload: RandomRequest, names: list[str]) -> list[str]:
    if workload.small or _IMPLEMENTATION.present:
        return names
    if workload.vectors:
        return [name for name in names if name in WARM]
    return [name for name in names if name not in OF_SMALL]


def _kept() -> dict[str, list[Row]]:
    """Returns the rows in the file, by workload."""
    rows: dict[str, list[Row]] = {}
    if _JSON.value and pathlib.Path(_JSON.value).exists():
        for row in json.loads(pathlib.Path(_JSON.value).read_text()):
            rows.setdefault(row["workload"].split(",")[0], []).append(row)
    return rows


if __name__ == "__main__":
    app.run(main)
