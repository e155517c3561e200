"""Lists of integers from outside: lengths and token ids."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64


def flat_integers(name: str, values: Any) -> Int64[np.ndarray, "n"]:
    """Returns the values as int64, without rounding or parsing anything.

    Raises:
        ValueError: unless they are a flat list of integers that fit; names the argument.
    """

    def problem() -> ValueError:
        return ValueError(f"{name} must be a flat list of integers, got {shortened(values)}")

    if isinstance(values, str | bytes | dict | set):
        raise problem()
    if isinstance(values, list | tuple) and any(isinstance(value, bool) for value in values):
        raise problem()  # NumPy would make 0 and 1 of them
    try:
        array = np.asarray(values if isinstance(values, np.ndarray | Sequence) else list(values))
    except (TypeError, ValueError):
        raise problem() from None
    if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
        raise problem()
    if array.dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max:
        raise problem()
    return array.astype(np.int64)


def shortened(values: Any) -> str:
    """The values as they would be written, at most 60 characters of that, for messages."""
    text = repr(values)
    return text if len(text) <= 60 else f"{text[:57]}..."


def common_prefix(one: Sequence[int] | np.ndarray, other: Sequence[int] | np.ndarray) -> int:
    """How many first tokens two lists share."""
    length = min(len(one), len(other))
    differing = np.flatnonzero(np.asarray(one[:length]) != np.asarray(other[:length]))
    return int(differing[0]) if differing.size else length
