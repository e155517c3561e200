"""Cuts requests into packs of a bounded number of rows. Importing this does not import jax."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, Int64

from isoprefill.request.token_request import TokenRequest

Tokens = Int32[np.ndarray, "tokens"]


class Rows(NamedTuple):
    """What stands in the rows of a pack.

    Attributes:
        tokens: of each row; below 0, -1 - i, it is `vectors[i]`.
        vectors: [R, E]; None: there are none.
    """

    tokens: Tokens
    vectors: Float32[np.ndarray, "R E"] | None = None


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
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
    """

    request: TokenRequest
    request_index: int
    prefix: Tokens
    items: tuple[Tokens, ...]
    indices: Int32[np.ndarray, "n"]
    prefix_cached: bool = False
    padded: bool = False

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
        """Rows of each item without padding, with the delimiter that closes it."""
        lens = np.asarray([item.size for item in self.items], np.int32)
        return lens + np.int32(self.request.options.delimiter != "none")

    @property
    def reads(self) -> Int64[np.ndarray, "n"]:
        """At how many rows each item is read for labels or classes."""
        token = self.request.options.extraction_token_id
        if token is None:
            return np.ones(len(self.items), np.int64)
        return np.asarray([(item == token).sum() for item in self.items], np.int64)

    @property
    def packed_items(self) -> tuple[Tokens, ...]:
        """The items, with zeros at their ends if they are padded."""
        if not self.padded:
            return self.items
        longest = max(item.size for item in self.items)
        return tuple(np.pad(item, (0, longest - item.size)) for item in self.items)

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
            return self._delimited(self.prefix, *self.packed_items)
        before = [np.asarray([], np.int32)] * self.prefix_rows
        return self._delimited(*before, *self.packed_items)

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


def single_item_packs(groups: Sequence[ItemGroup], budget: int) -> Iterator[Pack]:
    """Makes a pack of every item, whatever the budget."""
    for group in groups:
        for index in range(len(group.items)):
            yield (group.slice(index, index + 1),)


def full_packs(groups: Sequence[ItemGroup], budget: int) -> Iterator[Pack]:
    """Makes packs of at most `budget` rows, in order; an item that needs more with its prefix gets one of its own.

    The prefix, unless it is cached, is repeated in each pack that holds some of its items.
    """
    pack: list[ItemGroup] = []
    used = 0
    for group in groups:
        rows_before = np.concatenate([[0], np.cumsum(group.item_rows, dtype=np.int64)])
        begin, num_items = 0, len(group.items)
        while begin < num_items:
            room = budget - used - group.prefix_rows
            end = int(np.searchsorted(rows_before, rows_before[begin] + room, side="right")) - 1
            if group.request.options.isolation == "causal":  # must not be cut
                end = num_items if end == num_items or not pack else begin
            if end <= begin and pack:
                yield tuple(pack)
                pack, used = [], 0
                continue
            end = max(begin + 1, end)
            pack.append(group.slice(begin, end))
            used += group.prefix_rows + int(rows_before[end] - rows_before[begin])
            if end < num_items:
                yield tuple(pack)
                pack, used = [], 0
            begin = end
    if pack:
        yield tuple(pack)


def equal_length_batches(groups: Sequence[ItemGroup], budget: int) -> Iterator[Pack]:
    """Makes packs of one group each of items of similar length, padded to the longest.

    A pack has at most `budget` rows, or one item. They come by length: items lose the order of the request.
    """
    for group in groups:
        order = np.argsort(group.item_rows, kind="stable")
        rows = group.item_rows[order]
        room = budget - group.prefix_rows
        begin = 0
        while begin < order.size:
            # Each takes at least what the first takes, so no more than this can fit.
            longest = rows[begin : begin + max(1, room // rows[begin])]
            total = np.arange(1, longest.size + 1) * longest  # never falls
            end = begin + max(1, int(np.searchsorted(total, room, side="right")))
            chosen = order[begin:end]
            items = tuple(group.items[index] for index in chosen)
            indices = group.indices[chosen]
            yield (dataclasses.replace(group, items=items, indices=indices, padded=True),)
            begin = end
