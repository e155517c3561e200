"""Requests that make the engine compile what a workload needs. Importing this does not import jax."""

import dataclasses
import re
from typing import Any, get_args

import numpy as np

from isoprefill.modes import AlgorithmChoice
from isoprefill.request.labels import LabelSets
from isoprefill.request.token_request import TokenRequest

_FORM = re.compile(r"(\d+)\+(\d+)x(\d+)(?::(\d+))?(?:@(\w+))?")


@dataclasses.dataclass(frozen=True, slots=True)
class Workload:
    """Requests of about one size.

    Attributes:
        query_tokens: tokens of the query.
        num_items: how many items.
        item_tokens: tokens of each item.
        num_labels: labels; 0 for likelihoods.
        algorithm: how they will be scored.
    """

    query_tokens: int
    num_items: int
    item_tokens: int
    num_labels: int = 0
    algorithm: AlgorithmChoice = "auto"

    def __post_init__(self) -> None:
        for name in ("query_tokens", "num_items", "item_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.num_labels < 0:
            raise ValueError(f"num_labels must be at least 0, got {self.num_labels}")
        if self.algorithm not in get_args(AlgorithmChoice):
            raise ValueError(
                f"algorithm must be one of {get_args(AlgorithmChoice)}, got {self.algorithm!r}"
            )

    @classmethod
    def parse(cls, text: str) -> "Workload":
        """Reads "2000+500x20:2@packed": query, items x tokens, labels (none: likelihoods) and algorithm (auto).

        Raises:
            ValueError: if it is of another form.
        """
        match = _FORM.fullmatch(text)
        if match is None:
            raise ValueError(
                f"workload must be like '2000+500x20' or '2000+500x20:2@packed', got {text!r}"
            )
        query, items, length, labels = (int(number or 0) for number in match.groups()[:4])
        algorithm: Any = match[5] or "auto"  # checked below
        return cls(query, items, length, labels, algorithm)

    def request(self, most_items: int) -> TokenRequest:
        """A request of this size with no content, of at most so many items."""
        labels = None
        if self.num_labels:
            labels = LabelSets.shared([0] * self.num_labels)
        item = np.zeros(self.item_tokens, np.int32)
        return TokenRequest(
            np.zeros(self.query_tokens, np.int32),
            (item,) * min(self.num_items, most_items),
            labels=labels,
            request_id=f"warm-up {self}",
        )

    def items_worth_computing(self, rows_at_once: int, lanes: int) -> int:
        """So many items that a full step and the last, shorter one are computed, and no more."""
        at_once = max(1, rows_at_once // self.item_tokens) * lanes
        if self.num_items <= at_once:
            return self.num_items
        return at_once + self.num_items % at_once
