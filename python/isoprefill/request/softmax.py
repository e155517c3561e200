"""Softmax over labels, on the host.

On the host because the front-end process of a server must not touch the device (docs/adr/0001-host-softmax.md).
"""

import numpy as np
from jaxtyping import Float


def softmax(
    logprobs: Float[np.ndarray, "*batch L"], temperature: float = 1.0
) -> Float[np.ndarray, "*batch L"]:
    """exp(x / t) / sum(exp(x / t)) along the last axis, in float64; a row of nothing but -inf gives zeros.

    The largest is subtracted before the division, which may overflow: then it alone counts.
    """
    logprobs = np.asarray(logprobs, np.float64)
    largest = logprobs.max(axis=-1, keepdims=True)
    below = logprobs - np.where(np.isneginf(largest), 0.0, largest)
    with np.errstate(over="ignore"):
        weights = np.exp(below / temperature)
    total = weights.sum(axis=-1, keepdims=True)
    return weights / np.where(total > 0, total, 1.0)
