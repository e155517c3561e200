"""Isolated attention in float64 NumPy: the oracle of every back end."""

import numpy as np


def attend_float64(q, k, v, mask, *, scale=None, soft_cap=None) -> tuple[np.ndarray, np.ndarray]:
    """Output [T, Hq, D] and log-sum-exp [T, Hq] in float64; zeros and -inf for a row that sees nothing."""
    q, k, v = (np.asarray(array, np.float64) for array in (q, k, v))
    group = q.shape[1] // k.shape[1]
    q, k, v = (
        array.transpose(1, 0, 2) for array in (q, k.repeat(group, axis=1), v.repeat(group, axis=1))
    )
    scores = (q.shape[2] ** -0.5 if scale is None else scale) * (
        q @ k.transpose(0, 2, 1)
    )  # [Hq, T, S]
    if soft_cap is not None:
        scores = soft_cap * np.tanh(scores / soft_cap)
    scores = np.where(mask, scores, -np.inf)
    blind = ~mask.any(axis=1)
    largest = np.where(blind, 0.0, scores.max(axis=2))[..., None]
    weights = np.exp(scores - largest)
    total = weights.sum(axis=2, keepdims=True)
    out = (weights / np.where(blind[:, None], 1.0, total) @ v).transpose(1, 0, 2)
    with np.errstate(divide="ignore"):
        lse = (largest + np.log(total))[..., 0].T
    return out, lse
