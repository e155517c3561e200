"""Scoring speed on a CPU, ours against PyTorch on the same weights: `bazel run //tools:bench_cpu`.

Every implementation runs in a process of its own, in rounds of alternating order; a row shows the median of all its
runs. A run is one request of random tokens with an empty prefix cache. Rates count useful work only: every token's
projections once, visible pairs, and the head where it is read. Implementations that would take longer than --limit
score only the first items, and the workload's name says so. One that fails gets a row that says why; the others go on,
and the exit status is 1.
"""

import json
import os
import pathlib
import platform
import statistics
import sys
from typing import Any

import numpy as np
from absl import app, flags

import callers_directory
from bench_cpu.contestants import DTYPES, NAMES, Dtype
from bench_cpu.measurement import Measured, MeasurementError, Task, measure_apart
from bench_cpu.plot import draw_items
from bench_cpu.workloads import KINDS, WORKLOADS, Kind
from benchmark import write_json

_WORKLOAD = flags.DEFINE_multi_enum(
    "workload", list(WORKLOADS), list(WORKLOADS), "Requests to score; may be repeated."
)
_IMPLEMENTATION = flags.DEFINE_multi_enum(
    "implementation", list(NAMES), list(NAMES), "Implementations to measure; may be repeated."
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
_QUICK = flags.DEFINE_bool(
    "quick", False, "Measure demo with labels in float32 only; takes under two minutes."
)

QUICK = ("ours-packed", "torch-serial", "torch-extend", "torch-dense")

Row = dict[str, Any]
Contestant = tuple[str, Dtype]  # implementation, dtype of the weights
Runs = dict[Kind, list[Measured]]

REFERENCE: Contestant = ("torch-extend", "float32")  # what scores are compared with


def main(argv: list[str]) -> int:
    """Measures or draws; returns the exit status."""
    callers_directory.enter(argv)
    if _PLOT.value:
        return draw_items(_PLOT.value, _MODEL.value, _CLOCK.value)
    workloads, names, kinds = _WORKLOAD.value, _IMPLEMENTATION.value, _KIND.value
    dtypes: list[Dtype] = _DTYPE.value
    rounds = _ROUNDS.value
    if _QUICK.value:
        workloads, kinds, dtypes, rounds = ["demo"], ["labels"], ["float32"], 1
        names = quick_names()
    kept = _kept()
    print(f"{_processor()}, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}")
    print(f"{'workload':<18}{'implementation':<34}{'dtype':<10}{'items/s':>8}{'s':>8}{'MB':>7}"
          f"{'diff':>9}{'x peer':>8}{'GFLOP':>8}{'share':>7}")  # fmt: skip
    complete = True
    for workload in workloads:
        who = [(name, dtype) for dtype in dtypes for name in names]
        rows = compare(workload, who, kinds, rounds)
        new = {_identity(row) for row in rows}
        rows += [row for row in kept.pop(workload, []) if _identity(row) not in new]
        kept[workload] = with_ratios(rows)
        for row in kept[workload]:
            if _identity(row) in new:
                print_row(row)
                complete &= row["max_score_diff"] is not None  # nor is one that failed
        write_json(_JSON.value, [row for rows in kept.values() for row in rows])
    return 0 if complete else 1


def quick_names() -> list[str]:
    """Returns what --quick measures: all of QUICK, or those that --implementation names."""
    if not _IMPLEMENTATION.present:
        return list(QUICK)
    if others := [name for name in _IMPLEMENTATION.value if name not in QUICK]:
        raise app.UsageError(
            f"--implementation must be one of {', '.join(QUICK)} with --quick, got {', '.join(others)}"
        )
    return _IMPLEMENTATION.value


def compare(workload: str, who: list[Contestant], kinds: list[Kind], rounds: int) -> list[Row]:
    """Returns the rows of one workload, without ratios. An implementation that failed has rows that say why."""
    runs: dict[Contestant, Runs] = {one: {} for one in who}
    failed: dict[Contestant, str] = {}  # these are not tried again
    for index in range(rounds):
        for one in who if index % 2 == 0 else reversed(who):
            if one in failed:
                continue
            try:
                for measured in measure_apart(_task(*one, workload, kinds, _SECONDS.value)):
                    runs[one].setdefault(measured.kind, []).append(measured)
            except MeasurementError as error:
                failed[one] = str(error)
    reference = runs[REFERENCE] if REFERENCE in runs else _reference_apart(workload, kinds)
    return [
        failed_row(workload, one, kind, failed[one])
        if one in failed
        else row_of(one, runs[one][kind], reference.get(kind))
        for one in runs
        for kind in kinds
    ]


def _reference_apart(workload: str, kinds: list[Kind]) -> Runs:
    """Returns the scores to compare with, if no row has them; none if the measurement fails."""
    try:
        found = measure_apart(_task(*REFERENCE, workload, kinds, 0))
    except MeasurementError as error:
        print(f"{workload}: no scores to compare with: {error}", file=sys.stderr)
        return {}
    return {one.kind: [one] for one in found}


def row_of(who: Contestant, rounds: list[Measured], reference: list[Measured] | None) -> Row:
    """Returns the row of all rounds, with the largest difference from the reference's scores."""
    first = rounds[0]
    # A round may scale down to another number of items: the rate of each is what counts.
    each = statistics.median(seconds / one.num_items for one in rounds for seconds in one.seconds)
    gflop_per_s = first.gflop / (each * first.num_items)
    matmul = statistics.median(one.matmul_gflop_per_s for one in rounds)
    difference = None
    if reference:
        expected = np.asarray(reference[0].logprobs)[: first.num_items]
        difference = float(np.abs(np.asarray(first.logprobs) - expected).max())
    return {
        "workload": first.workload,
        "implementation": f"{who[0]}/{first.kind}",
        "dtype": who[1],
        "items_per_s": 1 / each,
        "seconds": each * first.num_items,
        "peak_rss_mb": max(one.peak_rss_mb for one in rounds),
        "max_score_diff": difference,
        "gflop": first.gflop,
        "gemm_share": gflop_per_s / matmul,
    }


def failed_row(workload: str, who: Contestant, kind: Kind, reason: str) -> Row:
    """Returns a row without numbers."""
    numbers = ("items_per_s", "seconds", "peak_rss_mb", "max_score_diff", "gflop", "gemm_share")
    named = {"workload": workload, "implementation": f"{who[0]}/{kind}", "dtype": who[1]}
    return named | dict.fromkeys(numbers) | {"error": f"failed: {reason}"}


def with_ratios(rows: list[Row]) -> list[Row]:
    """Adds to the rows of one workload their items/s relative to the best peer of the same dtype and kind."""
    best: dict[tuple[str, str], float] = {}
    for row in rows:
        name, kind = row["implementation"].split("/")
        if name.startswith("torch-") and not row.get("error"):
            key = (row["dtype"], kind)
            best[key] = max(best.get(key, 0.0), row["items_per_s"])
    for row in rows:
        peer = best.get((row["dtype"], row["implementation"].split("/")[1]))
        known = peer is not None and not row.get("error")
        row["ratio_to_best_peer"] = row["items_per_s"] / peer if known else None
    return rows


def print_row(row: Row) -> None:
    head = f"{row['workload']:<18}{row['implementation']:<34}{row['dtype']:<10}"
    if row.get("error"):
        print(f"{head}{row['error']}", flush=True)
        return
    difference, ratio = row["max_score_diff"], row["ratio_to_best_peer"]
    print(
        f"{head}{row['items_per_s']:8.1f}{row['seconds']:8.2f}{row['peak_rss_mb']:7.0f}"
        f"{'' if difference is None else f'{difference:.1e}':>9}{'' if ratio is None else f'{ratio:.2f}':>8}"
        f"{row['gflop']:8.0f}{row['gemm_share']:7.2f}",
        flush=True,
    )


def _task(name: str, dtype: Dtype, workload: str, kinds: list[Kind], seconds: float) -> Task:
    return Task(
        name,
        dtype,
        _MODEL.value,
        [WORKLOADS[workload]],
        kinds,
        seconds,
        _LIMIT.value,
        clock=_CLOCK.value,
    )


def _processor() -> str:
    path = pathlib.Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _kept() -> dict[str, list[Row]]:
    """Returns the rows in the file, by workload."""
    rows: dict[str, list[Row]] = {}
    if _JSON.value and pathlib.Path(_JSON.value).exists():
        for row in json.loads(pathlib.Path(_JSON.value).read_text()):
            rows.setdefault(row["workload"].split(",")[0], []).append(row)
    return rows


def _identity(row: Row) -> tuple[str, str]:
    return row["implementation"], row["dtype"]


if __name__ == "__main__":
    app.run(main)
