"""What a flag takes: parsers of absl that say in our words what is allowed, and what the help shows for it."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from isoprefill.settings import Bounds, bounds_text, within

SHOWN = 80  # characters of a value that a message repeats


class IllegalValue(flags.IllegalFlagValueError):
    """A flag's value is not allowed.

    Attributes:
        reason: what it must be, and what it is; the message has the flag's name before it.
    """

    def __init__(self, name: str, allowed: str, value: object) -> None:
        """Takes the flag's name, what it must be and what it is."""
        shown = repr(value)
        if len(shown) > SHOWN:
            shown = f"{shown[: SHOWN // 2]}…{shown[-SHOWN // 2 :]}"
        self.reason = f"must be {allowed}, got {shown}"
        super().__init__(f"--{name} {self.reason}")


class Kind(flags.ArgumentParser[Any]):
    """Reads the value of one flag.

    Attributes:
        shown: what the help writes after the flag's name; "" for a switch, which takes nothing.
        limits: what the help says about the range; "" if there is none.
    """

    shown = ""
    limits = ""

    def __init__(self, name: str) -> None:
        """Takes the flag's name, for messages."""
        self.name = name

    def refused(self, value: object) -> IllegalValue:
        """Returns the error for a value that is not allowed."""
        return IllegalValue(self.name, self.allowed(), value)

    def allowed(self) -> str:
        """Returns what values there are, to follow "must be"."""
        raise NotImplementedError

    def flag_type(self) -> str:
        """Returns the name of the type; absl asks."""
        return type(self).__name__.lower()


class Switch(Kind):
    """True or false."""

    def allowed(self) -> str:
        """Returns what values there are."""
        return "true or false"

    def parse(self, argument: str | int) -> bool:
        """Returns the value; raises IllegalValue unless it is true, false, 1 or 0."""
        value = {"true": True, "1": True, "false": False, "0": False}.get(str(argument).lower())
        if value is None:
            raise self.refused(argument)
        return value


class Choice(Kind):
    """One of a few texts."""

    def __init__(self, name: str, choices: Sequence[str]) -> None:
        """Takes the flag's name and the texts."""
        super().__init__(name)
        self.choices = choices
        self.shown = "|".join(choices)

    def allowed(self) -> str:
        """Returns what values there are."""
        return f"one of {', '.join(self.choices)}"

    def parse(self, argument: str) -> str:
        """Returns the value; raises IllegalValue unless it is one of the choices."""
        if argument not in self.choices:
            raise self.refused(argument)
        return argument


class Number(Kind):
    """A finite number within bounds."""

    shown = "NUMBER"
    kind = "a number"
    read: Callable[[str], float] = float
    form = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)

    def __init__(self, name: str, bounds: Bounds) -> None:
        """Takes the flag's name and its bounds; see `isoprefill.settings.setting`."""
        super().__init__(name)
        self.bounds = bounds
        self.limits = bounds_text(bounds)

    def allowed(self) -> str:
        """Returns what values there are."""
        joint = " of " if self.limits.startswith("at ") else " "
        return f"{self.kind}{joint}{self.limits}" if self.limits else self.kind

    def parse(self, argument: str | float) -> float:
        """Returns the value; raises IllegalValue unless it is a finite number within the bounds."""
        text = str(argument)
        value = self.read(text) if self.form.fullmatch(text) else math.nan
        if not (math.isfinite(value) and within(value, self.bounds)):
            raise self.refused(argument)
        return value


class Integer(Number):
    """An integer within bounds."""

    shown = "INTEGER"
    kind = "an integer"
    read = int
    form = re.compile(r"[+-]?[0-9]{1,30}")


class Integers(Integer):
    """Integers within bounds, with commas between them; may be none."""

    shown = "INTEGER,…"

    def allowed(self) -> str:
        """Returns what values there are."""
        return f"integers{super().allowed().removeprefix(self.kind)}, separated by commas"

    def parse(self, argument: str | Sequence[int]) -> list[int]:  # type: ignore[override] # several numbers
        """Returns the values; raises IllegalValue unless each is an integer within the bounds."""
        if not isinstance(argument, str):
            return list(argument)
        one = Integer(self.name, self.bounds)
        try:
            return [int(one.parse(text)) for text in argument.split(",") if text]
        except IllegalValue:
            raise self.refused(argument) from None
