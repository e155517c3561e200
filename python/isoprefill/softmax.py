"""Softmax over labels, on the host.

On the host because the front-end process of a server must not touch the device (docs/adr/0001-host-softmax.md).
"""

import numpy as np
from jaxtyping import Float


def softmax(logprobs: Float[np.ndarray, "*batch L"]) -> Float[np.ndarray, "*batch L"]:
    """exp(x) / sum(exp(x)) along the last axis, in float64; a row of nothing but -inf gives zeros."""
    logprobs = np.asarray(logprobs, np.float64)
    largest = logprobs.max(axis=-1, keepdims=True)
    weights = np.exp(logprobs - np.where(np.isneginf(largest), 0.0, largest))
    total = weights.sum(axis=-1, keepdims=True)
    return weights / np.where(total > 0, total, 1.0)
