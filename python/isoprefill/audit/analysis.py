"""Shows stored results side by side: our reports, and files of the script test_pytorch_isolation.py."""

import json
from pathlib import Path
from typing import Any

from isoprefill.audit.markdown_report import table

MAX_FILE_BYTES = 64 << 20


class UnreadableResultError(ValueError):
    """A file holds no results."""


def read_result(path: Path) -> dict[str, Any]:
    """Reads a stored result.

    Raises:
        UnreadableResultError: the file cannot be read, or holds no result; names the file and what is missing.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UnreadableResultError(f"{path} is larger than {MAX_FILE_BYTES} bytes")
        result = json.loads(path.read_bytes())
    except OSError as error:
        raise UnreadableResultError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UnreadableResultError(f"{path} is not JSON: {error}") from error
    tests = result.get("tests") if isinstance(result, dict) else None
    if not isinstance(tests, list):
        raise UnreadableResultError(f'{path} has no list "tests"')
    if not all(isinstance(test, dict) and isinstance(test.get("name"), str) for test in tests):
        raise UnreadableResultError(f'{path} has a test without a "name"')
    return result


def side_by_side(paths: list[Path]) -> tuple[list[str], list[list[str]]]:
    """Returns the head and the rows of a table: a row for each test, then what the whole results say; a column a file.

    Raises:
        UnreadableResultError: a file holds no results.
    """
    results = [read_result(path) for path in paths]
    names = list(dict.fromkeys(test["name"] for result in results for test in result["tests"]))
    cells = [{test["name"]: _cell(test) for test in result["tests"]} for result in results]
    rows = [[name, *(column.get(name, "") for column in cells)] for name in names]
    rows += [
        ["server", *(str(result.get("server_url", "")) for result in results)],
        ["model", *(str(result.get("model", "")) for result in results)],
        ["conclusion", *map(_conclusion, results)],
    ]
    return ["test", *(path.stem for path in paths)], rows


def side_by_side_markdown(paths: list[Path]) -> str:
    """Returns that table as Markdown, its last row in bold.

    Raises:
        UnreadableResultError: a file holds no results.
    """
    head, rows = side_by_side(paths)
    rows[-1] = [f"**{cell}**" for cell in rows[-1]]
    return "\n".join(table(head, rows)) + "\n"


def _conclusion(result: dict[str, Any]) -> str:
    summary = result.get("summary")
    return str(summary.get("conclusion", "")) if isinstance(summary, dict) else ""


# Where the script puts the effect of each test.
_SCRIPT_EFFECTS = ("max_diff", "paris_diff", "score_variance")


def _cell(test: dict[str, Any]) -> str:
    words = {True: "isolated", False: "leak"}
    verdict = test.get("verdict") or words.get(test.get("has_isolation"), "failed")  # type: ignore[arg-type]
    details = test.get("details")
    numbers = details if isinstance(details, dict) else {}
    effects = [test.get("effect"), *(numbers.get(key) for key in _SCRIPT_EFFECTS)]
    effect = next((value for value in effects if isinstance(value, int | float)), None)
    return verdict if effect is None else f"{verdict} ({effect:.3g})"
