"""The text of `--help`: what a command does, its flags under headings, and its exit statuses."""

import shutil
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from isoprefill.cli.command_flags import CommandFlags, ListedFlag

NARROWEST, WIDEST = 40, 100  # columns; longer lines are hard to read
UNKNOWN_WIDTH = 80  # where there is no terminal
_INDENT = 24  # columns before what a flag means
_LAST = "--verbosity=0 logs what is done and why; --verbosity=1 also shows where in the code an error came from."


def help_text(documentation: str, command: CommandFlags, width: int | None = None) -> str:
    """Returns the help of a command.

    Args:
        documentation: docstring of its module: paragraphs of text, and indented lines to keep as they are. The last
            paragraph, the exit statuses, follows the flags.
        command: its flags.
        width: columns of a line. None: those of the terminal.
    """
    columns = shutil.get_terminal_size((UNKNOWN_WIDTH, 0)).columns if width is None else width
    columns = min(max(columns, NARROWEST), WIDEST)
    *first, last = documentation.strip("\n").split("\n\n")
    paragraphs = [_filled(paragraph, columns) for paragraph in first]
    for heading in dict.fromkeys(flag.heading for flag in command.listed):
        flags = (flag for flag in command.listed if flag.heading == heading)
        lines = [line for flag in flags for line in _lines(flag, columns)]
        paragraphs.append("\n".join([f"{heading or 'Flags'}:", *lines]))
    paragraphs += [_filled(last, columns), _filled(_LAST, columns)]
    return "\n\n".join(paragraphs) + "\n"


def _filled(paragraph: str, columns: int) -> str:
    if paragraph.startswith(" "):
        return paragraph
    return textwrap.fill(" ".join(paragraph.split()), columns, break_on_hyphens=False)


def _lines(flag: ListedFlag, columns: int) -> Iterator[str]:
    indent = min(_INDENT, columns // 3)
    name = f"  --{flag.name} {flag.shown}".rstrip()
    meaning = textwrap.wrap(
        _meaning(flag), columns - indent, break_on_hyphens=False, break_long_words=False
    )
    if len(name) < indent - 1:
        yield f"{name:{indent}}{meaning.pop(0)}"
    else:  # choices may be broken at their bars
        parts = textwrap.wrap(
            name.replace("|", "| "), columns, subsequent_indent=" " * 4, break_on_hyphens=False
        )
        yield from (part.replace("| ", "|") for part in parts)
    yield from (f"{'':{indent}}{line}" for line in meaning)


def _meaning(flag: ListedFlag) -> str:
    parts = [flag.help]
    if flag.limits not in ("", "at least 0", "at least 1"):  # which go without saying
        parts.append(f"{flag.limits[0].upper()}{flag.limits[1:]}.")
    default = flag.default
    if "Default:" in flag.help or default in (None, []) or default is False:
        return " ".join(parts)
    texts = [f"{one:g}" if isinstance(one, float) else str(one) for one in _several(default)]
    return " ".join([*parts, f"Default: {', '.join(texts)}."])


def _several(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else [value]
