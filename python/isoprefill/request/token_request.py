"""A query and its items as token ids, and how to score them. Importing this does not import jax."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Annotated

import numpy as np
from jaxtyping import Bool, Float, Float32, Int32, Int64

from isoprefill.request.errors import RequestError
from isoprefill.request.options import ScoreOptions

# Text, token ids, or an array of floating-point vectors [vectors, E].
TextOrTokens = str | Sequence[int] | Float[np.ndarray, "vectors E"]
# Annotated: msgspec, which decodes requests, would take 5 us to check the bare type of an item.
Tokens = Annotated[np.ndarray, Int32[np.ndarray, "tokens"]]
# A token's key and value cost about this part of what the token costs, in memory and time.
COLUMNS_OF_A_TOKEN = 16
Vectors = Annotated[np.ndarray, Float32[np.ndarray, "vectors E"]]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class TokenRequest:
    """A query and its items as token ids; none of them is empty.

    An id below 0, -1 - i, is no token but `vectors[i]`, which the model takes instead of a token's embedding.

    Attributes:
        query: what every item sees, with BOS if the text had one.
        items: what is scored, in the caller's order.
        options: how.
        item_context_lens: for each item how many of its leading tokens belong to the query (they differ from item
            to item when query and item are tokenised as one text) and do not count in its likelihood; None is 0.
        request_id: what to call the request in errors.
        vectors: [vectors, E] what ids below 0 stand for; None: there are none.
    """

    query: Tokens
    items: tuple[Tokens, ...]
    options: ScoreOptions = dataclasses.field(default_factory=ScoreOptions)
    item_context_lens: Int32[np.ndarray, "N"] | None = None
    request_id: str = ""
    vectors: Vectors | None = None

    def __post_init__(self) -> None:
        if any(part.dtype != np.int32 or part.ndim != 1 for part in (self.query, *self.items)):
            raise ValueError("query and items must be int32 arrays of one axis each")
        if not self.query.size:
            raise RequestError("empty_query", "query")
        if not self.items:
            raise RequestError("empty_items", "items")
        lens = self.item_lens
        if not lens.all():
            raise RequestError("empty_item", "items", int(lens.argmin()))
        delimiter = self.options.delimiter_id
        if delimiter is not None:
            place = self.first_place(lambda tokens: tokens == delimiter)
            if place is not None:
                raise RequestError("delimiter_in_text", *place, value=delimiter)
        if self.options.labels is not None:
            self.options.labels.check_count(len(self.items))
        if self.item_context_lens is not None:
            self._check_context(self.item_context_lens, lens)
        if self.vectors is not None:
            self._check_vectors(self.vectors)
        if self.options.extraction_token_id is not None:
            self._check_extraction(self.options.extraction_token_id)

    def _check_vectors(self, vectors: Float32[np.ndarray, "vectors E"]) -> None:
        if vectors.dtype != np.float32 or vectors.ndim != 2:
            raise ValueError(
                f"vectors must be float32 [vectors, width], got {vectors.dtype} {list(vectors.shape)}"
            )
        most = int(-min(part.min() for part in (self.query, *self.items)))
        if most > len(vectors):
            raise ValueError(f"query and items need {most} vectors, got {len(vectors)}")

    def _check_extraction(self, token: int) -> None:
        """Every item must have the token, or there is nothing to read; the query must not."""
        if (self.query == token).any():
            raise RequestError("invalid_extraction_token.query", "query", value=token)
        empty = np.flatnonzero(self.reads == 0)
        if empty.size:
            raise RequestError("invalid_extraction_token.item", "items", int(empty[0]), value=token)

    def _check_context(self, context: Int32[np.ndarray, "N"], lens: Int64[np.ndarray, "N"]) -> None:
        if context.shape != lens.shape:
            raise ValueError(f"item_context_lens must have shape {lens.shape}, got {context.shape}")
        outside = np.flatnonzero((context < 0) | (context >= lens))
        if outside.size:
            first = outside[0]
            raise ValueError(
                f"item_context_lens[{first}] must be at least 0 and less than the item's {lens[first]} tokens, "
                f"got {context[first]}"
            )

    @property
    def item_lens(self) -> Int64[np.ndarray, "N"]:
        """How many tokens each item has."""
        return np.asarray([item.size for item in self.items], np.int64)

    @property
    def reads(self) -> Int64[np.ndarray, "N"]:
        """At how many of its tokens each item is read for labels or classes: once, or at every extraction token."""
        token = self.options.extraction_token_id
        if token is None:
            return np.ones(len(self.items), np.int64)
        return np.asarray([(item == token).sum() for item in self.items], np.int64)

    @property
    def num_reads(self) -> int:
        """At how many tokens all items together are read."""
        if self.options.extraction_token_id is None:
            return len(self.items)
        return int(self.reads.sum())

    @property
    def num_tokens(self) -> int:
        """Tokens of the query and of all items, without delimiters."""
        return self.query.size + sum(item.size for item in self.items)

    @property
    def num_computed_tokens(self) -> int:
        """Tokens that must be computed: with item_first the query once for every item, and tokens of labels.

        What labels of several tokens repeat of their items counts too, for what it costs.
        """
        times = len(self.items) if self.options.item_first else 1
        computed = self.num_tokens + (times - 1) * self.query.size
        if self.options.labels is None or not self.options.labels.needs_rows:
            return computed
        computed += int(self.label_rows.sum())
        return computed + int(self.repeated_columns.sum()) // COLUMNS_OF_A_TOKEN

    @property
    def num_rows(self) -> int:
        """Rows of one prefill of the query, all items with their labels, and the delimiters."""
        rows = self.num_tokens + int(self.label_rows.sum() + self.closing_delimiters.sum())
        return rows + int(self.options.delimiter != "none")

    @property
    def label_rows(self) -> Int64[np.ndarray, "N"]:
        """How many tokens of labels must be computed after each item: of labels of several tokens all but the last."""
        labels, num_items = self.options.labels, len(self.items)
        return np.zeros(num_items, np.int64) if labels is None else labels.num_rows(num_items)

    @property
    def closing_delimiters(self) -> Int64[np.ndarray, "N"]:
        """How many delimiters close each item: one, or one for each branch of its labels; none without delimiters."""
        num_items, labels = len(self.items), self.options.labels
        if self.options.delimiter == "none":
            return np.zeros(num_items, np.int64)
        return np.ones(num_items, np.int64) if labels is None else labels.num_branches(num_items)

    @property
    def repeated_columns(self) -> Int64[np.ndarray, "N"]:
        """How many keys and values stand twice, at most, so that each branch of an item's labels follows the item."""
        labels, num_items = self.options.labels, len(self.items)
        if labels is None or not labels.needs_rows:
            return np.zeros(num_items, np.int64)
        item_lens = self.query.size if self.options.item_first else self.item_lens
        others = labels.num_branches(num_items) - 1
        return others * (item_lens + labels.most_rows(num_items))

    def first_place(
        self,
        wrong: Callable[[Tokens], Bool[np.ndarray, "tokens"]],
    ) -> tuple[str, *tuple[int, ...]] | None:
        """Returns the field and the index of the first token of query and items that is wrong, if there is one."""
        places = wrong(np.concatenate((self.query, *self.items))).nonzero()[0]
        if not places.size:
            return None
        place = int(places[0]) - self.query.size
        if place < 0:
            return "query", int(places[0])
        ends = np.cumsum(self.item_lens)
        item = int(np.searchsorted(ends, place, side="right"))
        return "items", item, place - int(ends[item] - self.items[item].size)

    def slice(self, begin: int, end: int) -> "TokenRequest":
        """Returns the request with only some of its items."""
        if begin == 0 and end == len(self.items):
            return self
        labels, context = self.options.labels, self.item_context_lens
        if labels is not None:
            labels = labels.slice(begin, end)
        return dataclasses.replace(
            self,
            items=self.items[begin:end],
            options=dataclasses.replace(self.options, labels=labels),
            item_context_lens=None if context is None else context[begin:end],
        )
