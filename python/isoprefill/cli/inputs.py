"""Reads queries, items and API keys from files."""

import json
from pathlib import Path


def read_text(path: Path) -> str:
    """Returns a file's text, without a byte order mark and without one newline at its end.

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
    """Returns items, one per line; a line of a .jsonl file is a JSON string or an object with the key "item".

    Spaces at the ends of a line belong to the item.

    Raises:
        ValueError: naming the file and the line.
    """
    text = read_text(path)
    if not text:
        raise ValueError(f"{path} contains no items")
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


def read_api_key(path: Path) -> str:
    """Returns the key in a file, without white space around it.

    Raises:
        ValueError: the file cannot be read, or holds nothing else.
    """
    try:
        key = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read the API key from {path}: {error}") from error
    if not key:
        raise ValueError(f"the API key is empty: {path} contains only white space")
    return key
