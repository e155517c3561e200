"""The flags of one command.

Each command has its own, apart from absl's flags, so that all commands can be imported into one process. absl's own
flags, such as --verbosity, join them when the command runs.
"""

import dataclasses
import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from absl import flags

from isoprefill.cli.flag_kinds import Choice, Integer, Integers, Kind, Number, Switch
from isoprefill.settings import Setting, settings_of

Default = TypeVar("Default")
Settings = TypeVar("Settings")
TEXT = "TEXT"


@dataclasses.dataclass(frozen=True, slots=True)
class ListedFlag:
    """What the help says about a flag.

    Attributes:
        name: the flag's, without dashes.
        heading: below which it is listed.
        shown: what follows the name; "" for a switch.
        help: what it means.
        limits: the range of its numbers; "" if there is none.
        default: its value if it is not given.
    """

    name: str
    heading: str
    shown: str
    help: str
    limits: str
    default: Any


class CommandFlags:
    """Flags of a command, in the order in which its help lists them."""

    def __init__(self) -> None:
        """Begins without flags."""
        self.values = flags.FlagValues()
        self.listed: list[ListedFlag] = []
        self._heading = ""

    def __iter__(self) -> Iterator[flags.Flag[Any]]:
        """Yields the flags, without other names of the same."""
        return (self.values[listed.name] for listed in self.listed)

    def under(self, heading: str) -> None:
        """Puts the flags that follow below a heading of the help."""
        self._heading = heading

    def parse(self, arguments: Sequence[str], *, absl: bool = False) -> list[str]:
        """Reads a command line, of which the first argument is the program; returns what is no flag, after that.

        Args:
            arguments: the command line.
            absl: whether absl's own flags may be given too.

        Raises:
            ValueError: an unknown flag, one without a value, or with one that it does not take; says which.
        """
        try:
            if absl:
                flags.FLAGS.append_flag_values(self.values)
                flags.FLAGS["verbosity"].parser = Integer("verbosity", {})  # whose words are ours
                rest: list[str] = flags.FLAGS(arguments)
                self.values.mark_as_parsed()
            else:
                rest = self.values(arguments)
        except flags.Error as error:
            raise ValueError(self._reason(error)) from error
        return rest

    def text(
        self, name: str, default: Default, help: str, shown: str = TEXT
    ) -> flags.FlagHolder[str | Default]:
        """Defines a flag that takes a text."""
        self._list(name, shown, help, default)
        value: Any = default  # absl's types know texts and None apart
        return flags.DEFINE_string(name, value, help, flag_values=self.values)

    def texts(
        self, name: str, default: Sequence[str], help: str, shown: str = TEXT
    ) -> flags.FlagHolder[list[str]]:
        """Defines a flag that may be repeated; each time it takes a text."""
        self._list(name, shown, help, list(default))
        return flags.DEFINE_multi_string(name, list(default), help, flag_values=self.values)

    def switch(self, name: str, help: str) -> flags.FlagHolder[bool]:
        """Defines a flag that is false unless it is given."""
        return self._define(Switch(name), False, help)

    def choice(
        self, name: str, default: Default, choices: Sequence[str], help: str
    ) -> flags.FlagHolder[str | Default]:
        """Defines a flag that takes one of a few texts."""
        return self._define(Choice(name, choices), default, help)

    def integer(
        self, name: str, default: Default, help: str, **bounds: float
    ) -> flags.FlagHolder[int | Default]:
        """Defines a flag that takes an integer; for bounds see `isoprefill.settings.setting`."""
        return self._define(Integer(name, bounds), default, help)

    def number(
        self, name: str, default: Default, help: str, **bounds: float
    ) -> flags.FlagHolder[float | Default]:
        """Defines a flag that takes a finite number; for bounds see `isoprefill.settings.setting`."""
        return self._define(Number(name, bounds), default, help)

    def integers(
        self, name: str, default: Sequence[int], help: str, **bounds: float
    ) -> flags.FlagHolder[list[int]]:
        """Defines a flag that takes integers with commas between them."""
        return self._define(Integers(name, bounds), default, help)

    def alias(self, name: str, of: str) -> None:
        """Defines another name of a flag, which the help does not list."""
        flags.DEFINE_alias(name, of, flag_values=self.values)

    def settings(
        self, kind: type[Settings], headings: Mapping[str, str] | None = None
    ) -> Callable[..., Settings]:
        """Defines a flag for each setting of a class, and of the classes that its fields hold.

        Args:
            kind: the class; see `isoprefill.settings`.
            headings: by the name of a class, under which heading the help lists its settings.

        Returns:
            A function that makes the settings of the flags' values; it takes the fields that are no settings by name.
            It raises ValueError if a value is not allowed.
        """
        types = get_type_hints(kind)
        settings = settings_of(kind)
        readers: dict[str, Callable[[], Any]] = {}
        for field in dataclasses.fields(kind):  # type: ignore[arg-type] # a data class
            of = types[field.name]
            if dataclasses.is_dataclass(of):
                readers[field.name] = self.settings(types[field.name], headings)
            elif field.name in settings:
                self._heading = (headings or {}).get(kind.__name__, self._heading)
                readers[field.name] = self._setting(settings[field.name], of)
        return lambda **others: kind(**{name: read() for name, read in readers.items()}, **others)

    def _setting(self, setting: Setting, of: Any) -> Callable[[], Any]:
        """Defines the flag of a field of this type; returns what gives the field's value."""
        name, default, help, bounds = setting.flag, setting.default, setting.help, setting.bounds
        if NoneType in get_args(of):
            of = next(one for one in get_args(of) if one is not NoneType)
        flag: flags.FlagHolder[Any]
        if of == tuple[int, ...]:
            listed = self.integers(name, default, help, **bounds)
            return lambda: tuple(listed.value)
        if of == tuple[str, ...]:
            repeated = self.texts(name, default, help)
            return lambda: tuple(repeated.value)
        if get_origin(of) is Literal:
            flag = self.choice(name, default, get_args(of), help)
        elif setting.scale != 1:
            scaled = self.number(name, default * setting.scale, help, **bounds)
            return lambda: scaled.value / setting.scale
        elif of is bool:
            flag = self.switch(name, help)
        elif of is str:
            flag = self.text(name, default, help)
        else:
            flag = (self.integer if of is int else self.number)(name, default, help, **bounds)
        return lambda: flag.value

    def _define(self, kind: Kind, default: Any, help: str) -> flags.FlagHolder[Any]:
        self._list(kind.name, kind.shown, help, default, kind.limits)
        boolean = isinstance(kind, Switch)
        flag = flags.Flag(kind, None, kind.name, default, help, boolean=boolean)
        return flags.DEFINE_flag(flag, self.values)

    def _list(self, name: str, shown: str, help: str, default: Any, limits: str = "") -> None:
        self.listed.append(ListedFlag(name, self._heading, shown, help, limits, default))

    def _reason(self, error: flags.Error) -> str:
        """Words an error of absl."""
        reason = str(error).removeprefix("ERROR:: ")  # for a --flagfile
        if isinstance(error, flags.UnrecognizedFlagError):
            names = [listed.name for listed in self.listed]
            near = difflib.get_close_matches(error.flagname, names, n=1)
            hint = f"; did you mean --{near[0]}?" if near else ""
            return f"unknown flag --{error.flagname}{hint} (--help lists the flags)"
        missing = reason.removeprefix("Missing value for flag ")
        return f"{missing} needs a value" if missing != reason else reason
