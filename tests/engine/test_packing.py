"""Requests are cut into steps of a bounded number of rows, with every item in one of them.

If one of these fails, memory grows with the list, or an item is scored twice, never, or as another.
"""

import dataclasses

import numpy as np
import pytest

from isoprefill.execution.packing import (
    equal_length_batches,
    full_packs,
    item_groups,
    single_item_packs,
)
from isoprefill.request.labels import LabelSets
from isoprefill.request.options import ScoreOptions
from isoprefill.request.token_request import TokenRequest

RANDOM = np.random.default_rng(0)


def request(num_items: int, longest: int, query_tokens: int = 10, **options) -> TokenRequest:
    """Items that begin with their index, so that a swap is seen."""
    lens = RANDOM.integers(1, longest + 1, num_items)
    items = tuple(np.full(length, index + 1, np.int32) for index, length in enumerate(lens))
    return TokenRequest(np.zeros(query_tokens, np.int32), items, ScoreOptions(**options))


def check(groups, num_items: int) -> None:
    """Every item of one request once, and under its own index."""
    seen = np.concatenate([group.indices for group in groups])
    np.testing.assert_array_equal(np.sort(seen), np.arange(num_items))
    for group in groups:
        assert [item[0] - 1 for item in group.items] == group.indices.tolist()


def over_prefix(cut, group, budget: int) -> list:
    """The packs of one group each that follow its cached prefix."""
    packs = list(cut([dataclasses.replace(group, prefix_cached=True)], budget))
    assert all(len(pack) == 1 for pack in packs)
    return [pack[0] for pack in packs]


@pytest.mark.parametrize("delimiter", ["none", "hidden", "prefix_first"])
@pytest.mark.parametrize("num_items", [1, 100_000])
def test_chunks_are_bounded_and_full(num_items, delimiter):
    """100,000 items take a second: the time grows with the items and not with their square."""
    delimiter_id = None if delimiter == "none" else -1
    (group,) = item_groups([request(num_items, 3, delimiter=delimiter, delimiter_id=delimiter_id)])
    first = delimiter == "hidden"
    chunks = over_prefix(full_packs, group, 4096)
    check(chunks, num_items)
    rows = [int(chunk.item_rows.sum()) + first for chunk in chunks]
    assert max(rows) <= 4096
    assert all(size >= 4096 - 4 for size in rows[:-1]), "another item would have fitted"
    padded = over_prefix(equal_length_batches, group, 4096)
    check(padded, num_items)
    sizes = [len(batch.items) * int(batch.item_rows.max()) + first for batch in padded]
    assert max(sizes) <= 4096
    for batch, size in ((chunks[0], rows[0]), (padded[0], sizes[0])):
        assert batch.tokens.size == size
    if num_items > 1:
        assert sum(sizes) < 1.02 * sum(rows), "lengths are mixed"


@pytest.mark.parametrize("cut", [full_packs, equal_length_batches])
def test_the_delimiters_of_branches_count(cut):
    """Each branch of an item's labels has one: short items with many labels beside a long one with a single label."""
    labels = LabelSets.per_item(
        [[[1, 2, 3], [4, 5, 6], [7, 8, 9], [2, 2, 2]]] * 43 + [[[1, 2]]] * 17, in_sequence=True
    )
    items = tuple(np.full(1 if index < 43 else 12, index + 1, np.int32) for index in range(60))
    options = ScoreOptions(labels=labels, delimiter="hidden", delimiter_id=-1)
    made = TokenRequest(np.zeros(10, np.int32), items, options)
    (group,) = item_groups([made])
    packs = over_prefix(cut, group, 64)
    check(packs, 60)
    assert max(pack.tokens.size for pack in packs) <= 64
    assert made.num_rows == group.tokens.size


@pytest.mark.parametrize("budget", [1, 12, 64, 300, 100_000])
def test_packs_are_bounded_and_several_requests_share_one(budget):
    requests = [request(count, 9) for count in (1, 50, 3, 7)]
    made = list(full_packs(item_groups(requests), budget))
    for index, one in enumerate(requests):
        own = [group for pack in made for group in pack if group.request_index == index]
        check(own, len(one.items))
    for pack in made:
        rows = sum(group.tokens.size for group in pack)
        assert rows <= budget or (len(pack) == 1 and len(pack[0].items) == 1)
    assert (len(made) == 1) == (budget == 100_000)


def test_an_item_longer_than_the_budget_is_alone():
    (group,) = item_groups([request(3, 1)])
    long = group.items[1].repeat(50)
    items = (group.items[0], long, group.items[2])
    (group,) = item_groups([TokenRequest(group.prefix, items)])
    for cut in (full_packs, equal_length_batches):
        parts = sorted(part.indices.tolist() for part in over_prefix(cut, group, 8))
        assert parts == ([[0], [1], [2]] if cut is full_packs else [[0, 2], [1]])
    assert [len(pack) for pack in single_item_packs([group], 1)] == [1, 1, 1]


def test_causal_requests_are_never_cut():
    causal = request(20, 5, isolation="causal")
    made = full_packs(item_groups([request(4, 2), causal, request(4, 2)]), 30)
    groups = [group for pack in made for group in pack]
    assert [len(group.items) for group in groups if group.request is causal] == [20]


def test_item_first_makes_a_prefix_of_every_item():
    groups = item_groups([request(4, 3, item_first=True)])
    assert [group.indices.tolist() for group in groups] == [[0], [1], [2], [3]]
    assert [group.prefix[0] for group in groups] == [1, 2, 3, 4]
    assert all(group.items[0].size == 10 for group in groups)
