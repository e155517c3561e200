"""The modes that a caller chooses between; docs/design.md explains them."""

from collections.abc import Callable
from typing import Any, Literal, get_args

Delimiter = Literal["none", "hidden", "prefix_first"]
Isolation = Literal["isolated", "causal"]
Algorithm = Literal["serial", "packed", "prefill_extend", "packed_extend"]
AlgorithmChoice = Literal["auto", Algorithm]
Backend = Literal["auto", "pallas", "cpu", "xla", "dense"]
Tokenization = Literal["separate", "joint"]


def _choice_error(name: str, value: object, choices: tuple[str, ...]) -> ValueError:
    return ValueError(f"{name} must be one of {choices}, got {value!r}")


def check_choice(
    name: str,
    value: object,
    mode: Any,
    error: Callable[[str, object, tuple[str, ...]], ValueError] = _choice_error,
) -> None:
    """Raises an error unless the value of an argument is one of those that `mode`, a Literal, allows.

    `error` makes it of the argument's name, its value and the allowed values.
    """
    choices = get_args(mode)
    if value not in choices:
        raise error(name, value, choices)
