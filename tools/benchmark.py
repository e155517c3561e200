"""Times calls in turns, and writes what a benchmark found."""

import json
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Name = TypeVar("Name")


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


def error_line(error: Exception) -> str:
    """Returns the first line of what an error says, or the name of its class."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def write_json(path: str | None, content: Any) -> None:
    """Writes the content to the file, if there is one."""
    if path:
        pathlib.Path(path).write_text(json.dumps(content, indent=1) + "\n")
