"""Cuts requests into packs of a bounded number of rows. Importing this does not import jax."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, Int64

from isoprefill.execution.branches import Branches, Tokens
from isoprefill.request.label_trie import LabelTrie
from isoprefill.request.token_request import COLUMNS_OF_A_TOKEN, TokenRequest

# Columns of a pack that repeat others, for each row that it may have: as much memory again as half of the rows take.
REPEATED_COLUMNS = COLUMNS_OF_A_TOKEN // 2


class Rows(NamedTuple):
    """What stands in the rows of a pack.

    Attributes:
        tokens: of each row; below 0, -1 - i, it is `vectors[i]`.
        vectors: [R, E]; None: there are none.
    """

    tokens: Tokens
    vectors: Float32[np.ndarray, "R E"] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class ItemGroup:
    """Items of one request that share a prefix, in the order in which they are packed.

    Attributes:
        request: whose they are.
        request_index: its place in the batch.
        prefix: what all of them see, without any delimiter: the query, or with item_first an item.
        items: what is scored: items, or with item_first the query.
        indices: for each of `items` which item of the request its result belongs to.
        prefix_cached: whether the rows are only what follows `cacheable_prefix`.
        padded: whether each item takes as many rows as the longest.
        label_range: of labels with tokens to be computed, which ones are scored; None: all.
    """

    request: TokenRequest
    request_index: int
    prefix: Tokens
    items: tuple[Tokens, ...]
    indices: Int32[np.ndarray, "n"]
    prefix_cached: bool = False
    padded: bool = False
    label_range: tuple[int, int] | None = None

    def slice(self, begin: int, end: int) -> "ItemGroup":
        """Returns the same prefix with only some of the items."""
        return dataclasses.replace(
            self, items=self.items[begin:end], indices=self.indices[begin:end]
        )

    @property
    def prefix_rows(self) -> int:
        """Rows before the first item."""
        delimiter = self.request.options.delimiter
        if self.prefix_cached:
            return int(delimiter == "hidden")  # which is no part of the cached prefix
        return self.prefix.size + int(delimiter != "none")

    @property
    def item_rows(self) -> Int32[np.ndarray, "n"]:
        """Rows of each item and its labels without padding, with the delimiters that close it and its branches."""
        return self.token_rows + self.closing_delimiters

    @property
    def token_rows(self) -> Int32[np.ndarray, "n"]:
        """Rows of each item and its labels without padding and delimiters."""
        rows = np.asarray([item.size for item in self.items], np.int32)
        if (tries := self.tries) is not None:
            rows += np.asarray([trie.tokens.size for trie in tries], np.int32)
        return rows

    @property
    def closing_delimiters(self) -> Int32[np.ndarray, "n"]:
        """How many delimiters close each item: one for each of its branches, if there are delimiters."""
        if self.request.options.delimiter == "none":
            return np.zeros(len(self.items), np.int32)
        if (tries := self.tries) is None:
            return np.ones(len(self.items), np.int32)
        return np.asarray([trie.num_branches for trie in tries], np.int32)

    @property
    def repeated_columns(self) -> Int64[np.ndarray, "n"]:
        """For each item how many columns of its labels' branches repeat those of others, at most."""
        if (tries := self.tries) is None:
            return np.zeros(len(self.items), np.int64)
        return np.asarray(
            [
                (trie.num_branches - 1) * (item.size + int(trie.depths.max(initial=0)))
                for item, trie in zip(self.items, tries, strict=True)
            ],
            np.int64,
        )

    @functools.cached_property
    def tries(self) -> list[LabelTrie] | None:
        """The trees of the items' labels, if these have tokens that must be computed."""
        labels = self.request.options.labels
        if labels is None or not labels.needs_rows:
            return None
        return labels.tries(self.indices, self.label_range)

    @property
    def num_done(self) -> int:
        """How many items of the request have all their scores with these."""
        labels = self.request.options.labels
        if self.label_range is None or labels is None:
            return len(self.items)
        return len(self.items) if self.label_range[1] == labels.token_ids.shape[1] else 0

    @property
    def reads(self) -> Int64[np.ndarray, "n"]:
        """At how many rows each item is read for labels or classes."""
        token = self.request.options.extraction_token_id
        if token is None:
            return np.ones(len(self.items), np.int64)
        return np.asarray([(item == token).sum() for item in self.items], np.int64)

    @functools.cached_property
    def branches(self) -> Branches:
        """The items with their labels, as a layout has them, with zeros at their ends if they are padded."""
        return Branches.of(self.items, self.tries, self.padded)

    @property
    def cacheable_prefix(self) -> Tokens:
        """What can be computed before the items are known; the first delimiter if items see it."""
        if self.request.options.delimiter == "prefix_first":
            return self._delimited(self.prefix)
        return self.prefix

    @property
    def tokens(self) -> Tokens:
        """The tokens of all rows: prefix (unless it is cached), items and delimiters."""
        if not self.prefix_cached:
            return self._delimited(self.prefix, *self.branches.rows)
        before = [np.asarray([], np.int32)] * self.prefix_rows
        return self._delimited(*before, *self.branches.rows)

    def _delimited(self, *parts: Tokens) -> Tokens:
        """Joins the parts, each followed by the delimiter if there is one."""
        if self.request.options.delimiter_id is None:
            return np.concatenate(parts)
        delimiter = np.asarray([self.request.options.delimiter_id], np.int32)
        return np.concatenate([tokens for part in parts for tokens in (part, delimiter)])


Pack = tuple[ItemGroup, ...]


def pack_rows(pack: Pack) -> Rows:
    """Returns the rows of a pack, with the vectors that they need and no others."""
    return joined_rows([Rows(group.tokens, group.request.vectors) for group in pack])


def joined_rows(parts: Sequence[Rows]) -> Rows:
    """Returns rows after one another, each with vectors of its own, as rows with vectors in common."""
    tokens, vectors, number = [], [], 0
    for part in parts:
        places = np.flatnonzero(part.tokens < 0)
        own = part.tokens
        if places.size:
            assert part.vectors is not None
            vectors.append(part.vectors[-1 - own[places]])
            own = own.copy()
            own[places] = -1 - np.arange(number, number + places.size)
            number += places.size
        tokens.append(own)
    return Rows(np.concatenate(tokens), np.concatenate(vectors) if vectors else None)


def item_groups(requests: Sequence[TokenRequest]) -> list[ItemGroup]:
    """Returns one group for each request, or with item_first one for each of its items."""
    groups = []
    for place, request in enumerate(requests):
        indices = np.arange(len(request.items), dtype=np.int32)
        if not request.options.item_first:
            groups.append(ItemGroup(request, place, request.query, request.items, indices))
            continue
        for index, item in enumerate(request.items):
            own = indices[index : index + 1]
            groups.append(ItemGroup(request, place, item, (request.query,), own))
    return groups


def with_bounded_columns(groups: Sequence[ItemGroup], budget: int) -> Iterator[ItemGroup]:
    """Cuts the labels of items whose columns would repeat others too often for packs of `budget` rows.

    Such an item is scored several times, each time by some of its labels.
    """
    most = REPEATED_COLUMNS * budget
    for group in groups:
        begin = 0
        for index in np.flatnonzero(group.repeated_columns > most).tolist():
            if begin < index:
                yield group.slice(begin, index)
            labels = group.request.options.labels
            assert labels is not None
            _, num_labels, tokens = labels.token_ids.shape
            at_once = 1 + most // (group.items[index].size + tokens)
            for first in range(0, num_labels, at_once):
                label_range = (first, min(first + at_once, num_labels))
                yield dataclasses.replace(group.slice(index, index + 1), label_range=label_range)
            begin = index + 1
        if begin < len(group.items):
            yield group.slice(begin, len(group.items)) if begin else group


def single_item_packs(groups: Sequence[ItemGroup], budget: int) -> Iterator[Pack]:
    """Makes a pack of every item, whatever the budget."""
    for group in groups:
        for index in range(len(group.items)):
            yield (group.slice(index, index + 1),)


def full_packs(groups: Sequence[ItemGroup], budget: int) -> Iterator[Pack]:
    """Makes packs of at most `budget` rows, in order; an item that needs more with its prefix gets one of its own.

    The prefix, unless it is cached, is repeated in each pack that holds some of its items. A pack's columns that repeat
    others are bounded likewise.
    """
    pack: list[ItemGroup] = []
    used = repeated = 0
    for group in groups:
        rows_before = np.concatenate([[0], np.cumsum(group.item_rows, dtype=np.int64)])
        columns_before = np.concatenate([[0], np.cumsum(group.repeated_columns)])
        begin, num_items = 0, len(group.items)
        while begin < num_items:
            room = budget - used - group.prefix_rows
            end = int(np.searchsorted(rows_before, rows_before[begin] + room, side="right")) - 1
            column_room = REPEATED_COLUMNS * budget - repeated
            last_column = columns_before[begin] + column_room
            end = min(end, int(np.searchsorted(columns_before, last_column, side="right")) - 1)
            if group.request.options.isolation == "causal":  # must not be cut
                end = num_items if end == num_items or not pack else begin
            if end <= begin and pack:
                yield tuple(pack)
                pack, used, repeated = [], 0, 0
                continue
            end = max(begin + 1, end)
            pack.append(group.slice(begin, end))
            used += group.prefix_rows + int(rows_before[end] - rows_before[begin])
            repeated += int(columns_before[end] - columns_before[begin])
            if end < num_items:
                yield tuple(pack)
                pack, used, repeated = [], 0, 0
            begin = end
    if pack:
        yield tuple(pack)


def equal_length_batches(groups: Sequence[ItemGroup], budget: int) -> Iterator[Pack]:
    """Makes packs of one group each of items of similar length, padded to the longest.

    A pack has at most `budget` rows, or one item. They come by length: items lose the order of the request.
    """
    for group in groups:
        order = np.argsort(group.token_rows, kind="stable")
        rows = group.token_rows[order]
        # Padding makes the tokens of items equally many, not their delimiters.
        delimiters = np.concatenate([[0], np.cumsum(group.closing_delimiters[order])])
        repeated = np.cumsum(group.repeated_columns[order])
        room = budget - group.prefix_rows
        begin = 0
        while begin < order.size:
            # Each takes at least what the first takes, so no more than this can fit.
            longest = rows[begin : begin + max(1, room // rows[begin])]
            total = np.arange(1, longest.size + 1) * longest  # never falls
            total += delimiters[begin + 1 : begin + 1 + longest.size] - delimiters[begin]
            fitting = int(np.searchsorted(total, room, side="right"))
            most = repeated[begin - 1] * (begin > 0) + REPEATED_COLUMNS * budget
            fitting = min(fitting, int(np.searchsorted(repeated, most, side="right")) - begin)
            end = begin + max(1, fitting)
            chosen = order[begin:end]
            items = tuple(group.items[index] for index in chosen)
            indices = group.indices[chosen]
            yield (dataclasses.replace(group, items=items, indices=indices, padded=True),)
            begin = end
