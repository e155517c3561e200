"""When requests come, and how long they took."""

import itertools
import random
from collections.abc import Sequence


def arrivals(chance: random.Random, rate: float, number: int) -> list[float]:
    return list(itertools.accumulate(chance.expovariate(rate) for _ in range(number)))


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Returns the smallest values that 50, 95 and 99 percent do not exceed; NaN if there are no values."""
    ordered = sorted(values) or [float("nan")]
    return {
        f"p{percent}": ordered[max(0, -(-percent * len(values) // 100) - 1)]
        for percent in (50, 95, 99)
    }
