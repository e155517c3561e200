"""Reads a JSON object from a file that came with a model."""

import json
from pathlib import Path
from typing import Any


def read_json_object(path: Path) -> dict[str, Any]:
    """Reads the object in the file.

    Raises:
        ValueError: the file cannot be read, or holds something else; names it.
    """
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    except RecursionError:
        raise ValueError(f"{path} cannot be read: it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value
