"""The formats of the score command's output that programs read: TSV, CSV, JSON Lines and JSON."""

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

from isoprefill.cli.item_files import Item
from isoprefill.cli.score_rows import Row, input_name

Format = Literal["table", "tsv", "csv", "jsonl", "json"]
FORMATS: tuple[Format, ...] = get_args(Format)
MOST_COLUMNS = 100
_CSV_END = "\r\n"
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


class Columns:
    """The columns of TSV and CSV: what a row has, then what the items' JSON objects hold."""

    def __init__(self, items: Sequence[Item], score_names: Sequence[str], ranked: bool) -> None:
        """Takes what will be printed; `score_names` is empty for likelihoods.

        Raises:
            ValueError: there are too many columns.
        """
        scores = [*score_names] or ["score", "mean", "probability"]
        self._ours = [*(["rank"] if ranked else []), "index", "item", *scores, "num_tokens"]
        self._fields = list(dict.fromkeys(name for item in items for name in item.fields))
        if len(self.names) > MOST_COLUMNS:
            raise ValueError(
                f"a table may have at most {MOST_COLUMNS} columns, but the items have {len(self._fields)} further "
                "fields: use --format jsonl"
            )

    @property
    def names(self) -> list[str]:
        return [*self._ours, *map(input_name, self._fields)]

    def values(self, row: Row) -> list[str]:
        rank = [] if row.rank is None else [str(row.rank)]
        scores = [*row.scores] if row.mean is None else [row.scores[0], row.mean, row.probability]
        numbers = [f"{score:.9g}" for score in scores]
        fields = [field_text(row.item.fields.get(name)) for name in self._fields]
        index, tokens = str(row.item.index), str(row.num_tokens)
        return [*rank, index, row.item.text, *numbers, tokens, *fields]


def tsv_lines(rows: Iterable[Row], columns: Columns, header: bool) -> Iterator[str]:
    r"""Yields lines of values between tabs; a tab, line end or backslash inside a value becomes \t, \n, \r or \\."""
    if header:
        yield "\t".join(name.translate(_ESCAPES) for name in columns.names)
    for row in rows:
        yield "\t".join(value.translate(_ESCAPES) for value in columns.values(row))


def csv_lines(rows: Iterable[Row], columns: Columns, header: bool) -> Iterator[str]:
    """Yields the records of RFC 4180."""
    lines: list[str] = []
    # It quotes line ends only if they end its lines.
    writer = csv.writer(_Appender(lines.append), lineterminator=_CSV_END)
    if header:
        writer.writerow(columns.names)
    for row in rows:
        writer.writerow(columns.values(row))
        yield from lines
        lines.clear()
    yield from lines


def json_lines(rows: Iterable[Row], names: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yields a JSON object for each row; `names` as in `Row.record`."""
    for row in rows:
        yield json.dumps(row.record(names))


def write_lines(lines: Iterable[str]) -> None:
    """Writes lines to standard output, many at a time, and flushes it."""
    block: list[str] = []
    for line in lines:
        block.append(line)
        if len(block) == 1024:
            sys.stdout.write("\n".join(block) + "\n")
            block.clear()
    if block:
        sys.stdout.write("\n".join(block) + "\n")
    sys.stdout.flush()


class _Appender:
    """A file for `csv.writer`, which writes a record at a time."""

    def __init__(self, append: Callable[[str], Any]) -> None:
        self._append = append

    def write(self, record: str) -> None:
        self._append(record.removesuffix(_CSV_END))


def field_text(value: Any) -> str:
    """Returns what a table shows of a JSON value."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)
