"""The cells that are scored, as Python values, from tables of Arrow or from lines of JSON."""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt64

from isoprefill.batch.columns import InputColumns


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """The scored columns of N rows.

    Attributes:
        queries: N values.
        items: N items, or N lists of items.
        labels: N labels or lists of labels; None: there is no such column.
        errors: N codes of rows that could not even be read; None: there are none.
    """

    queries: Sequence[Any]
    items: Sequence[Any]
    labels: Sequence[Any] | None = None
    errors: Sequence[str | None] | None = None

    @classmethod
    def of_table(cls, table: Any, columns: InputColumns) -> "Cells":
        """Reads them from a pyarrow.Table."""
        labels = None if columns.label is None else python_values(table[columns.label])
        return cls(
            python_values(table[columns.query]), python_values(table[columns.scored]), labels
        )

    @classmethod
    def of_records(
        cls, records: Sequence[tuple[dict[str, Any], str | None]], columns: InputColumns
    ) -> "Cells":
        """Takes them from parsed lines (`json_values.parse_line`)."""

        def column(name: str) -> list[Any]:
            return [values.get(name) for values, _ in records]

        return cls(
            column(columns.query),
            column(columns.scored),
            None if columns.label is None else column(columns.label),
            [error for _, error in records],
        )

    def query_keys(self) -> UInt64[np.ndarray, "N"]:
        return hashes(self.queries)

    def item_keys(self, deduplicate: bool, lists: bool) -> UInt64[np.ndarray, "N"]:
        """Returns what makes equal items meet, if they are to; otherwise zeros."""
        if not deduplicate or lists:
            return np.zeros(len(self.queries), np.uint64)
        return hashes(self.items)

    def item_counts(self, lists: bool) -> Int64[np.ndarray, "N"]:
        """Returns how many items each row holds, at least 1."""
        if not lists:
            return np.ones(len(self.queries), np.int64)
        return np.asarray(
            [max(1, len(one)) if isinstance(one, list) else 1 for one in self.items], np.int64
        )


def hashes(values: Sequence[Any]) -> UInt64[np.ndarray, "N"]:
    """Returns 64 bits of BLAKE2b of each value."""
    known: dict[str, int] = {}
    found = np.empty(len(values), np.uint64)
    for place, value in enumerate(values):
        text = value if type(value) is str else f"\0{value!r}"
        if (key := known.get(text)) is None:
            content = text.encode("utf-8", "surrogatepass")
            key = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")
            known[text] = key
        found[place] = key
    return found


def python_values(column: Any) -> list[Any]:
    """Returns a column of Arrow as Python values."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        # Half the time of to_pylist, and all of them are str or None.
        values: list[Any] = column.to_numpy().tolist()
        return values
    return list(column.to_pylist())


def arrow_type(kind: str) -> Any:
    """Returns the type of Arrow of a kind of `json_values`."""
    import pyarrow as pa

    from isoprefill.batch import json_values as kinds

    if kind.startswith(kinds.LIST):
        return pa.list_(arrow_type(kind.removeprefix(kinds.LIST)))
    makers: dict[str, Callable[[], Any]] = {
        kinds.BOOLEAN: pa.bool_,
        kinds.INTEGER: pa.int64,
        kinds.NUMBER: pa.float64,
    }
    return makers.get(kind, pa.string)()
