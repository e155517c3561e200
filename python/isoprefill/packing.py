"""Cuts requests into packs of a bounded number of rows. Importing this does not import jax."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int32

from isoprefill.request import TokenRequest

Tokens = Int32[np.ndarray, "tokens"]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Items that share a prefix, in the order in which they are packed.

    Attributes:
        request: whose they are.
        request_index: its place in the batch.
        prefix: what all of them see, without any delimiter: the query, or with item_first an item.
        items: what is scored: items, or with item_first the query.
        indices: for each of `items` which item of the request its result belongs to.
    """

    request: TokenRequest
    request_index: int
    prefix: Tokens
    items: tuple[Tokens, ...]
    indices: Int32[np.ndarray, "n"]

    def cut(self, begin: int, end: int) -> "Piece":
        """The same prefix with only some of the items."""
        return dataclasses.replace(
            self, items=self.items[begin:end], indices=self.indices[begin:end]
        )

    @property
    def prefix_rows(self) -> int:
        """Rows before the first item, or with delimiters before its closing delimiter."""
        return self.prefix.size + (self.request.delimiter != "none")

    @property
    def item_rows(self) -> Int32[np.ndarray, "n"]:
        """Rows of each item, with the delimiter that closes it."""
        lens = np.asarray([item.size for item in self.items], np.int32)
        return lens + np.int32(self.request.delimiter != "none")

    @property
    def num_rows(self) -> int:
        return self.prefix_rows + int(self.item_rows.sum())

    def tokens(self) -> Tokens:
        """All rows: prefix, items and delimiters."""
        return np.concatenate([self.prefix, self.tokens_after_prefix()])

    def tokens_after_prefix(self) -> Tokens:
        """All rows after the prefix; with delimiters the first of them is one."""
        delimiter = self.request.delimiter_id
        if delimiter is None:
            return np.concatenate(self.items)
        between = np.asarray([delimiter], np.int32)
        return np.concatenate([between, *(part for item in self.items for part in (item, between))])


def pieces(requests: Sequence[TokenRequest]) -> list[Piece]:
    """One piece for each request, or with item_first one for each of its items."""
    made = []
    for place, request in enumerate(requests):
        if not request.item_first:
            indices = np.arange(len(request.items), dtype=np.int32)
            made.append(Piece(request, place, request.query, request.items, indices))
            continue
        for index, item in enumerate(request.items):
            made.append(
                Piece(request, place, item, (request.query,), np.asarray([index], np.int32))
            )
    return made


def one_by_one(all_pieces: Sequence[Piece]) -> Iterator[tuple[Piece, ...]]:
    """A pack for every item."""
    for piece in all_pieces:
        for index in range(len(piece.items)):
            yield (piece.cut(index, index + 1),)


def packs(all_pieces: Sequence[Piece], budget: int) -> Iterator[tuple[Piece, ...]]:
    """Packs of at most `budget` rows, in order; an item that needs more with its prefix gets a pack of its own.

    The prefix is repeated in each pack that holds some of its items.
    """
    pack: list[Piece] = []
    used = 0
    for piece in all_pieces:
        if piece.request.isolation == "causal":  # must not be cut
            if pack and used + piece.num_rows > budget:
                yield tuple(pack)
                pack, used = [], 0
            pack.append(piece)
            used += piece.num_rows
            continue
        begin = 0
        while begin < len(piece.items):
            ends = used + piece.prefix_rows + np.cumsum(piece.item_rows[begin:])
            fitting = int(np.searchsorted(ends, budget, side="right"))
            if not fitting and pack:
                yield tuple(pack)
                pack, used = [], 0
                continue
            end = begin + max(1, fitting)
            pack.append(piece.cut(begin, end))
            used = int(ends[end - begin - 1])
            if end < len(piece.items):
                yield tuple(pack)
                pack, used = [], 0
            begin = end
    if pack:
        yield tuple(pack)
