"""isoprefill beside the `hf` model of lm-evaluation-harness, on the same weights: `bazel run //tools:bench_lm_eval`.

The task is made from WordNet (`tools/wordnet.py`): ten examples, then a definition and four words. Every run is a
process of its own, in rounds of alternating order. Prints for each the wall time and the processors' time of the
evaluation a question (tokenisation included; loading and compiling not), the ratio, and how far the answers differ.
"""

import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np
from absl import app, flags

import callers_directory
from bench_lm_eval.tasks import write_task
from benchmark import write_json
from isoprefill.models.sources.pinned import FetchError, locate

_QUESTIONS = flags.DEFINE_integer("questions", 1000, "Questions of the task.", lower_bound=1)
_HF_QUESTIONS = flags.DEFINE_integer(
    "hf-questions", None, "How many of them hf gets, as it is slow; all by default.", lower_bound=1
)
_ROUNDS = flags.DEFINE_integer("rounds", 1, "Runs of each model.", lower_bound=1)
_BATCH_SIZE = flags.DEFINE_multi_integer(
    "hf-batch-size", [1, 4], "Batch size of hf; the best of several counts.", lower_bound=1
)
_JSON = flags.DEFINE_string("json", None, "Write the results to this file.")

MODEL = "smollm2-135m"
WORKER = pathlib.Path(__file__).with_name("worker.py")


def run(
    model: str, arguments: dict[str, Any], folder: pathlib.Path, questions: int
) -> dict[str, Any]:
    """Returns what a worker printed."""
    command = [sys.executable, str(WORKER), model, json.dumps(arguments), str(folder)]
    done = subprocess.run(
        [*command, str(questions)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise app.UsageError(f"{model} failed:\n{done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def questions_of(model: str) -> int:
    """Returns how many questions a model gets."""
    fewer = _HF_QUESTIONS.value if model == "hf" else None
    return _QUESTIONS.value if fewer is None else min(fewer, _QUESTIONS.value)


def contestants() -> dict[str, tuple[str, dict[str, Any]]]:
    """Returns the models by name, with their arguments."""
    file = locate(MODEL)
    weights = {"pretrained": str(file.parent), "gguf_file": file.name, "dtype": "float32"}
    return {"isoprefill": ("isoprefill", {"pretrained": MODEL})} | {
        f"hf, batch size {size}": ("hf", {**weights, "batch_size": size, "device": "cpu"})
        for size in _BATCH_SIZE.value
    }


def report(runs: dict[str, list[dict[str, Any]]]) -> None:
    """Prints a row for each contestant; answers are compared where both gave some."""
    ours = runs["isoprefill"][0]["answers"]
    print(
        "| model | questions | wall, s | wall a question, s | processors a question, s | times ours, wall "
        "| accuracy | ours on the same | largest difference | is_greedy differs |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    fastest: float | None = None
    for name, those in runs.items():
        answers, right = those[0]["answers"], those[0]["right"]
        number = len(answers)
        wall = statistics.median(one["wall_s"] for one in those)
        cpu = statistics.median(one["cpu_s"] for one in those)
        fastest = wall / number if fastest is None else fastest
        most, greedy = differences(ours[:number], answers)
        same = accuracy(ours[:number], right)
        print(
            f"| {name} | {number} | {wall:.1f} | {wall / number:.3f} | {cpu / number:.3f} "
            f"| {wall / number / fastest:.1f} | {accuracy(answers, right):.3f} | {same:.3f} | {most:.1e} | {greedy} |"
        )


def accuracy(answers: list[Any], right: list[int]) -> float:
    """Returns the share of questions whose likeliest choice is the right one, as the harness's `acc`."""
    likeliest = np.asarray(answers, float)[..., 0].argmax(axis=1)
    return float((likeliest == np.asarray(right)).mean())


def differences(first: list[Any], second: list[Any]) -> tuple[float, int]:
    """Returns the largest difference of log-likelihoods, and how often is_greedy differs."""
    one, other = np.asarray(first, float), np.asarray(second, float)
    return float(np.abs(one - other)[..., 0].max()), int((one != other)[..., 1].sum())


def main(argv: list[str]) -> None:
    """Runs all contestants."""
    callers_directory.enter(argv)
    runs: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            write_task(pathlib.Path(folder), _QUESTIONS.value)
            models = list(contestants().items())
        except FetchError as error:
            raise app.UsageError(str(error)) from error
        for number in range(_ROUNDS.value):
            for name, (model, arguments) in models[:: -1 if number % 2 else 1]:
                found = run(model, arguments, pathlib.Path(folder), questions_of(model))
                runs.setdefault(name, []).append(found)
                print(f"{name}: {runs[name][-1]['wall_s']:.1f} s", file=sys.stderr, flush=True)
    report(runs)
    if _JSON.value:
        write_json(_JSON.value, runs)


if __name__ == "__main__":
    app.run(main)
