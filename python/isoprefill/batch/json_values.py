"""Rows of JSON Lines: their values, and the kinds of these, of which columns with one type each are made."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

# A kind is the name of a column's type: one of these, or "list of" one of these. OTHER is for whatever does not go
# together, which stands in the column as JSON text.
NULL, BOOLEAN, INTEGER, NUMBER, STRING, OTHER = (
    "null",
    "boolean",
    "integer",
    "number",
    "string",
    "json",
)
LIST = "list of "
_INT64 = range(-(1 << 63), 1 << 63)
MOST_COLUMNS = 1_000

Kinds = dict[str, str]


def parse_line(line: bytes) -> tuple[dict[str, Any], str | None]:
    """Returns the values of a line by name, and the code of what is wrong with it, if it is not a JSON object."""
    try:
        value = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}, "invalid_json"
    if not isinstance(value, dict):
        return {}, "invalid_body_type"
    return value, None


def kind_of(value: Any) -> str:
    """Returns the kind of a value."""
    if value is None:
        return NULL
    if isinstance(value, bool):
        return BOOLEAN
    if isinstance(value, int):
        return INTEGER if value in _INT64 else OTHER
    if isinstance(value, float):
        return NUMBER
    if isinstance(value, str):
        return STRING
    if not isinstance(value, list):
        return OTHER
    kind = NULL
    for one in value:
        kind = common_kind(kind, kind_of(one))
        if kind == OTHER:
            return OTHER
    return LIST + kind


def common_kind(one: str, other: str) -> str:
    """Returns the kind of a column that holds values of both kinds."""
    if one == other or other == NULL:
        return one
    if one == NULL:
        return other
    if {one, other} == {INTEGER, NUMBER}:
        return NUMBER
    if one.startswith(LIST) and other.startswith(LIST):
        inner = common_kind(one.removeprefix(LIST), other.removeprefix(LIST))
        return OTHER if inner == OTHER else LIST + inner
    return OTHER


def joined_kinds(all_kinds: Iterable[Mapping[str, str]]) -> Kinds:
    """Returns the kinds of the columns that rows of all of these have together, in the order in which they come.

    Raises:
        ValueError: there are more than MOST_COLUMNS.
    """
    found: Kinds = {}
    for kinds in all_kinds:
        for name, kind in kinds.items():
            found[name] = common_kind(found.get(name, NULL), kind)
        if len(found) > MOST_COLUMNS:
            raise ValueError(f"the rows have more than {MOST_COLUMNS} columns together")
    return found


def as_kind(value: Any, kind: str) -> Any:
    """Returns a value as a column of this kind holds it."""
    if value is None or kind == STRING:
        return value
    if kind == OTHER:
        return value if isinstance(value, str) else msgspec.json.encode(value).decode()
    if kind == NUMBER:
        return float(value)
    if kind.startswith(LIST):
        return [as_kind(one, kind.removeprefix(LIST)) for one in value]
    return value
