"""How well each way to score ranks, on lists made from WordNet (`tools/wordnet.py`): `bazel run //tools:eval_ranking`.

A list has a query and 20 candidates of one kind, half of them close to the answer. Prints for each way, isolation and
dtype nDCG@10, the mean reciprocal rank and how often the first candidate is right, by `ir-measures`: over all tasks
with 95% intervals, and for each task. With --scores the scores are kept, and the same command goes on from them.
"""

import dataclasses
import sys
import time
from collections import defaultdict

import numpy as np
from absl import app, flags

import callers_directory
from benchmark import write_json
from eval_ranking.kept_scores import KeptScores, Scores
from eval_ranking.lists import TASKS, RankedList, lists
from eval_ranking.measures import MEASURES, measured, of_each
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
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the lists.")
_SCORES = flags.DEFINE_string("scores", None, "Keep the scores in this file, and go on from it.")
_SECONDS = flags.DEFINE_float("seconds", None, "Begin no list after so many seconds.")
_JSON = flags.DEFINE_string("json", None, "Write the measures to this file.")

ISOLATIONS = ("isolated", "causal")


def ranked(engine: ScoringEngine, one: RankedList) -> Scores:
    """Returns the candidates' scores by each way.

    Raises:
        RuntimeError: a score is not finite.
    """
    found: Scores = {}
    for isolation in ISOLATIONS:
        for way in WAYS:
            for name, scores in way(engine, one, isolation).items():
                if not np.isfinite(scores).all():
                    raise RuntimeError(f"{name} of {one.query!r} has a score that is not finite")
                found[name, isolation] = np.asarray(scores, float).tolist()
    return found


def score_lists(kept: KeptScores, chosen: dict[str, list[RankedList]]) -> None:
    """Scores the lists that are not yet, a list of each task at a time."""
    engines = {one: ScoringEngine.from_pretrained(_MODEL.value, dtype=one) for one in _DTYPE.value}
    began = time.monotonic()
    for number in range(_LISTS.value):
        if _SECONDS.value is not None and time.monotonic() - began > _SECONDS.value:
            return
        for task, of_task in chosen.items():
            for dtype, engine in engines.items():
                if (task, number, dtype) not in kept:
                    kept.add((task, number, dtype), ranked(engine, of_task[number]))
        if sys.stderr.isatty():
            print(f"\r{number + 1} of {_LISTS.value}", end="", file=sys.stderr)


def report(kept: KeptScores, chosen: dict[str, list[RankedList]]) -> None:
    """Prints and writes the measures."""
    rankings = defaultdict(lambda: defaultdict(list))
    for (task, number, dtype), scores in kept.complete(_DTYPE.value):
        if task in chosen and number < _LISTS.value:
            for (way, isolation), of in scores.items():
                one = of, chosen[task][number].right
                rankings[way, isolation, dtype][task].append(one)
    print(
        f"| scored by | attention | dtype | lists | {' | '.join(MEASURES)} | {' | '.join(chosen)} |"
    )
    print("|---" * (4 + len(MEASURES) + len(chosen)) + "|")
    rows = []
    for (way, isolation, dtype), by_task in rankings.items():
        each = {task: of_each(by_task[task]) for task in chosen if by_task[task]}
        whole = measured(each.values())
        tasks = {task: measured([of]) for task, of in each.items()}
        row = {"way": way, "isolation": isolation, "dtype": dtype}
        rows.append(
            row
            | dataclasses.asdict(whole)
            | {"tasks": {task: dataclasses.asdict(one) for task, one in tasks.items()}}
        )
        cells = [
            f"{whole.means[name]:.2f} ({low:.2f} to {high:.2f})"
            for name, (low, high) in whole.intervals.items()
        ]
        cells += [
            ", ".join(f"{value:.2f}" for value in one.means.values()) for one in tasks.values()
        ]
        print(f"| {way} | {isolation} | {dtype} | {whole.lists} | {' | '.join(cells)} |")
    if _JSON.value:
        write_json(_JSON.value, rows)


def main(argv: list[str]) -> None:
    """Ranks and measures."""
    callers_directory.enter(argv)
    try:
        chosen = {task: list(lists(task, _LISTS.value, _SEED.value)) for task in _TASK.value}
        kept = KeptScores(_SCORES.value, {"model": _MODEL.value, "seed": _SEED.value})
        score_lists(kept, chosen)
    except (ValueError, FetchError) as error:
        raise app.UsageError(str(error)) from error
    report(kept, chosen)


if __name__ == "__main__":
    app.run(main)
