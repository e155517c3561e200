"""Reads queries and items from files."""

import json
from pathlib import Path


def read_text(path: Path) -> str:
    """The file's text, without the newline at its end.

    Raises:
        ValueError: if it cannot be read or is no UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: byte {error.start}") from error
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error


def read_items(path: Path) -> list[str]:
    """Items, one a line; in a .jsonl file each line is a JSON string or an object with the key "item".

    Spaces at a line's ends belong to the item.

    Raises:
        ValueError: naming the file and the line.
    """
    lines = read_text(path).split("\n")
    if path.suffix == ".jsonl":
        items = [_json_item(path, number, line) for number, line in enumerate(lines, 1)]
    else:
        items = [line.removesuffix("\r") for line in lines]
    for number, item in enumerate(items, 1):
        if not item:
            raise ValueError(f"{path}:{number}: the item is empty")
    return items


def _json_item(path: Path, number: int, line: str) -> str:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}:{number}: not JSON: {error.msg} at column {error.colno}"
        ) from error
    item = value.get("item") if isinstance(value, dict) else value
    if not isinstance(item, str):
        raise ValueError(f'{path}:{number}: expected a string or an object with a string "item"')
    return item
