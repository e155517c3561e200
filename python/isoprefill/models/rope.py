"""Rotary position embedding (RoPE): frequencies, their scaling, and the rotation.

Every kind of scaling here is the plain rotation with each pair's frequency divided by a number. A configuration holds
those numbers, head_dim / 2 of them, and need not know which kind they came from.

Letters: T rows, H heads, D head_dim. The two halves of a head are paired (element i with element i + D/2), which is the
convention of Hugging Face checkpoints; `gguf_file` undoes the interleaved pairing of GGUF files.
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def inverse_frequencies(
    head_dim: int, theta: float, frequency_divisors: tuple[float, ...] | None
) -> Float[np.ndarray, "pairs"]:
    """Returns the radians per position of each pair, float32, `head_dim // 2` of them."""
    # In float32 on purpose: the checkpoints were trained with frequencies rounded at this point.
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequencies: np.ndarray = np.float32(1.0) / np.power(np.float32(theta), exponents)
    if frequency_divisors is not None:
        frequencies = frequencies / np.asarray(frequency_divisors, np.float32)
    return frequencies


def rotation(
    positions: Int[Array, "T"], frequencies: Float[np.ndarray, "pairs"]
) -> tuple[Float[Array, "T pairs"], Float[Array, "T pairs"]]:
    """Returns cosine and sine of each row's angles, float32."""
    angles = positions.astype(jnp.float32)[:, None] * jnp.asarray(frequencies)[None, :]
    return jnp.cos(angles), jnp.sin(angles)


def rotate(
    heads: Float[Array, "T H D"], cosine: Float[Array, "T pairs"], sine: Float[Array, "T pairs"]
) -> Float[Array, "T H D"]:
    """Rotates every head of every row by its angles, in float32; the result has heads' dtype."""
    first, second = jnp.split(heads.astype(jnp.float32), 2, axis=-1)
    cosine, sine = cosine[:, None, :], sine[:, None, :]
    rotated = jnp.concatenate(
        [first * cosine - second * sine, second * cosine + first * sine], axis=-1
    )
    return rotated.astype(heads.dtype)


def linear_divisors(head_dim: int, factor: float) -> tuple[float, ...]:
    """Returns the divisors of linear scaling: every position is divided by `factor`."""
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
    """Returns the divisors of Llama 3 scaling: `factor` for long wavelengths, 1 for short, else between."""
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
