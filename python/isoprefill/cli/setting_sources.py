"""Values of a command's flags from the environment and from a file, where the command line does not give them.

A flag wins over the environment variable ISOPREFILL_FLAG (in capitals, with _ for -), that over the file, that over the
default. All of them are parsed as the flag is.
"""

import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from absl import flags

from isoprefill.cli.flag_kinds import IllegalValue
from isoprefill.cli.variables import variable_of

MAX_BYTES = 1 << 20  # of a file
Sources = dict[str, str]  # by flag: where its value came from


def read_sources(
    known: Iterable[flags.Flag[Any]], file: str | None, environment: Mapping[str, str]
) -> Sources:
    """Gives flags that the command line left out the values of the environment and of a file.

    Args:
        known: the flags.
        file: a TOML file whose keys are their names; None: there is none.
        environment: variables by name.

    Returns:
        Where each flag's value came from.

    Raises:
        ValueError: the file cannot be read, has a key that is no flag, or a value is not one of the flag's; says which.
    """
    by_name = {flag.name: flag for flag in known}
    values = {} if file is None else _read(file, by_name)
    sources: Sources = {}
    for name, flag in by_name.items():
        variable = variable_of(name)
        if not flag.using_default_value:
            sources[name] = "flag"
        elif variable in environment:
            sources[name] = _give(flag, environment[variable], variable)
        elif name in values:
            sources[name] = _give(flag, values[name], f"{file}: {name}")
        else:
            sources[name] = "default"
    return sources


def as_toml(known: Iterable[flags.Flag[Any]], sources: Sources) -> str:
    """Returns the flags' values as a file that `read_sources` reads, each with where it came from.

    A flag without a value is a comment, as TOML has no null.
    """
    lines = []
    for flag in known:
        unset = flag.value is None
        value = "" if unset else _toml(flag.value)
        lines.append(f"{'# ' if unset else ''}{flag.name} = {value}  # {sources[flag.name]}")
    return "\n".join(lines) + "\n"


def _read(file: str, known: Mapping[str, Any]) -> dict[str, Any]:
    try:
        with Path(file).open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(f"config {file} cannot be read: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise ValueError(f"config {file} has more than {MAX_BYTES} bytes")
    try:
        values = tomllib.loads(content.decode())
    except RecursionError:
        raise ValueError(f"config {file} is not TOML: nested too deeply") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"config {file} is not TOML: {error}") from error
    except ValueError:  # of int(), with advice for programmers
        raise ValueError(f"config {file} has a number of too many digits") from None
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f": did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"config {file} has the key {key!r}, which is no flag{hint}")
    return values


def _give(flag: flags.Flag[Any], value: Any, place: str) -> str:
    """Sets a flag's value as the command line would; returns where it came from."""
    several = isinstance(flag, flags.MultiFlag)
    items = value if isinstance(value, list) else [value]
    if not all(isinstance(item, str | int | float) for item in items):
        raise ValueError(
            f"{place} must be a text, a number, a boolean, or a list of texts or numbers"
        )
    texts = [str(item).lower() if isinstance(item, bool) else str(item) for item in items]
    try:
        flag.parse(texts if several else ",".join(texts))
    except IllegalValue as error:
        raise ValueError(f"{place} {error.reason}") from error
    flag.using_default_value = False
    return place.partition(": ")[0]


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value, ensure_ascii=False)
