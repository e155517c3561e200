"""Cuts the shuffled rows into blocks, the units of durable progress.

The rows have one order, whatever the blocks are: by the hash of the query, then (only where equal items are to meet) by
that of the item, then as they stood in the input. So the output does not depend on how many blocks there are. Every
part, a file that the shuffle wrote, has its rows in this order, and a block is an interval of each part.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64, UInt64

BUCKETS = 4096  # ranges of the query's hash, by its highest bits
BUCKET_SHIFT = 64 - 12


class Interval(NamedTuple):
    """The rows [begin, end) of a part."""

    part: int
    begin: int
    end: int


class Keys(NamedTuple):
    """What orders some rows of a part, and how many items each of them holds."""

    query: UInt64[np.ndarray, "n"]
    item: UInt64[np.ndarray, "n"]
    items: Int64[np.ndarray, "n"]


KeyReader = Callable[[Interval], Keys]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class PartIndex:
    """How many rows, and items in them, a part has in each bucket.

    Attributes:
        rows: [BUCKETS]
        items: [BUCKETS]
    """

    rows: Int64[np.ndarray, "buckets"]
    items: Int64[np.ndarray, "buckets"]

    def __post_init__(self) -> None:
        if self.rows.shape != (BUCKETS,) or self.items.shape != (BUCKETS,):
            raise ValueError(
                f"an index has {BUCKETS} buckets, got {self.rows.shape} and {self.items.shape}"
            )

    @classmethod
    def of(cls, keys: Keys) -> "PartIndex":
        """Counts the rows of a part."""
        bucket = (keys.query >> np.uint64(BUCKET_SHIFT)).astype(np.int64)
        rows = np.bincount(bucket, minlength=BUCKETS)
        items = np.zeros(BUCKETS, np.int64)
        np.add.at(items, bucket, keys.items)
        return cls(rows.astype(np.int64), items)

    def as_json(self) -> list[list[int]]:
        """Returns [bucket, rows, items] of each bucket that has rows."""
        used = np.flatnonzero(self.rows)
        return np.stack([used, self.rows[used], self.items[used]], axis=1).tolist()

    @classmethod
    def from_json(cls, value: Sequence[Sequence[int]]) -> "PartIndex":
        rows, items = np.zeros(BUCKETS, np.int64), np.zeros(BUCKETS, np.int64)
        for bucket, of_rows, of_items in value:
            rows[bucket], items[bucket] = of_rows, of_items
        return cls(rows, items)


Block = tuple[Interval, ...]


def plan_blocks(parts: Sequence[PartIndex], block_items: int, read: KeyReader) -> list[Block]:
    """Returns the blocks in their order; each has at most `block_items` items, or a single row.

    Queries with fewer items stay whole; others are cut into slices.

    Args:
        parts: in the order of the input.
        block_items: the limit.
        read: gives the keys of a bucket's rows in a part; called for buckets that do not fit into one block.
    """
    if block_items < 1:
        raise ValueError(f"block_items must be at least 1, got {block_items}")
    rows = np.stack([part.rows for part in parts]) if parts else np.zeros((0, BUCKETS), np.int64)
    ends = np.cumsum(rows, axis=1)
    of_bucket = sum((part.items for part in parts), np.zeros(BUCKETS, np.int64))
    present = np.flatnonzero(rows.sum(axis=0))
    pieces: list[tuple[Block, int]] = []  # with the number of items
    for bucket in present.tolist():
        block = _block(ends[:, bucket] - rows[:, bucket], ends[:, bucket])
        if of_bucket[bucket] <= block_items:
            pieces.append((block, int(of_bucket[bucket])))
        else:
            pieces += _cut(block, block_items, read)
    return list(_joined(pieces, block_items))


def automatic_block_items(total: int, replicas: int) -> int:
    """Returns how many items a block has at most: what the replicas hold in flight is a hundredth of all, or less.

    One replica loses at most one block, which may be larger then.
    """
    share = max(1, total // (100 * replicas))
    return min(MOST_BLOCK_ITEMS, max(share, LEAST_BLOCK_ITEMS) if replicas == 1 else share)


MOST_BLOCK_ITEMS = 65_536
LEAST_BLOCK_ITEMS = 2_048


def blocks_as_json(blocks: Sequence[Block]) -> list[Any]:
    return [[list(one) for one in block] for block in blocks]


def block_from_json(value: Sequence[Sequence[int]]) -> Block:
    return tuple(Interval(*one) for one in value)


def _block(begins: Int64[np.ndarray, "parts"], ends: Int64[np.ndarray, "parts"]) -> Block:
    used = np.flatnonzero(ends > begins).tolist()
    return tuple(Interval(part, int(begins[part]), int(ends[part])) for part in used)


def _cut(bucket: Block, block_items: int, read: KeyReader) -> Iterator[tuple[Block, int]]:
    """Cuts the rows of a bucket: between queries, inside a query that is too large between items, or anywhere."""
    keys = [read(interval) for interval in bucket]
    query, item, items = (np.concatenate(one) for one in zip(*keys, strict=True))
    source = np.repeat(np.arange(len(bucket)), [one.query.size for one in keys])
    order = np.lexsort((item, query))  # stable: equal ones stay in the order of the input
    query, item, items, source = query[order], item[order], items[order], source[order]
    before = np.concatenate([[0], np.cumsum(items)])
    borders = [
        np.flatnonzero(np.append(query[1:] != query[:-1], True)) + 1,
        np.flatnonzero(np.append((query[1:] != query[:-1]) | (item[1:] != item[:-1]), True)) + 1,
        np.arange(1, query.size + 1),
    ]
    begins = np.asarray([interval.begin for interval in bucket], np.int64)
    begin = 0
    while begin < query.size:
        most = int(np.searchsorted(before, before[begin] + block_items, side="right")) - 1
        ends_there = (_last_border(one, begin, most) for one in borders)
        end = next((one for one in ends_there if one > begin), begin + 1)
        ends = begins + np.bincount(source[begin:end], minlength=len(bucket))
        block = tuple(
            Interval(interval.part, int(begins[place]), int(ends[place]))
            for place, interval in enumerate(bucket)
            if ends[place] > begins[place]
        )
        yield block, int(before[end] - before[begin])
        begins, begin = ends, end


def _last_border(borders: Int64[np.ndarray, "n"], begin: int, most: int) -> int:
    """Returns the last border up to `most`, or `begin` if there is none behind it."""
    place = int(np.searchsorted(borders, most, side="right")) - 1
    return max(begin, int(borders[place])) if place >= 0 else begin


def _joined(pieces: Sequence[tuple[Block, int]], block_items: int) -> Iterator[Block]:
    """Joins pieces that follow one another, as far as a block holds them."""
    held: list[Block] = []
    number = 0
    for block, items in pieces:
        if held and number + items > block_items:
            yield _merged(held)
            held, number = [], 0
        held.append(block)
        number += items
    if held:
        yield _merged(held)


def _merged(pieces: Sequence[Block]) -> Block:
    intervals: dict[int, Interval] = {}
    for piece in pieces:
        for one in piece:
            known = intervals.get(one.part)
            intervals[one.part] = one if known is None else known._replace(end=one.end)
    return tuple(intervals[part] for part in sorted(intervals))
