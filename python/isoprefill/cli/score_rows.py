"""The rows that the score command prints: an item, its scores and its rank."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from isoprefill.cli.item_files import Item
from isoprefill.request.result import ScoreResult
from isoprefill.request.token_request import TokenRequest

Order = Literal["score", "mean", "input"]


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One item with what it scored.

    Attributes:
        item: it, with its index.
        rank: from 1; None if the rows come in the order of the input before all are scored.
        scores: with labels the probability of each; else one log-likelihood (natural log).
        mean: log-likelihood per token; None with labels.
        probability: by which rows are ranked: of the item, of the first label, or of the relevant class.
        num_tokens: whose log-probabilities a likelihood sums; with labels the item's own.
    """

    item: Item
    rank: int | None
    scores: tuple[float, ...]
    mean: float | None
    probability: float
    num_tokens: int

    def record(self, names: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """Returns the row as a JSON object; a field of the input that has a name of ours gets "input_" before it.

        Args:
            names: of the scores, as the `labels` or `classes` that they are; empty for likelihoods.
        """
        ours: dict[str, Any] = {"index": self.item.index, "item": self.item.text}
        if self.mean is None:
            ours |= {**names, "scores": list(self.scores)}
        else:
            ours |= {"score": self.scores[0], "mean": self.mean}
        ours |= {"probability": self.probability, "num_tokens": self.num_tokens}
        if self.rank is not None:
            ours["rank"] = self.rank
        return ours | {input_name(name): value for name, value in self.item.fields.items()}


OURS = {
    "index",
    "item",
    "labels",
    "classes",
    "score",
    "scores",
    "mean",
    "probability",
    "num_tokens",
    "rank",
}


def input_name(name: str) -> str:
    """Returns what a field of the input is called in the output."""
    return f"input_{name}" if name in OURS else name


def rows_of(
    items: Sequence[Item],
    request: TokenRequest,
    result: ScoreResult,
    rank_by: Literal["score", "mean"] | None,
) -> list[Row]:
    """Returns the rows of scored items in the order of the input, ranked if `rank_by` says by what."""
    by_label = result.scores.ndim == 2
    ranks: list[int | None] = [None] * len(items)
    if rank_by is not None:
        for rank, index in enumerate(_best_first(result, rank_by), 1):
            ranks[index] = rank
    # Whole columns at once: an array's element is slow to reach.
    scores = (result.scores if by_label else result.scores[:, None]).tolist()
    means = [None] * len(items) if by_label else result.mean_logprobs.tolist()
    tokens = [one.size for one in request.items] if by_label else result.num_tokens.tolist()
    return [
        Row(item, rank, tuple(of_item), mean, probability, number)
        for item, rank, of_item, mean, probability, number in zip(
            items, ranks, scores, means, result.ranking_probabilities.tolist(), tokens, strict=True
        )
    ]


def in_order(rows: list[Row], order: Order, top: int | None) -> Iterator[Row]:
    """Returns the rows to print, in their order."""
    if order != "input":
        rows = sorted(rows, key=lambda row: row.rank or 0)
    return iter(rows if top is None else rows[:top])


def _best_first(result: ScoreResult, rank_by: Literal["score", "mean"]) -> list[int]:
    if rank_by == "score":
        return result.best_first()
    order: list[int] = np.argsort(-result.mean_logprobs, kind="stable").tolist()
    return order
