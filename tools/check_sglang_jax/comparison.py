"""Compares the answers of an engine with our scoring (run_engine.py) with those of sglang-jax itself."""

import dataclasses
from typing import Any

import numpy as np

SCORES = ("tokens 0", "tokens 1", "text", "softmax", "item first")
TOLERANCE = 1e-4  # of natural logarithms of probabilities
CONTAMINATION = (
    1e-2  # what causal attention over the pack changes at least: the comparison can fail
)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The largest differences of log-probabilities, and what is wrong, a sentence each."""

    difference: float  # between one prefill of all items and sglang-jax's prompt an item
    generation: float  # in ordinary generation
    contamination: float  # that plain causal attention over the same tokens would make
    problems: tuple[str, ...]


def compare(own: dict[str, Any], ours: dict[str, Any]) -> Comparison:
    """Compares the answers of sglang-jax's engine with those of one where `install()` ran."""
    problems = []
    differences = []
    for name, reference in [*((name, name) for name in SCORES), ("alone", "tokens 0")]:
        difference = _largest(np.log(ours[name]), np.log(own[reference]))
        differences.append(difference)
        if not difference <= TOLERANCE:
            problems.append(f"scores of {name!r} differ by {difference:.3g} in log space")
    contaminated = np.log(own["contaminated"])
    contamination = _largest(contaminated, np.log(own["tokens 0"])[: len(contaminated)])
    if not contamination >= CONTAMINATION:
        problems.append(
            f"causal attention changes scores by {contamination:.3g} only: isolation was not tested"
        )
    if ours["prefills"] != 1:
        problems.append(f"{ours['prefills']} prefills for a list of items")
    generation = 0.0
    for name in ("generations", "generations again"):
        for expected, found in zip(own[name], ours[name], strict=True):
            if expected[0] != found[0]:
                problems.append(f"{name}: tokens {expected[0]} became {found[0]}")
            for before, after in zip(expected[1:], found[1:], strict=True):
                generation = max(generation, _largest(_numbers(before), _numbers(after)))
    if generation:
        problems.append(f"log-probabilities of ordinary generation differ by {generation:.3g}")
    if ours["generated"] != own["generations"][0][0]:
        problems.append(
            f"generation beside scoring: tokens {own['generations'][0][0]} became {ours['generated']}"
        )
    return Comparison(max(differences), generation, contamination, tuple(problems))


def _numbers(values: list[float | None]) -> np.ndarray:
    """The first token of a prompt has no log-probability."""
    return np.array([value for value in values if value is not None])


def _largest(first: np.ndarray, second: np.ndarray) -> float:
    if first.shape != second.shape:
        return float("inf")
    return float(np.abs(first - second).max(initial=0.0))
