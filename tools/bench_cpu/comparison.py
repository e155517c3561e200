"""Measures implementations in turns, and makes a row of each."""

import dataclasses
import sys

from bench_cpu.implementation import Dtype
from bench_cpu.measurement import Measured, MeasurementError, Task, measure_apart
from bench_cpu.rows import Contestant, Row, failed_row, row_of, with_weights_read
from bench_cpu.weights_read import WeightsRead, read_weights
from bench_cpu.workloads import Kind

Runs = dict[Kind, list[Measured]]

REFERENCE: Contestant = ("torch-extend", "float32")  # what scores are compared with


def compare(task: Task, who: list[Contestant], rounds: int) -> list[Row]:
    """Returns the rows of one workload, without ratios. An implementation that failed has rows that say why.

    Args:
        task: for anyone of them; it has one workload.
        who: whom to measure.
        rounds: processes of each.
    """
    (workload,) = task.workloads
    runs: dict[Contestant, Runs] = {one: {} for one in who}
    failed: dict[Contestant, str] = {}  # these are not tried again
    weight_bytes: dict[Dtype, int] = {}
    weights: dict[Dtype, WeightsRead] = {}
    for index in range(rounds):
        for one in who if index % 2 == 0 else reversed(who):
            if one in failed:
                continue
            try:
                for measured in measure_apart(_of(one, task)):
                    runs[one].setdefault(measured.kind, []).append(measured)
                    weight_bytes[one[1]] = measured.weight_bytes
            except MeasurementError as error:
                failed[one] = str(error)
        for dtype, size in weight_bytes.items() if workload.small else ():
            read = read_weights(size, task.clock)
            weights[dtype] = min(read, weights.get(dtype, read), key=lambda one: one.seconds)
    reference = runs[REFERENCE] if REFERENCE in runs else _reference_apart(task)
    rows = [
        failed_row(workload.name, one, kind, failed[one])
        if one in failed
        else row_of(one, runs[one][kind], reference.get(kind))
        for one in runs
        for kind in task.kinds
    ]
    for row in rows:
        row["instructions"] = task.instructions
    return with_weights_read(rows, weights) if workload.small else rows


def _of(who: Contestant, task: Task) -> Task:
    return dataclasses.replace(task, implementation=who[0], dtype=who[1])


def _reference_apart(task: Task) -> Runs:
    """Returns the scores to compare with, if no row has them; none if the measurement fails."""
    try:
        found = measure_apart(dataclasses.replace(_of(REFERENCE, task), seconds=0, requests=1))
    except MeasurementError as error:
        print(f"{task.workloads[0].name}: no scores to compare with: {error}", file=sys.stderr)
        return {}
    return {one.kind: [one] for one in found}
