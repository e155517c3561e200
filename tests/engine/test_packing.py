"""Requests are cut into steps of a bounded number of rows, with every item in one of them.

If one of these fails, memory grows with the list, or an item is scored twice, never, or as another.
"""

import numpy as np
import pytest

from isoprefill.execution.packing import chunks, equal_length_batches, one_by_one, packs, pieces
from isoprefill.request.token_request import TokenRequest

RANDOM = np.random.default_rng(0)


def request(num_items: int, longest: int, query_tokens: int = 10, **options) -> TokenRequest:
    """Items that begin with their index, so that a swap is seen."""
    lens = RANDOM.integers(1, longest + 1, num_items)
    items = tuple(np.full(length, index + 1, np.int32) for index, length in enumerate(lens))
    return TokenRequest(np.zeros(query_tokens, np.int32), items, **options)


def check(parts, num_items: int) -> None:
    """Every item of one request once, and under its own index."""
    seen = np.concatenate([part.indices for part in parts])
    np.testing.assert_array_equal(np.sort(seen), np.arange(num_items))
    for part in parts:
        assert [item[0] - 1 for item in part.items] == part.indices.tolist()


@pytest.mark.parametrize("delimiter", ["none", "hidden", "prefix_first"])
@pytest.mark.parametrize("num_items", [1, 100_000])
def test_chunks_are_bounded_and_full(num_items, delimiter):
    """100,000 items take a second: the time grows with the items and not with their square."""
    delimiter_id = None if delimiter == "none" else -1
    (piece,) = pieces([request(num_items, 3, delimiter=delimiter, delimiter_id=delimiter_id)])
    first = delimiter == "hidden"
    whole = list(chunks(piece, 4096))
    check(whole, num_items)
    rows = [int(part.item_rows.sum()) + first for part in whole]
    assert max(rows) <= 4096
    assert all(size >= 4096 - 4 for size in rows[:-1]), "another item would have fitted"
    padded = list(equal_length_batches(piece, 4096))
    check(padded, num_items)
    sizes = [len(part.items) * int(part.item_rows.max()) + first for part in padded]
    assert max(sizes) <= 4096
    if num_items > 1:
        assert sum(sizes) < 1.02 * sum(rows), "lengths are mixed"


@pytest.mark.parametrize("budget", [1, 12, 64, 300, 100_000])
def test_packs_are_bounded_and_several_requests_share_one(budget):
    requests = [request(count, 9) for count in (1, 50, 3, 7)]
    made = list(packs(pieces(requests), budget))
    for index, one in enumerate(requests):
        check([p for pack in made for p in pack if p.request_index == index], len(one.items))
    for pack in made:
        rows = sum(piece.num_rows for piece in pack)
        assert rows <= budget or (len(pack) == 1 and len(pack[0].items) == 1)
    assert (len(made) == 1) == (budget == 100_000)


def test_an_item_longer_than_the_budget_is_alone():
    (piece,) = pieces([request(3, 1)])
    long = piece.items[1].repeat(50)
    piece = pieces([TokenRequest(piece.prefix, (piece.items[0], long, piece.items[2]))])[0]
    for cut in (chunks, equal_length_batches):
        parts = sorted(part.indices.tolist() for part in cut(piece, 8))
        assert parts == ([[0], [1], [2]] if cut is chunks else [[0, 2], [1]])
    assert [len(pack) for pack in one_by_one([piece])] == [1, 1, 1]


def test_causal_requests_are_never_cut():
    causal = request(20, 5, isolation="causal")
    made = list(packs(pieces([request(4, 2), causal, request(4, 2)]), 30))
    assert [len(p.items) for pack in made for p in pack if p.request is causal] == [20]


def test_item_first_makes_a_prefix_of_every_item():
    made = pieces([request(4, 3, item_first=True)])
    assert [piece.indices.tolist() for piece in made] == [[0], [1], [2], [3]]
    assert [piece.prefix[0] for piece in made] == [1, 2, 3, 4]
    assert all(piece.items[0].size == 10 for piece in made)
