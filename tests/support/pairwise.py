"""Chooses from a matrix of test cases: a cover of all pairs, or everything in the full run."""

import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any

FULL = "ISOPREFILL_FULL_MATRIX"  # set by the targets of //tests:full_matrix


def cases(axes: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Cases in which every pair of values of two axes occurs; all combinations in the full run."""
    everything = [
        dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())
    ]
    return everything if FULL in os.environ else cover(everything)


def cover(everything: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Greedily takes the case with the most pairs that no case before it had; always the same choice."""

    def pairs(case: dict[str, Any]) -> set[tuple[str, str]]:
        values = [f"{axis}={value!r}" for axis, value in case.items()]
        return set(itertools.combinations(values, 2))

    missing = set().union(*map(pairs, everything))
    chosen = []
    while missing:
        best = max(everything, key=lambda case: len(pairs(case) & missing))
        chosen.append(best)
        missing -= pairs(best)
    return chosen
