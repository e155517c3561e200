"""How well each way to score ranks, on lists made from WordNet (`tools/wordnet.py`): `bazel run //tools:eval_ranking`.

A list has a query and 20 candidates of one kind, half of them close to the answer. Prints for each task, way, isolation
and dtype nDCG@10, the mean reciprocal rank and how often the first candidate is right, by `ir-measures`.
"""

import sys
from collections import defaultdict

import ir_measures
import numpy as np
from absl import app, flags
from ir_measures import RR, Success, nDCG

import callers_directory
from benchmark import write_json
from eval_ranking.lists import TASKS, RankedList, lists
from eval_ranking.ways import WAYS
from isoprefill import ScoringEngine
from isoprefill.models.sources.pinned import FetchError

_MODEL = flags.DEFINE_string(
    "model", "smollm2-135m", "A pinned model's name, a .gguf file, or a directory with safetensors."
)
_LISTS = flags.DEFINE_integer("lists", 300, "Lists of each task.", lower_bound=1)
_TASK = flags.DEFINE_multi_enum("task", list(TASKS), list(TASKS), "Tasks; may be repeated.")
_DTYPE = flags.DEFINE_multi_enum(
    "dtype", ["float32", "bfloat16"], ["float32", "bfloat16"], "Types of the weights."
)
_ISOLATION = flags.DEFINE_multi_enum(
    "isolation", ["isolated", "causal"], ["isolated", "causal"], "Whether candidates see others."
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the lists.")
_JSON = flags.DEFINE_string("json", None, "Write the measures to this file.")

MEASURES = {"nDCG@10": nDCG @ 10, "MRR": RR, "top-1": Success @ 1}
Key = tuple[str, str, str, str]  # task, way, isolation, dtype
Run = dict[str, dict[str, float]]  # for each query a score for each document


def ranked(engine: ScoringEngine, one: RankedList, isolation: str) -> dict[str, np.ndarray]:
    """Returns the candidates' scores by each way.

    Raises:
        RuntimeError: a score is not finite.
    """
    found: dict[str, np.ndarray] = {}
    for way in WAYS:
        found |= way(engine, one, isolation)
    for name, scores in found.items():
        if not np.isfinite(scores).all():
            raise RuntimeError(f"{name} of {one.query!r} has a score that is not finite")
    return found


def measured(runs: dict[Key, Run], qrels: Run) -> list[dict[str, object]]:
    """Returns a row for each task, way, isolation and dtype."""
    rows = []
    for (task, way, isolation, dtype), run in runs.items():
        own = {query: qrels[query] for query in run}
        found = ir_measures.calc_aggregate(list(MEASURES.values()), own, run)
        values = {name: found[measure] for name, measure in MEASURES.items()}
        rows.append(
            {"task": task, "way": way, "isolation": isolation, "dtype": dtype, "lists": len(run)}
            | values
        )
    return rows


def main(argv: list[str]) -> None:
    """Ranks and measures."""
    callers_directory.enter(argv)
    runs: dict[Key, Run] = defaultdict(dict)
    qrels: Run = {}
    for dtype in _DTYPE.value:
        try:
            engine = ScoringEngine.from_pretrained(_MODEL.value, dtype=dtype)
            chosen = [one for task in _TASK.value for one in lists(task, _LISTS.value, _SEED.value)]
        except (ValueError, FetchError) as error:
            raise app.UsageError(str(error)) from error
        for number, one in enumerate(chosen):
            query = f"{one.task} {number}"
            qrels[query] = {str(place): int(right) for place, right in enumerate(one.right)}
            for isolation in _ISOLATION.value:
                for way, scores in ranked(engine, one, isolation).items():
                    documents = {str(place): float(score) for place, score in enumerate(scores)}
                    runs[one.task, way, isolation, dtype][query] = documents
            if sys.stderr.isatty():
                print(f"\r{dtype}: {number + 1} of {len(chosen)}", end="", file=sys.stderr)
    rows = measured(runs, qrels)
    print(f"| task | scored by | attention | dtype | lists | {' | '.join(MEASURES)} |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        values = " | ".join(f"{row[name]:.3f}" for name in MEASURES)
        print(
            f"| {row['task']} | {row['way']} | {row['isolation']} | {row['dtype']} | {row['lists']} | {values} |"
        )
    if _JSON.value:
        write_json(_JSON.value, rows)


if __name__ == "__main__":
    app.run(main)
