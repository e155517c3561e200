"""Measures one implementation in a process of its own, so that the peak of memory is its own.

`measure_apart(task)` starts the process; run as a program it takes a `Task` as JSON and prints what it measured.
"""

import dataclasses
import functools
import itertools
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import msgspec

from bench_cpu.clock import Clock, timed
from bench_cpu.contestants import COMPILED, ITEM_BY_ITEM, WARM, contestant
from bench_cpu.implementation import MATMULS, Dtype, Implementation
from bench_cpu.instructions import Instructions, environment
from bench_cpu.workloads import Kind, RandomRequest, all_weights

MATMUL_ROWS = 4096
MOST_RUNS = 5
WARM_UP_REQUESTS = 5  # of a small workload, before those that are timed
SCALED_SECONDS = 15.0  # of a run that is scaled down
LONG_RUN = 60.0  # seconds; next to it a compilation is nothing
LONGEST_BATCH = 20_000  # tokens of a batch that holds the query many times: activations of 2 GB
WEIGHT_BYTES = {"float32": 4, "bfloat16": 2}


@dataclasses.dataclass(frozen=True, slots=True)
class Task:
    """What to measure. Times are in seconds."""

    implementation: str  # one of bench_cpu.contestants.NAMES
    dtype: Dtype  # of the weights
    model: str
    workloads: list[RandomRequest]
    kinds: list[Kind]
    seconds: float  # a workload is repeated until its runs took this long; it runs at least once
    limit: float  # a run that would take longer is scaled down
    # The measurement ends before the first workload that would take longer, if time is linear in items.
    stop_after: float = 1e9
    clock: Clock = "wall"
    requests: int = 50  # timed for each small workload, whatever `seconds` is
    instructions: Instructions | None = None  # the highest that may be used; None: all there are


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of one workload and kind of scores."""

    workload: str  # its name, which says if it was scaled down
    kind: Kind
    num_items: int  # how many were scored
    seconds: list[float]  # of each run
    peak_rss_mb: float  # of the process so far
    gflop: float  # useful work of a run
    # Of the library's own matrix products of the feed-forward network's sizes; None if it offers none.
    matmul_gflop_per_s: float | None
    weight_bytes: int  # of the layers and the head
    logprobs: list[Any]  # of the items


class MeasurementError(RuntimeError):
    """The process of a measurement failed; the message says why in one line."""


def measure_apart(task: Task) -> list[Measured]:
    """Measures in a new process.

    Raises:
        MeasurementError: it failed; the end of its stderr has been printed.
    """
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment(task.instructions)
    if task.clock == "cpu":
        env["OMP_WAIT_POLICY"] = "passive"  # a thread that spins while it waits does not work
    done = subprocess.run(
        [sys.executable, __file__, msgspec.json.encode(task).decode()],
        env=env,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        reason = _reason(done)
        print(
            f"{task.implementation} {task.dtype}: {reason}\n{done.stderr[-2000:]}", file=sys.stderr
        )
        raise MeasurementError(reason)
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=list[Measured])


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:  # what it said before has nothing to do with it
        return f"killed by signal {-done.returncode}"
    lines = done.stderr.strip().splitlines()
    return f"exit status {done.returncode}" + (f": {lines[-1][:200]}" if lines else "")


def measure(task: Task) -> list[Measured]:
    """Measures everything in the task, in its order."""
    workloads = task.workloads
    one = contestant(task.implementation, task.dtype, task.model)
    _choose_batch_size(one, workloads[-1], task)
    rate = _matmul_rate(one, task)
    results = []
    for whole, following in itertools.zip_longest(workloads, workloads[1:]):
        for kind in task.kinds:
            workload = _scaled(one, whole, kind, task)
            query, tokens = workload.tokens(one.config.vocab_size)
            items = one.as_vectors(tokens) if workload.vectors else [*tokens]
            run = functools.partial(one.score, query, items, kind)
            seconds, logprobs = _repeat(one, run, workload, task)
            results.append(
                Measured(
                    workload.name,
                    kind,
                    len(items),
                    seconds,
                    resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                    workload.gflop(one.config, kind, warm=task.implementation in WARM),
                    rate,
                    all_weights(one.config) * WEIGHT_BYTES[task.dtype],
                    logprobs.tolist(),
                )
            )
        each = min(results[-1].seconds) / results[-1].num_items
        if following and each * len(following.item_lens) > task.stop_after:
            break
    return results


def _repeat(
    one: Implementation, run: Callable[[], Any], workload: RandomRequest, task: Task
) -> tuple[list[float], Any]:
    """Returns the seconds of the runs that count, and the scores."""
    if workload.small:
        for _ in range(WARM_UP_REQUESTS):
            run()
        with one.compiles_nothing():
            runs = [timed(run, task.clock) for _ in range(task.requests)]
        return [seconds for seconds, _ in runs], runs[-1][1]
    first, logprobs = timed(run, task.clock)
    # It may have compiled, which does not count; item by item, `_scaled` has done that.
    warm = first > LONG_RUN and task.implementation not in COMPILED
    seconds = [first] if warm or task.implementation in ITEM_BY_ITEM else []
    with one.compiles_nothing():
        while not seconds or (sum(seconds) < task.seconds and len(seconds) < MOST_RUNS):
            again, logprobs = timed(run, task.clock)
            seconds.append(again)
    return seconds, logprobs


def _matmul_rate(one: Implementation, task: Task) -> float | None:
    """Returns the GFLOP/s of the library's matrix products, if it offers them."""
    hidden, intermediate = one.config.hidden_size, one.config.intermediate_size
    multiply = one.matmuls(MATMUL_ROWS, intermediate, hidden)
    if multiply is None:
        return None
    multiply()
    gflop = 2e-9 * MATMULS * MATMUL_ROWS * hidden * intermediate
    return gflop / min(timed(multiply, task.clock)[0] for _ in range(5))


def _choose_batch_size(one: Implementation, workload: RandomRequest, task: Task) -> None:
    """Sets the batch size that scores the first items of the workload fastest, in the better of two runs.

    Every size scores the same items, as many as fill the largest (256 at most, or all if there are fewer), because a
    run also computes the query: over fewer items a size would look slower than it is. Sizes take turns.
    """
    if not one.batch_sizes:
        return
    sizes = _batch_sizes(one, workload, task)
    query, items = workload.first(sizes[-1]).tokens(one.config.vocab_size)
    score = functools.partial(one.score, query, [*items], "labels")
    times: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(2 if len(sizes) > 1 else 0):
        for size in sizes:
            one.batch_size = size
            times[size].append(timed(score, task.clock)[0])
    one.batch_size = min(sizes, key=lambda size: min(times[size], default=0.0))


def _batch_sizes(one: Implementation, workload: RandomRequest, task: Task) -> list[int]:
    """Returns the peer's sizes that fit in memory, up to the first that takes all items at once; at least one."""
    sizes: list[int] = []
    for size in one.batch_sizes:
        tokens = size * (workload.query_len + workload.item_lens[0])
        too_long = task.implementation in ITEM_BY_ITEM and tokens > LONGEST_BATCH
        if sizes and (too_long or sizes[-1] >= len(workload.item_lens)):
            break
        sizes.append(size)
    return sizes


def _scaled(one: Implementation, workload: RandomRequest, kind: Kind, task: Task) -> RandomRequest:
    """Returns the workload, or its first items if all would take longer than the limit."""
    if task.implementation not in ITEM_BY_ITEM:
        return workload
    query, items = workload.first(8).tokens(one.config.vocab_size)
    score = functools.partial(one.score, query, [*items], kind)
    score()
    each = timed(score, task.clock)[0] / len(items)
    if each * len(workload.item_lens) <= task.limit:
        return workload
    return workload.first(max(8, int(SCALED_SECONDS / each)))


if __name__ == "__main__":
    task = msgspec.json.decode(sys.argv[1], type=Task)
    print(msgspec.json.encode(measure(task)).decode())
