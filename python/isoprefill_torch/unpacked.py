"""Scores without packing: every sequence is prefix + item, alone or in padded batches."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from isoprefill_torch.batching import by_length, padded
from isoprefill_torch.head import item_logprobs
from isoprefill_torch.model import CausalLM


def logprobs(
    model: CausalLM,
    prefix: Sequence[int],
    items: Sequence[Sequence[int]],
    labels: Sequence[int] | None,
    batch_size: int,
) -> Float64[np.ndarray, "N *L"]:
    """Scores prefix + item for each item. Under `torch.inference_mode`.

    Padding lies to the right, where causal attention never looks, so a batch needs no mask.
    """

    def score(batch: Sequence[Sequence[int]]) -> Float64[np.ndarray, "B *L"]:
        sequences = padded([[*prefix, *item] for item in batch])
        hidden = model.hidden_states(sequences).flatten(0, 1)
        first_rows = [row * sequences.shape[1] + len(prefix) for row in range(len(batch))]
        context_rows = [row - 1 for row in first_rows]
        return item_logprobs(model, hidden, context_rows, first_rows, batch, labels)

    return by_length(items, batch_size, score)
