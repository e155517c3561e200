"""Rows that follow one another and have the same query, and their equal items."""

from collections.abc import Sequence
from typing import Any


def query_runs(queries: Sequence[Any]) -> list[tuple[int, int]]:
    """Returns the [begin, end) of each run of equal queries."""
    runs, begin = [], 0
    for place in range(1, len(queries) + 1):
        if place == len(queries) or not same(queries[place], queries[begin]):
            runs.append((begin, place))
            begin = place
    return runs


def same(one: Any, other: Any) -> bool:
    """Whether two cells hold the same: 1, 1.0 and True do not."""
    return type(one) is type(other) and bool(one == other)


def first_places(values: Sequence[Any]) -> list[int]:
    """Returns for each value the place of the first one that equals it."""
    seen: dict[Any, int] = {}
    return [seen.setdefault(_key(value), place) for place, value in enumerate(values)]


def _key(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(map(_key, value))
    return type(value), value
