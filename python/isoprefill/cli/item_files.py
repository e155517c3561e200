"""Items from lines of text, JSON Lines or a JSON list."""

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any, Literal

from isoprefill.cli.text_files import read_text, shown
from isoprefill.request.unique_keys import DuplicateKeyError, unique_object

MOST_KEYS = 10  # of an object that a message repeats
LONGEST_KEY = 64  # characters that a message repeats
MOST_DIGITS = 1000  # of an integer; Python refuses more than 4300

InputFormat = Literal["auto", "text", "jsonl", "json"]
_SUFFIXES: dict[str, InputFormat] = {
    ".txt": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """An item to score.

    Attributes:
        text: what is scored.
        index: its place among all items, refused ones included; from 0.
        place: what messages call it, such as "items.txt:3".
        fields: what else its JSON object holds.
    """

    text: str
    index: int
    place: str
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class RefusedItem:
    """An item that cannot be scored.

    Attributes:
        place: as of an `Item`.
        reason: why not.
    """

    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


def read_items(
    name: str, input_format: InputFormat = "auto", first_index: int = 0
) -> Iterator[Item | RefusedItem]:
    """Returns the items of a file.

    text: a line is an item, with the spaces at its ends. jsonl: a line is a JSON string, or an object with the key
    "item"; blank lines mean nothing. json: one list of such values. auto: what the name's ending says, else jsonl if
    the first line is a JSON object, else text.

    Args:
        name: the file's path; "-" is standard input.
        input_format: what is in the file.
        first_index: index of the first item.

    Raises:
        ValueError: the file cannot be read, or is no JSON list; names it.
    """
    text = read_text(name)
    if input_format == "auto":
        input_format = _format(name, text)
    if input_format == "json" and text.lstrip().startswith("{"):
        input_format = "jsonl"
    if input_format == "text":
        return _lines(text, shown(name), first_index)
    if input_format == "jsonl":
        return _json_lines(text, shown(name), first_index)
    return _json_list(text, shown(name), first_index)


def item_of(text: str, index: int, place: str) -> Item | RefusedItem:
    """Returns the item, which is refused if it is empty."""
    return _item(text, index, place, {})


def _format(name: str, text: str) -> InputFormat:
    by_name = _SUFFIXES.get(PurePath(name).suffix.lower())
    if by_name is not None:
        return by_name
    first = text.lstrip().partition("\n")[0]
    try:
        return "jsonl" if first.startswith("{") and isinstance(_parse(first), dict) else "text"
    except ValueError:
        return "text"


def _lines(text: str, name: str, index: int) -> Iterator[Item | RefusedItem]:
    # Empty lines at the end mean nothing; elsewhere one stands where an item should.
    for number, line in enumerate(text.rstrip("\n").split("\n") if text.strip("\n") else [], 1):
        yield item_of(line, index + number - 1, f"{name}:{number}")


def _json_lines(text: str, name: str, index: int) -> Iterator[Item | RefusedItem]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        place = f"{name}:{number}"
        try:
            yield _json_item(_parse(line), index, place)
        except ValueError as error:
            yield RefusedItem(place, str(error))
        index += 1


def _json_list(text: str, name: str, index: int) -> Iterator[Item | RefusedItem]:
    try:
        values = _parse(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if not isinstance(values, list):
        raise ValueError(f"{name}: expected a JSON list of items, got {type(values).__name__}")
    for number, value in enumerate(values):
        yield _json_item(value, index + number, f"{name}[{number}]")


def _json_item(value: Any, index: int, place: str) -> Item | RefusedItem:
    if isinstance(value, str):
        return item_of(value, index, place)
    if not isinstance(value, dict):
        reason = f'expected a string or an object with a string "item", got {_KINDS[type(value)]}'
        return RefusedItem(place, reason)
    fields = dict(value)
    if "item" not in fields:
        keys = ", ".join(map(repr, list(fields)[:MOST_KEYS])) or "(none)"
        more = ", …" if len(fields) > MOST_KEYS else ""
        return RefusedItem(place, f'an object must have the key "item", got the keys {keys}{more}')
    text = fields.pop("item")
    if not isinstance(text, str):
        return RefusedItem(place, f'"item" must be a string, got {_KINDS[type(text)]}')
    return _item(text, index, place, fields)


def _item(text: str, index: int, place: str, fields: dict[str, Any]) -> Item | RefusedItem:
    if not text:
        return RefusedItem(place, "the item is empty")
    return Item(text, index, place, fields)


_KINDS = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
}


def _parse(text: str) -> Any:
    """Returns what a JSON text holds; raises ValueError, which says why it is none."""
    try:
        return json.loads(
            text,
            object_pairs_hook=unique_object,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_no_number,
        )
    except json.JSONDecodeError as error:
        at = f"line {error.lineno} column" if "\n" in text else "column"
        raise ValueError(f"not JSON: {error.msg} at {at} {error.colno}") from None
    except RecursionError:
        raise ValueError("not JSON: nested too deeply") from None
    except DuplicateKeyError as error:
        reason = f"the key {error.key[:LONGEST_KEY]!r} occurs twice"
        raise ValueError(f"not usable JSON: {reason}") from None
    except _UnusableError as error:
        raise ValueError(f"not usable JSON: {error}") from None


class _UnusableError(Exception):
    """JSON, but not what every reader of it takes."""


def _integer(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise _UnusableError(f"a number has {len(digits)} characters, and may have {MOST_DIGITS}")
    return int(digits)


def _number(digits: str) -> float:
    if math.isinf(value := float(digits)):
        raise _UnusableError(f"the number {digits[:LONGEST_KEY]} is beyond the range of a double")
    return value


def _no_number(name: str) -> Any:
    raise _UnusableError(f"{name} is not a JSON number")
