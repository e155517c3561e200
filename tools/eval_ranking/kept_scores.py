"""Scores of lists in a file, a line each, so that an evaluation goes on where it ended."""

import json
import pathlib
from collections.abc import Iterator
from typing import Any

# A list of a task, by its number, with a type of the weights.
Key = tuple[str, int, str]
# For each way and isolation a score for each candidate.
Scores = dict[tuple[str, str], list[float]]


class KeptScores:
    """The scores that were found so far, in memory and, if there is a file, in it."""

    def __init__(self, path: str | None, about: dict[str, Any]) -> None:
        """Reads what the file has.

        Args:
            path: of the file; None: nothing is kept.
            about: what the scores depend on.

        Raises:
            ValueError: the file's scores depend on something else.
        """
        self._path = None if path is None else pathlib.Path(path)
        self._found: dict[Key, Scores] = {}
        if self._path is None:
            return
        if not self._path.exists():
            self._append(about)
            return
        first, *lines = self._path.read_text().splitlines()
        if json.loads(first) != about:
            raise ValueError(f"{path} has scores of {first}, not of {json.dumps(about)}")
        for line in lines:
            task, number, dtype, rows = json.loads(line)
            self._found[task, number, dtype] = {(way, how): scores for way, how, scores in rows}

    def __contains__(self, key: Key) -> bool:
        return key in self._found

    def add(self, key: Key, scores: Scores) -> None:
        """Keeps the scores of a list."""
        self._found[key] = scores
        self._append([*key, [[way, how, of] for (way, how), of in scores.items()]])

    def complete(self, dtypes: list[str]) -> Iterator[tuple[Key, Scores]]:
        """Gives the scores of the lists that were scored with all these types."""
        for (task, number, dtype), scores in self._found.items():
            if dtype in dtypes and all((task, number, one) in self._found for one in dtypes):
                yield (task, number, dtype), scores

    def _append(self, value: Any) -> None:
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps(value) + "\n")
