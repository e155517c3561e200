"""The log-probabilities of query + item alone, by transformers in float64."""

import functools
from collections.abc import Sequence

import numpy as np
import torch


class Oracle:
    """One model; remembers what it has computed."""

    def __init__(self, model: torch.nn.Module) -> None:
        """Takes a model of transformers and makes it one of float64."""
        self._model = model.double().eval()

    def tokens(self, query: Sequence[int], item: Sequence[int]) -> np.ndarray:
        """log P(token | everything before it) of each token of the item."""
        return self._of(tuple(query), tuple(item))[0]

    def labels(
        self, query: Sequence[int], item: Sequence[int], labels: Sequence[int]
    ) -> np.ndarray:
        """log P(label | query, item) of each label."""
        return self._of(tuple(query), tuple(item))[1][list(labels)]

    @functools.cache  # noqa: B019
    def _of(self, query: tuple[int, ...], item: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        with torch.inference_mode():
            logits = self._model(torch.tensor([[*query, *item]])).logits[0]
        logprobs = torch.log_softmax(logits, dim=-1)
        rows = torch.arange(len(query) - 1, len(query) + len(item) - 1)
        return logprobs[rows, list(item)].numpy(), logprobs[-1].numpy()
