"""Rotary position embedding (RoPE): frequencies and the rotation.

Every kind of scaling here is the plain rotation with each pair's frequency divided by a number, and sine and cosine
multiplied by one (`rope_scaling`).

Letters: T rows, H heads, D head_dim, R rotary_dim. Of the first R elements of a head the two halves are paired
(element i with element i + R / 2), which is the convention of Hugging Face checkpoints; `gguf_file` undoes the
interleaved pairing of GGUF files.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from isoprefill.models.config.config import LayerRope, ModelConfig

Rotation = tuple[Float[Array, "T pairs"], Float[Array, "T pairs"]]


def inverse_frequencies(
    rotary_dim: int, theta: float, frequency_divisors: tuple[float, ...] | None
) -> Float[np.ndarray, "pairs"]:
    """Returns the radians per position of each pair, float32, `rotary_dim // 2` of them."""
    # In float32 on purpose: the checkpoints were trained with frequencies rounded at these points. PyTorch rounds the
    # power to the nearest float32, as this does; NumPy's own float32 power is off by one in a tenth of the pairs, which
    # moves log-probabilities by 3e-4 after 2,000 tokens.
    exponents = np.arange(0, rotary_dim, 2, dtype=np.float32) / np.float32(rotary_dim)
    powers = np.power(np.float64(np.float32(theta)), exponents.astype(np.float64))
    frequencies: np.ndarray = np.float32(1.0) / powers.astype(np.float32)
    if frequency_divisors is not None:
        frequencies = frequencies / np.asarray(frequency_divisors, np.float32)
    return frequencies


def rotation(config: ModelConfig, kind: LayerRope, positions: Int[Array, "T"]) -> Rotation:
    """Returns cosine and sine of each row's angles in layers of a kind, float32."""
    if kind == "none":  # by no angle
        shape = (positions.shape[0], config.rotary_dim // 2)
        return jnp.ones(shape), jnp.zeros(shape)
    if kind == "local":
        assert config.local_rope_theta is not None
        frequencies = inverse_frequencies(config.rotary_dim, config.local_rope_theta, None)
        factor = 1.0
    else:
        frequencies = inverse_frequencies(
            config.rotary_dim, config.rope_theta, config.rope_frequency_divisors
        )
        factor = config.rope_attention_factor
    angles = positions.astype(jnp.float32)[:, None] * jnp.asarray(frequencies)[None, :]
    return jnp.cos(angles) * factor, jnp.sin(angles) * factor


def rotate(
    heads: Float[Array, "T H D"], cosine: Float[Array, "T pairs"], sine: Float[Array, "T pairs"]
) -> Float[Array, "T H D"]:
    """Rotates every head of every row by its angles, in float32; the result has heads' dtype."""
    pairs = cosine.shape[-1]
    first, second, rest = jnp.split(heads.astype(jnp.float32), [pairs, 2 * pairs], axis=-1)
    cosine, sine = cosine[:, None, :], sine[:, None, :]
    rotated = jnp.concatenate(
        [first * cosine - second * sine, second * cosine + first * sine, rest], axis=-1
    )
    return rotated.astype(heads.dtype)
