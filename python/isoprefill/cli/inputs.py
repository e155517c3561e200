"""Reads queries and items from files."""

import json
from pathlib import Path


def read_text(path: Path) -> str:
    """The file's text, without a byte order mark and without one newline at its end.

    Raises:
        ValueError: if it cannot be read or is no UTF-8.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: byte {error.start}") from error
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    return text.removesuffix("\n").removesuffix("\r")


def read_items(path: Path) -> list[str]:
    """Items, one a line; in a .jsonl file each line is a JSON string or an object with the key "item".

    Spaces at a line's ends belong to the item.

    Raises:
        ValueError: naming the file and the line.
    """
    text = read_text(path)
    if not text:
        raise ValueError(f"{path} holds no items")
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    items = []
    for number, line in enumerate(lines, 1):
        item = _json_item(path, number, line) if path.suffix == ".jsonl" else line
        if not item:
            raise ValueError(f"{path}:{number}: the item is empty")
        items.append(item)
    return items


def _json_item(path: Path, number: int, line: str) -> str:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}:{number}: not JSON: {error.msg} at column {error.colno}"
        ) from error
    except RecursionError:
        raise ValueError(f"{path}:{number}: not JSON: nested too deeply") from None
    item = value.get("item") if isinstance(value, dict) else value
    if not isinstance(item, str):
        raise ValueError(f'{path}:{number}: expected a string or an object with a string "item"')
    return item
