"""Command-line flags of a settings class: one for each setting, with its default, its choices and its help."""

import dataclasses
from collections.abc import Callable
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from absl import flags

from isoprefill.settings import Setting, settings_of

Settings = TypeVar("Settings")

_DEFINE: dict[type, Callable[..., flags.FlagHolder[Any]]] = {
    bool: flags.DEFINE_bool,
    float: flags.DEFINE_float,
    int: flags.DEFINE_integer,
    str: flags.DEFINE_string,
}

flags.disclaim_key_flags()  # a flag belongs to the command that calls `define_flags`


def define_flags(kind: type[Settings]) -> Callable[..., Settings]:
    """Defines a flag for each setting of a class, and of the classes that its fields hold.

    Args:
        kind: the class; see `isoprefill.settings`.

    Returns:
        A function that makes the settings of the flags' values; it takes the fields that are no settings by name. It
        raises ValueError if a value is not allowed.
    """
    types = get_type_hints(kind)
    readers: dict[str, Callable[[], Any]] = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type] # a data class
        if dataclasses.is_dataclass(types[field.name]):
            readers[field.name] = define_flags(types[field.name])
    for name, setting in settings_of(kind).items():
        readers[name] = _define(setting, types[name])
    return lambda **others: kind(**{name: read() for name, read in readers.items()}, **others)


def integers(flag: flags.FlagHolder[list[str]]) -> tuple[int, ...]:
    """Returns the value of a flag that is a list of integers.

    Raises:
        ValueError: unless it is one; names the flag.
    """
    texts = [text for text in flag.value if text]
    if not all(text.strip().isdecimal() for text in texts):
        raise ValueError(
            f"{flag.name} must be integers of at least 0, got {','.join(flag.value)!r}"
        )
    return tuple(map(int, texts))


def _define(setting: Setting, of: Any) -> Callable[[], Any]:
    """Defines the flag of a field of this type; returns what gives the field's value."""
    name, default, help = setting.flag, setting.default, setting.help
    if NoneType in get_args(of):
        of = next(one for one in get_args(of) if one is not NoneType)
    if of == tuple[int, ...]:
        listed = flags.DEFINE_list(name, [str(one) for one in default], help)
        return lambda: integers(listed)
    if of == tuple[str, ...]:
        repeated = flags.DEFINE_multi_string(name, list(default), help)
        return lambda: tuple(repeated.value)
    flag: flags.FlagHolder[Any]
    if get_origin(of) is Literal:
        flag = flags.DEFINE_enum(name, default, get_args(of), help)
    elif setting.scale != 1:
        scaled = flags.DEFINE_float(name, default * setting.scale, help)
        return lambda: scaled.value / setting.scale
    else:
        flag = _DEFINE[of](name, default, help)
    return lambda: flag.value
