"""Batches of items of similar length."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float64, Int
from torch import Tensor

ScoreBatch = Callable[[Sequence[Sequence[int]]], Float64[np.ndarray, "B *L"]]


def by_length(
    items: Sequence[Sequence[int]], batch_size: int, score: ScoreBatch
) -> Float64[np.ndarray, "N *L"]:
    """Scores batches of items of similar length; returns the scores in the items' order."""
    order = sorted(range(len(items)), key=lambda index: len(items[index]))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    scores = np.concatenate([score([items[index] for index in batch]) for batch in batches])
    in_order = np.empty_like(scores)
    in_order[order] = scores
    return in_order


def padded(sequences: Sequence[Sequence[int]]) -> Int[Tensor, "B L"]:
    """The sequences with zeros to their right."""
    longest = max(map(len, sequences))
    return torch.tensor([[*tokens, *[0] * (longest - len(tokens))] for tokens in sequences])
