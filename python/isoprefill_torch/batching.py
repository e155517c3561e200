"""Groups items of similar length into batches."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float64, Int
from torch import Tensor

ScoreBatch = Callable[[Sequence[Sequence[int]]], Float64[np.ndarray, "B *L"]]

LITTLE_PADDING = 64  # tokens; items up to this length share batches whatever their lengths


def by_length(
    items: Sequence[Sequence[int]], batch_size: int, score: ScoreBatch
) -> Float64[np.ndarray, "N *L"]:
    """Scores batches of items of similar length, none over twice as long as another unless all are short.

    Returns the scores in the items' order.
    """
    order = sorted(range(len(items)), key=lambda index: len(items[index]))
    batches: list[list[int]] = [[]]
    for index in order:
        batch = batches[-1]
        longest = max(LITTLE_PADDING, 2 * len(items[batch[0]])) if batch else len(items[index])
        if len(batch) == batch_size or len(items[index]) > longest:
            batches.append(batch := [])
        batch.append(index)
    scores = np.concatenate([score([items[index] for index in batch]) for batch in batches])
    return scores[np.argsort(order)]


def padded(sequences: Sequence[Sequence[int]]) -> Int[Tensor, "B L"]:
    """Pads the sequences with zeros on the right."""
    longest = max(map(len, sequences))
    return torch.tensor([[*tokens, *[0] * (longest - len(tokens))] for tokens in sequences])
