"""What the benchmarks share: calls that are timed in turns, tables that are printed row by row, and rows as JSON."""

import json
import pathlib
import re
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

Row = Mapping[str, Any]
Name = TypeVar("Name", bound=Hashable)


def alternating_seconds(
    calls: Mapping[Name, Callable[[], Any]], repeats: int, shortest: float = 0.0
) -> dict[Name, list[float]]:
    """Times calls in rounds, in each of which every call has its turn; a first round only warms up.

    Args:
        calls: what to time, by name; a call returns when its result is there.
        repeats: rounds.
        shortest: seconds; a call that takes less is repeated within its turn.

    Returns:
        The seconds of each call, one for each round.
    """
    numbers = {
        name: max(1, int(shortest / max(_seconds(call, 1), 1e-9))) for name, call in calls.items()
    }
    timings: dict[Name, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            timings[name].append(_seconds(call, numbers[name]))
    return timings


def _seconds(call: Callable[[], Any], number: int) -> float:
    begin = time.perf_counter()
    for _ in range(number):
        call()
    return (time.perf_counter() - begin) / number


class Table:
    """Prints rows one by one.

    Text is aligned to the left. A row with an "error" shows its text and the error.
    """

    def __init__(self, *columns: tuple[str, str, str | Callable[[Row], Any]]) -> None:
        """Takes for each column its title, its format, such as ">8.1f", and its key or how to compute it of a row."""
        self._columns = columns

    def print_titles(self) -> None:
        print(*(format(title, _width(spec)) for title, spec, _ in self._columns), flush=True)

    def print(self, row: Row) -> None:
        """Prints a row; None is an empty cell."""
        columns: Sequence[Any] = self._columns
        if row.get("error"):
            columns = [column for column in columns if column[1][0] == "<"]
        cells = []
        for _, spec, value in columns:
            cell = row[value] if isinstance(value, str) else value(row)
            cells.append(format("", _width(spec)) if cell is None else format(cell, spec))
        if row.get("error"):
            cells.append(row["error"])
        print(*cells, flush=True)


def _width(spec: str) -> str:
    """The alignment and the width of a format."""
    found = re.match(r"[<>]\d+", spec)
    assert found, f"{spec!r} has no alignment and width"
    return found[0]


def write_json(path: str | None, content: Any) -> None:
    """Writes the content to the file, if there is one."""
    if path:
        pathlib.Path(path).write_text(json.dumps(content, indent=1) + "\n")
