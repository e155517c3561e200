"""What is asked: a query and its items as token ids, and how to score them. Importing this does not import jax."""

import dataclasses
from collections.abc import Sequence
from typing import get_args

import numpy as np
from jaxtyping import Int32

from isoprefill.modes import Delimiter, Isolation
from isoprefill.request.errors import RequestError
from isoprefill.request.labels import LabelSets

TextOrTokens = str | Sequence[int]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class TokenRequest:
    """A query and its items as token ids; none of them is empty.

    Attributes:
        query: what every item sees, with BOS if the text had one.
        items: what is scored, in the caller's order.
        labels: score log P(label | query, item); without, log P(item | query).
        isolation: "isolated", or "causal": items see the items before them.
        delimiter: whether a delimiter token stands between items; docs/design.md has the modes.
        delimiter_id: that token, unless `delimiter` is "none". It may be 0.
        item_first: score item + query, each as a request of its own: labels then follow the query, and a
            likelihood is log P(query | item).
        item_context_lens: for each item how many of its leading tokens belong to the query (they differ from item
            to item when query and item are tokenised as one text) and do not count in its likelihood; None is 0.
        return_token_logprobs: also return the log-probability of every token of the items.
        request_id: what to call the request in errors.
    """

    query: Int32[np.ndarray, "tokens"]
    items: tuple[Int32[np.ndarray, "tokens"], ...]
    labels: LabelSets | None = None
    isolation: Isolation = "isolated"
    delimiter: Delimiter = "none"
    delimiter_id: int | None = None
    item_first: bool = False
    item_context_lens: Int32[np.ndarray, "N"] | None = None
    return_token_logprobs: bool = False
    request_id: str = ""

    def __post_init__(self) -> None:
        if not self.query.size:
            raise RequestError(
                "query must hold at least 1 token, got 0", code="empty_query", param="query"
            )
        if not self.items:
            raise RequestError(
                "items must hold at least 1 item, got 0", code="empty_items", param="items"
            )
        for index, item in enumerate(self.items):
            if not item.size:
                raise RequestError(
                    f"items[{index}] must hold at least 1 token, got 0",
                    code="empty_item",
                    param=f"items[{index}]",
                )
        self._check_modes()
        self._check_delimiter()
        if self.labels is not None:
            self.labels.check_count(len(self.items))
        if self.item_context_lens is not None:
            lens = np.asarray([item.size for item in self.items])
            if self.item_context_lens.shape != lens.shape:
                raise ValueError(
                    f"item_context_lens must have shape {lens.shape}, got {self.item_context_lens.shape}"
                )
            outside = np.flatnonzero(
                (self.item_context_lens < 0) | (self.item_context_lens >= lens)
            )
            if outside.size:
                first = outside[0]
                raise ValueError(
                    f"item_context_lens[{first}] must be at least 0 and less than the item's {lens[first]} tokens, "
                    f"got {self.item_context_lens[first]}"
                )

    def _check_modes(self) -> None:
        if self.isolation not in get_args(Isolation):
            raise RequestError(
                f"isolation must be one of {get_args(Isolation)}, got {self.isolation!r}",
                code="invalid_isolation",
                param="isolation",
            )
        if self.isolation == "causal" and self.item_first:
            raise RequestError(
                "isolation 'causal' has no meaning with item_first: items are alone",
                code="invalid_isolation",
                param="isolation",
            )

    def _check_delimiter(self) -> None:
        if self.delimiter not in get_args(Delimiter):
            raise RequestError(
                f"delimiter must be one of {get_args(Delimiter)}, got {self.delimiter!r}",
                code="invalid_delimiter",
                param="delimiter",
            )
        if (self.delimiter == "none") != (self.delimiter_id is None):  # 0 is an id like any other
            raise RequestError(
                f"delimiter_id must be {'None' if self.delimiter == 'none' else 'a token id'} with delimiter "
                f"{self.delimiter!r}, got {self.delimiter_id}",
                code="invalid_delimiter",
                param="delimiter_id",
            )
        if self.delimiter_id is None:
            return
        parts = {"query": self.query} | {f"items[{i}]": item for i, item in enumerate(self.items)}
        for name, tokens in parts.items():
            places = np.flatnonzero(tokens == self.delimiter_id)
            if places.size:
                raise RequestError(
                    f"{name}[{places[0]}] is the delimiter token {self.delimiter_id}, which may stand only between "
                    "items",
                    code="delimiter_in_text",
                    param=f"{name}[{places[0]}]",
                )

    @property
    def num_tokens(self) -> int:
        """Tokens of the query and of all items, without delimiters."""
        return self.query.size + sum(item.size for item in self.items)

    @property
    def num_computed_tokens(self) -> int:
        """The same with the query counted as often as it must be computed: with item_first once for every item."""
        times = len(self.items) if self.item_first else 1
        return self.num_tokens + (times - 1) * self.query.size

    @property
    def num_rows(self) -> int:
        """Rows of one prefill of the query, all items and the delimiters."""
        delimiters = 0 if self.delimiter == "none" else len(self.items) + 1
        return self.num_tokens + delimiters
