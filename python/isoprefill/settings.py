"""Settings as data classes whose fields carry their own help, flag and bounds. Importing this does not import jax.

    @dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
    class Limits:
        max_items: int = setting(4096, "Maximum number of items in one request.", ge=1)

        def __post_init__(self) -> None:
            check_bounds(self)

`isoprefill.cli.command_flags` makes the flag `--max-items` of it.
"""

import dataclasses
import operator
from collections.abc import Mapping
from typing import Any

_BOUNDS = {
    "ge": ("at least", operator.ge),
    "gt": ("above", operator.gt),
    "le": ("at most", operator.le),
    "lt": ("below", operator.lt),
}


Bounds = Mapping[str, float]  # by "ge", "gt", "le" and "lt"


def within(value: float, bounds: Bounds) -> bool:
    """Returns whether a number lies within bounds; NaN lies within none."""
    return all(_BOUNDS[bound][1](value, limit) for bound, limit in bounds.items())


def bounds_text(bounds: Bounds) -> str:
    """Returns bounds in words, such as "at least 1"."""
    if bounds.keys() == {"ge", "le"}:
        return f"between {bounds['ge']} and {bounds['le']}"
    return " and ".join(f"{_BOUNDS[bound][0]} {limit}" for bound, limit in bounds.items())


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """What a field of a settings class says about itself.

    Attributes:
        flag: name of its command-line flag.
        default: the field's.
        help: text of `--help`.
        scale: the flag's value divided by the field's, where they have different units.
        bounds: limits of the flag's value (of each, if there are several), by "ge", "gt", "le" and "lt".
    """

    flag: str
    default: Any
    help: str
    scale: float
    bounds: Bounds

    def check(self, value: Any) -> None:
        """Raises ValueError unless the field's value lies within the bounds; None always does."""
        for one in value if isinstance(value, tuple) else (value,):
            if one is None or within(one * self.scale, self.bounds):
                continue
            raise ValueError(
                f"{self.flag} must be {bounds_text(self.bounds)}, got {one * self.scale}"
            )


def setting(
    default: Any, help: str, *, flag: str | None = None, scale: float = 1, **bounds: float
) -> Any:
    """A data class's field that is a setting.

    Args:
        default: of the field.
        help: text of `--help`.
        flag: the flag's name; without, the field's, whose unit `_s` is left out.
        scale: the flag's value divided by the field's, where they have different units.
        **bounds: "ge", "gt", "le" or "lt" of the flag's value.
    """
    return dataclasses.field(default=default, metadata={"setting": (flag, help, scale, bounds)})


def settings_of(kind: Any) -> dict[str, Setting]:
    """Returns the settings of a data class (or of an object of one), by the names of their fields."""
    found = {}
    for field in dataclasses.fields(kind):
        if "setting" in field.metadata:
            flag, *others = field.metadata["setting"]
            name = flag or field.name.removesuffix("_s").replace("_", "-")
            found[field.name] = Setting(name, field.default, *others)
    return found


def check_bounds(settings: Any) -> None:
    """Raises ValueError unless every setting lies within its bounds; names its flag, its value and the limit."""
    for name, one in settings_of(settings).items():
        one.check(getattr(settings, name))


def check_api_key(key: str) -> None:
    """Raises ValueError unless the key can travel in a header. The message does not hold it."""
    if not key:
        raise ValueError("the API key is empty")
    if not (key.isascii() and key.isprintable() and key == key.strip()):
        raise ValueError(
            "the API key must be printable ASCII without white space around it, because it is sent in a header"
        )
