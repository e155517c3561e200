"""The kinds of RoPE scaling, as divisors of the frequencies and a factor of sine and cosine.

A configuration holds these numbers and need not know which kind they came from. D is how many elements of a head are
rotated; pair i of D / 2 has the frequency theta^(-2i / D).
"""

import dataclasses
import math

Divisors = tuple[float, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Rope:
    """Fields of ModelConfig: rope_theta, rope_frequency_divisors and so on.

    `max_positions` is less than config.json's where the frequencies would depend on the length of a text.
    """

    theta: float
    max_positions: int
    divisors: Divisors | None = None
    attention_factor: float = 1.0
    rotated: int | None = None
    local_theta: float | None = None


def linear(dim: int, factor: float) -> Divisors:
    """Returns the divisors of linear scaling: every position is divided by `factor`."""
    _check_factor(factor)
    return (float(factor),) * (dim // 2)


def llama3(
    dim: int,
    theta: float,
    *,
    factor: float,
    low_freq_factor: float,
    high_freq_factor: float,
    original_max_positions: int,
) -> Divisors:
    """Returns the divisors of Llama 3 scaling: `factor` for long wavelengths, 1 for short, else between."""
    _check_factor(factor)
    if not high_freq_factor > low_freq_factor > 0.0:
        raise ValueError(
            "rope scaling needs high_freq_factor > low_freq_factor > 0, "
            f"got {high_freq_factor} and {low_freq_factor}"
        )
    divisors = []
    for pair in range(dim // 2):
        wavelength = 2.0 * math.pi * theta ** (2.0 * pair / dim)
        turns = original_max_positions / wavelength
        kept = min(1.0, max(0.0, (turns - low_freq_factor) / (high_freq_factor - low_freq_factor)))
        divisors.append(1.0 / (kept + (1.0 - kept) / factor))
    return tuple(divisors)


def yarn(
    dim: int,
    theta: float,
    *,
    factor: float,
    original_max_positions: int,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    truncate: bool = True,
) -> Divisors:
    """Returns the divisors of YaRN (Peng et al., 2023): 1 for pairs that turn often within the original positions.

    `factor` for those that turn less than `beta_slow` times, and between them a line over the pairs, whose ends are
    whole pairs if `truncate`.
    """
    _check_factor(factor)
    if not theta > 1.0:
        raise ValueError(f"rope scaling 'yarn' needs a rope_theta of more than 1, got {theta}")
    if not beta_fast >= beta_slow > 0.0:
        raise ValueError(
            f"rope scaling needs beta_fast >= beta_slow > 0, got {beta_fast} and {beta_slow}"
        )

    def pair_that_turns(times: float) -> float:
        wavelength = original_max_positions / (times * 2.0 * math.pi)
        return dim * math.log(wavelength) / (2.0 * math.log(theta))

    first, last = pair_that_turns(beta_fast), pair_that_turns(beta_slow)
    if truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dim - 1)
    width = last - first or 0.001
    divisors = []
    for pair in range(dim // 2):
        scaled = min(1.0, max(0.0, (pair - first) / width))
        divisors.append(1.0 / (1.0 - scaled + scaled / factor))
    return tuple(divisors)


def yarn_attention_factor(
    factor: float, mscale: float | None = None, mscale_all_dim: float | None = None
) -> float:
    """Returns the factor of sine and cosine that goes with YaRN, unless a model has its own."""

    def of(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1.0 else 1.0

    if mscale and mscale_all_dim:
        return of(mscale) / of(mscale_all_dim)
    return of(1.0)


def longrope_attention_factor(factor: float, original_max_positions: int) -> float:
    """Returns the factor of sine and cosine that goes with LongRoPE (Ding et al., 2024), unless a model has its own."""
    if factor <= 1.0:
        return 1.0
    return math.sqrt(1.0 + math.log(factor) / math.log(original_max_positions))


def longrope_positions(max_positions: int, original_max_positions: int, same: bool) -> int:
    """Returns how many positions a model with LongRoPE has here.

    A text of more than the original positions has other divisors, for all of its tokens: a query would have other keys
    with a long item than with a short one, and could not be shared. So there are only the original positions, with the
    divisors for short texts, unless those for long texts are the `same`.
    """
    return max_positions if same else min(max_positions, original_max_positions)


def _check_factor(factor: float) -> None:
    if not factor >= 1.0:
        raise ValueError(f"rope scaling factor must be at least 1, got {factor}")
