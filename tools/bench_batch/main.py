"""What `isoprefill batch` costs beside its engine: `bazel run //tools:bench_batch`.

One replica of a job on Ray and the engine by itself score the same rows, in processes of their own, one after the
other: 1,000,000 items under 10,000 queries on a model of two layers, and 20,000 under 200 on SmolLM2. Rows a second
count the time in which the replica has a block: reading, tokenising, scoring, writing. CPU seconds are told too, as
a wall clock also measures what else the machine does. The engine by itself has its rows in memory, sorted by query, and
writes nothing; it gets as many rows at once as a block of the job has.
"""

import dataclasses
import itertools
import json
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

from absl import app, flags
from lake import write_lake
from processes import Watch, seconds
from tiny_model import save_tiny_model

import callers_directory
from benchmark import write_json

_ROWS = flags.DEFINE_integer("rows", 1_000_000, "Rows of the tiny model.", lower_bound=1)
_QUERIES = flags.DEFINE_integer("queries", 10_000, "Queries of the tiny model.", lower_bound=1)
_LARGE_ROWS = flags.DEFINE_integer(
    "large-rows", 20_000, "Rows of SmolLM2; 0 leaves it out.", lower_bound=0
)
_LARGE_QUERIES = flags.DEFINE_integer("large-queries", 200, "Queries of SmolLM2.", lower_bound=1)
_THREADS = flags.DEFINE_integer("threads", 1, "Threads that compute, of either.", lower_bound=1)
_QUICK = flags.DEFINE_bool("quick", False, "A twentieth of the rows and queries.")
_JSON = flags.DEFINE_string("json", None, "Write all numbers to this file.")
_ENGINE = flags.DEFINE_string(
    "engine-alone", None, "What a process of the benchmark itself is told to do."
)


@dataclasses.dataclass(frozen=True)
class Workload:
    """Rows and a model."""

    name: str
    model: str
    rows: int
    queries: int
    item_words: int


def main(argv: list[str]) -> None:
    callers_directory.enter(argv)
    if _ENGINE.value:
        print(json.dumps(engine_alone(json.loads(_ENGINE.value))))
        return
    scale = 20 if _QUICK.value else 1
    results = []
    with tempfile.TemporaryDirectory() as directory:
        root = pathlib.Path(directory)
        tiny = str(save_tiny_model(root / "tiny"))
        workloads = [Workload("tiny", tiny, _ROWS.value // scale, _QUERIES.value // scale, 3)]
        if _LARGE_ROWS.value:
            rows, queries = _LARGE_ROWS.value // scale, _LARGE_QUERIES.value // scale
            workloads.append(Workload("SmolLM2", "smollm2-135m", rows, queries, 10))
        for workload in workloads:
            lake = write_lake(
                root / f"{workload.name} lake",
                workload.rows,
                max(1, workload.queries),
                workload.item_words,
            )
            results.append(measured(workload, lake, root / f"{workload.name} scores"))
            print("\n".join(lines(results[-1])), flush=True)
    write_json(_JSON.value, results)


def measured(workload: Workload, lake: pathlib.Path, output: pathlib.Path) -> dict[str, Any]:
    """Runs the job between two runs of the engine by itself."""
    alone = [_alone(workload, lake)]
    watch = Watch()
    began, _ = seconds()
    summary = _job(workload, lake, output)
    took = seconds()[0] - began
    watch.stop()
    alone.append(_alone(workload, lake))
    sizes = watch.actor_bytes
    quarter = max(1, len(sizes) // 4)
    return {
        "workload": dataclasses.asdict(workload),
        "engine_alone": alone,
        "job": summary,
        "job_wall_s": took,
        "actor_bytes_by_quarter": [
            max(sizes[i : i + quarter]) for i in range(0, len(sizes), quarter)
        ],
        "ray_cpu_s": watch.ray_cpu_s,
        "ray_bytes": watch.other_bytes,
    }


def lines(result: dict[str, Any]) -> list[str]:
    """Words a result for people."""
    job, workload = result["job"], result["workload"]
    rows = workload["rows"]
    alone_wall = min(one["wall_s"] for one in result["engine_alone"])
    alone_cpu = min(one["cpu_s"] for one in result["engine_alone"])
    sizes = ", ".join(f"{size / 2**20:,.0f}" for size in result["actor_bytes_by_quarter"])
    return [
        f"{workload['name']}: {rows:,} rows under {workload['queries']:,} queries, {_THREADS.value} threads",
        f"  engine by itself   {rows / alone_wall:10,.0f} rows/s  {rows / alone_cpu:10,.0f} rows/CPU s",
        f"  one replica        {rows / job['seconds']:10,.0f} rows/s  {rows / job['cpu_seconds']:10,.0f} rows/CPU s",
        f"  ratio              {alone_wall / job['seconds']:10.1%}         {alone_cpu / job['cpu_seconds']:10.1%}",
        f"  whole job {result['job_wall_s']:.1f} s: shuffle {job['seconds_shuffling']:.1f} s, replicas "
        f"{job['seconds_now']:.1f} s, {job['blocks']} blocks",
        f"  query tokens computed {job['query_share']:.2%}",
        f"  resident MiB of the replica, quarter by quarter: {sizes}",
        f"  Ray, shuffle and driver: {result['ray_cpu_s']:.1f} CPU s, {result['ray_bytes'] / 2**20:,.0f} MiB",
    ]


def _job(workload: Workload, lake: pathlib.Path, output: pathlib.Path) -> dict[str, Any]:
    """Runs the command in a process of its own; returns its summary."""
    flags_of_job = [
        f"--input={lake}",
        f"--output={output}",
        f"--model={workload.model}",
        f"--threads={_THREADS.value}",
        "--log-format=json",
    ]
    program = [sys.executable, "-m", "isoprefill", "batch", *flags_of_job]
    done = subprocess.run(program, check=True, text=True, stdout=subprocess.PIPE)
    return dict(json.loads(done.stdout))


def _alone(workload: Workload, lake: pathlib.Path) -> dict[str, float]:
    task = {"model": workload.model, "lake": str(lake), "threads": _THREADS.value}
    program = [sys.executable, __file__, "--verbosity=-1", f"--engine-alone={json.dumps(task)}"]
    done = subprocess.run(program, check=True, text=True, stdout=subprocess.PIPE)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def engine_alone(task: dict[str, Any]) -> dict[str, float]:
    """Scores all rows with one engine, without Ray and without files."""
    import pyarrow.parquet as pq

    from isoprefill import ScoringEngine
    from isoprefill.batch.block_plan import automatic_block_items

    table = pq.read_table(task["lake"]).sort_by("query")
    queries = table["query"].to_numpy().tolist()
    items = table["item"].to_numpy().tolist()
    begins = [0, *(i for i in range(1, len(queries)) if queries[i] != queries[i - 1]), len(queries)]
    engine = ScoringEngine.from_pretrained(task["model"], threads=task["threads"])
    at_once: list[Any] = []
    held = 0
    most = automatic_block_items(len(queries), 1)
    wall, cpu = seconds()
    for begin, end in itertools.pairwise(begins):
        at_once.append(engine.preparer.request(queries[begin], items[begin:end]))
        held += end - begin
        if held >= most or end == len(queries):
            engine.score_batch(at_once)
            at_once, held = [], 0
    ended_wall, ended_cpu = seconds()
    return {"wall_s": ended_wall - wall, "cpu_s": ended_cpu - cpu}


if __name__ == "__main__":
    app.run(main)
