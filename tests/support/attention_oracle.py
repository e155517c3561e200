"""Isolated attention in float64 NumPy: the oracle of every back end."""

import numpy as np


def attend_float64(q, k, v, mask, *, scale=None, soft_cap=None) -> tuple[np.ndarray, np.ndarray]:
    """Output [T, Hq, D] and log-sum-exp [T, Hq] in float64; zeros and -inf for a row that sees nothing."""
    rows, columns = mask.any(axis=1), mask.any(axis=0)  # the others cost time and add nothing
    out, lse = np.zeros(q.shape), np.full(q.shape[:2], -np.inf)
    seen = mask[np.ix_(rows, columns)]
    q, k, v = (
        np.asarray(array)[kept].astype(np.float64).transpose(1, 0, 2)
        for array, kept in ((q, rows), (k, columns), (v, columns))
    )
    group = q.shape[0] // k.shape[0]
    k, v = k.repeat(group, axis=0), v.repeat(group, axis=0)
    scale = q.shape[2] ** -0.5 if scale is None else scale
    scores = scale * (q @ k.transpose(0, 2, 1))  # [Hq, rows, columns]
    if soft_cap is not None:
        scores = soft_cap * np.tanh(scores / soft_cap)
    scores = np.where(seen, scores, -np.inf)
    largest = scores.max(axis=2, keepdims=True, initial=-np.inf)
    weights = np.exp(scores - largest)
    total = weights.sum(axis=2, keepdims=True)
    out[rows] = (weights / total @ v).transpose(1, 0, 2)
    lse[rows] = (largest + np.log(total))[..., 0].T
    return out, lse
