"""Environment variables of ours: their names, and what is said about those that change nothing."""

import dataclasses
import difflib
from collections.abc import Collection, Iterator, Mapping
from typing import Any, get_type_hints

PREFIX = "ISOPREFILL_"
# Those that are no flags of serve: of every command, of serve, and of building and testing.
_OTHERS = (
    *("CACHE", "INSTRUCTIONS", "SPLIT_FLOAT32", "THREADS"),
    *("API_KEY", "API_KEY_FILE", "CONFIG"),
    *("COVERAGE", "FULL_MATRIX", "PYTHON"),
)


def variable_of(flag: str) -> str:
    """Returns the name of the variable that stands for a flag of serve."""
    return PREFIX + flag.upper().replace("-", "_")


def variable_notes(
    environment: Mapping[str, str], command: str, flags: Collection[str]
) -> Iterator[str]:
    """Yields a line for each variable whose name says that it is for us, and which changes nothing.

    Args:
        environment: variables by name.
        command: the one that runs.
        flags: names of its flags.
    """
    others = [PREFIX + name for name in _OTHERS]
    ours = sorted(name for name in environment if name.startswith(PREFIX) and name not in others)
    if not ours:
        return
    of_serve = {variable_of(flag): flag for flag in _flags_of_serve()}
    for name in ours:
        flag = of_serve.get(name)
        if flag is None:
            near = difflib.get_close_matches(name, [*others, *of_serve], n=1)
            yield f"{name} is no variable of isoprefill{f'; did you mean {near[0]}?' if near else ''}"
        elif command != "serve" and flag in flags:
            yield f"{name} is for isoprefill serve; isoprefill {command} reads --{flag} only"


def _flags_of_serve() -> Iterator[str]:
    from isoprefill.server.settings import ServerSettings

    return _flags_of(ServerSettings)


def _flags_of(kind: Any) -> Iterator[str]:
    from isoprefill.settings import settings_of

    yield from (setting.flag for setting in settings_of(kind).values())
    for of in get_type_hints(kind).values():
        if dataclasses.is_dataclass(of):
            yield from _flags_of(of)
