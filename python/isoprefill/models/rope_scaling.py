"""Scaled RoPE, as divisors of the rotary frequencies.

Every kind of scaling here is the plain rotation with each pair's frequency divided by a number. A
configuration holds those numbers, head_dim / 2 of them, and need not know which kind they came
from.
"""

import math


def linear_divisors(head_dim: int, factor: float) -> tuple[float, ...]:
    """Divisors of linear scaling: every position is divided by `factor`."""
    if not factor >= 1.0:
        raise ValueError(f"rope scaling factor must be at least 1, got {factor}")
    return (float(factor),) * (head_dim // 2)


def llama3_divisors(
    head_dim: int,
    theta: float,
    *,
    factor: float,
    low_freq_factor: float,
    high_freq_factor: float,
    original_max_positions: int,
) -> tuple[float, ...]:
    """Divisors of Llama 3 scaling: `factor` for long wavelengths, 1 for short, else between."""
    if not factor >= 1.0:
        raise ValueError(f"rope scaling factor must be at least 1, got {factor}")
    if not high_freq_factor > low_freq_factor > 0.0:
        raise ValueError(
            "rope scaling needs high_freq_factor > low_freq_factor > 0, "
            f"got {high_freq_factor} and {low_freq_factor}"
        )
    divisors = []
    for pair in range(head_dim // 2):
        wavelength = 2.0 * math.pi * theta ** (2.0 * pair / head_dim)
        turns = original_max_positions / wavelength
        kept = min(1.0, max(0.0, (turns - low_freq_factor) / (high_freq_factor - low_freq_factor)))
        divisors.append(1.0 / (kept + (1.0 - kept) / factor))
    return tuple(divisors)
