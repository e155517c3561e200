"""Cuts requests into packs of a bounded number of rows. Importing this does not import jax."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int32, Int64

from isoprefill.request.token_request import TokenRequest

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
    def _delimiter_rows(self) -> int:
        return int(self.request.delimiter != "none")

    @property
    def prefix_rows(self) -> int:
        """Rows before the first item."""
        return self.prefix.size + self._delimiter_rows

    @property
    def item_rows(self) -> Int32[np.ndarray, "n"]:
        """Rows of each item, with the delimiter that closes it."""
        lens = np.asarray([item.size for item in self.items], np.int32)
        return lens + np.int32(self._delimiter_rows)

    @property
    def rows_before(self) -> Int64[np.ndarray, "n+1"]:
        """Rows of all items before each, and of all."""
        return np.concatenate([[0], np.cumsum(self.item_rows, dtype=np.int64)])

    @property
    def num_rows(self) -> int:
        return self.prefix_rows + int(self.item_rows.sum())

    def tokens(self) -> Tokens:
        """The tokens of all rows: prefix, items and delimiters."""
        return self._with_delimiters([self.prefix], self.items)

    @property
    def cacheable_prefix(self) -> Tokens:
        """What can be computed before the items are known; the first delimiter if items see it."""
        if self.request.delimiter == "prefix_first":
            return self._with_delimiters([self.prefix], ())
        return self.prefix

    def tokens_after_cache(self, items: Sequence[Tokens]) -> Tokens:
        """The tokens of all rows after the cacheable prefix, with these for the items (which may be padded)."""
        hidden = (
            self.request.delimiter == "hidden"
        )  # then the first delimiter is no part of the prefix
        return self._with_delimiters([np.asarray([], np.int32)] if hidden else [], items)

    def padded_to(self, length: int) -> tuple[Tokens, ...]:
        """The items with zeros at their ends."""
        return tuple(np.pad(item, (0, length - item.size)) for item in self.items)

    def _with_delimiters(self, before: Sequence[Tokens], items: Sequence[Tokens]) -> Tokens:
        """All parts, each followed by the delimiter if there is one."""
        parts = [*before, *items]
        if self.request.delimiter_id is None:
            return np.concatenate(parts)
        delimiter = np.asarray([self.request.delimiter_id], np.int32)
        return np.concatenate([token for part in parts for token in (part, delimiter)])


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
        rows_before = piece.rows_before
        begin = 0
        while begin < len(piece.items):
            room = budget - used - piece.prefix_rows
            fitting = _fitting(rows_before, begin, room)
            if not fitting and pack:
                yield tuple(pack)
                pack, used = [], 0
                continue
            end = begin + max(1, fitting)
            pack.append(piece.cut(begin, end))
            used += piece.prefix_rows + int(rows_before[end] - rows_before[begin])
            if end < len(piece.items):
                yield tuple(pack)
                pack, used = [], 0
            begin = end
    if pack:
        yield tuple(pack)


def chunks(piece: Piece, budget: int) -> Iterator[Piece]:
    """The piece in parts of at most `budget` rows without its prefix, or of one item that needs more."""
    rows_before = piece.rows_before
    room = budget - (piece.request.delimiter == "hidden")
    begin = 0
    while begin < len(piece.items):
        end = begin + max(1, _fitting(rows_before, begin, room))
        yield piece.cut(begin, end)
        begin = end


def equal_length_batches(piece: Piece, budget: int) -> Iterator[Piece]:
    """The piece in parts of items of similar length: padded to the longest of a part, at most `budget` rows.

    Parts come by length, so items come in another order than the request's.
    """
    order = np.argsort(piece.item_rows, kind="stable")
    lens = piece.item_rows[order]
    room = budget - (piece.request.delimiter == "hidden")
    begin = 0
    while begin < order.size:
        # Each takes at least what the first takes, so no more than this can fit.
        longest = lens[begin : begin + max(1, room // lens[begin])]
        padded = np.arange(1, longest.size + 1) * longest  # never falls
        end = begin + max(1, int(np.searchsorted(padded, room, side="right")))
        chosen = order[begin:end]
        yield dataclasses.replace(
            piece,
            items=tuple(piece.items[index] for index in chosen),
            indices=piece.indices[chosen],
        )
        begin = end


def _fitting(rows_before: Int64[np.ndarray, "n+1"], begin: int, room: int) -> int:
    """How many items from `begin` on fit into so many rows."""
    fitting = int(np.searchsorted(rows_before, rows_before[begin] + room, side="right"))
    return max(0, fitting - 1 - begin)
