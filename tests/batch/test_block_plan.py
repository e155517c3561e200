"""How shuffled rows are cut into blocks, judged by sorting all rows at once.

If one of these fails, rows are lost or doubled, a query is computed more often than it must be, or the output depends
on how many blocks there are.
"""

import numpy as np
import pytest

from isoprefill.batch.block_plan import (
    MOST_BLOCK_ITEMS,
    Interval,
    Keys,
    PartIndex,
    automatic_block_items,
    block_from_json,
    blocks_as_json,
    plan_blocks,
)


def sorted_parts(rng, sizes, num_queries, hot=0.0, num_items=None):
    """Parts of random rows, each in the order of the output; a share `hot` of all has one query."""
    queries = rng.integers(0, 1 << 64, num_queries, dtype=np.uint64)
    parts = []
    for size in sizes:
        query = queries[rng.integers(0, num_queries, size)]
        query[rng.random(size) < hot] = queries[0]
        item = np.zeros(size, np.uint64)
        if num_items is not None:
            item = rng.integers(0, num_items, size).astype(np.uint64)
        order = np.lexsort((item, query))
        parts.append(Keys(query[order], item[order], rng.integers(1, 4, size)))
    return parts


def planned(parts, block_items):
    def read(interval: Interval) -> Keys:
        keys = parts[interval.part]
        return Keys(*(one[interval.begin : interval.end] for one in keys))

    return plan_blocks([PartIndex.of(part) for part in parts], block_items, read)


def rows_of(parts, block):
    """(query, item, part, row) of the rows of a block, in the order in which they are scored."""
    rows = [
        (int(parts[one.part].query[row]), int(parts[one.part].item[row]), one.part, row)
        for one in block
        for row in range(one.begin, one.end)
    ]
    return sorted(rows)


SHAPES = {
    "many queries": ([700, 1, 0, 900], 300, 0.0, None),
    "one hot query": ([500, 800], 40, 0.6, None),
    "one query": ([300, 300, 1], 1, 0.0, None),
    "equal items": ([600, 600], 5, 0.5, 30),
    "one item": ([400, 300], 1, 0.0, 1),
}


@pytest.fixture(params=SHAPES.values(), ids=SHAPES.keys())
def parts(request):
    return sorted_parts(np.random.default_rng(7), *request.param)


@pytest.mark.parametrize("block_items", [1, 7, 100, 100_000])
def test_the_blocks_are_all_rows_in_one_order(parts, block_items):
    """Whatever a block holds: nothing is lost, nothing comes twice, and the order is that of one sort."""
    everything = sorted(
        (int(keys.query[row]), int(keys.item[row]), part, row)
        for part, keys in enumerate(parts)
        for row in range(keys.query.size)
    )
    blocks = planned(parts, block_items)
    assert [row for block in blocks for row in rows_of(parts, block)] == everything


@pytest.mark.parametrize("block_items", [1, 7, 100])
def test_a_block_has_no_more_items_than_it_may(parts, block_items):
    """Or memory would grow with the largest query."""
    for block in planned(parts, block_items):
        rows = rows_of(parts, block)
        assert len(rows) == 1 or sum(int(parts[p].items[r]) for _, _, p, r in rows) <= block_items


@pytest.mark.parametrize("block_items", [7, 100, 500])
def test_only_queries_that_fit_into_no_block_are_cut(parts, block_items):
    """Or queries are computed again for some of their items."""
    sizes: dict[int, int] = {}
    for keys in parts:
        for query, items in zip(keys.query.tolist(), keys.items.tolist(), strict=True):
            sizes[query] = sizes.get(query, 0) + items
    homes: dict[int, set[int]] = {}
    for number, block in enumerate(planned(parts, block_items)):
        for query, *_ in rows_of(parts, block):
            homes.setdefault(query, set()).add(number)
    cut = {query for query, blocks in homes.items() if len(blocks) > 1}
    assert {query for query in cut if sizes[query] <= block_items} == set()
    assert cut == {query for query, size in sizes.items() if size > block_items}


def test_equal_items_of_a_hot_query_meet():
    """Or their text is scored in several blocks although it was to be scored once."""
    parts = sorted_parts(np.random.default_rng(1), [600, 600], 1, 0.0, 100)
    blocks = planned(parts, 200)
    assert len(blocks) > 5
    homes: dict[int, set[int]] = {}
    for number, block in enumerate(blocks):
        for _, item, *_ in rows_of(parts, block):
            homes.setdefault(item, set()).add(number)
    assert all(len(numbers) == 1 for numbers in homes.values())


def test_blocks_are_full():
    """Small blocks would be small files, and packs that are not full."""
    parts = sorted_parts(np.random.default_rng(3), [5000], 500)
    total = int(parts[0].items.sum())
    assert len(planned(parts, 1000)) <= 2 * total / 1000


def test_a_plan_survives_its_file():
    parts = sorted_parts(np.random.default_rng(5), [50, 60], 9)
    blocks = planned(parts, 20)
    assert [block_from_json(one) for one in blocks_as_json(blocks)] == blocks
    index = PartIndex.of(parts[0])
    again = PartIndex.from_json(index.as_json())
    assert (again.rows == index.rows).all()
    assert (again.items == index.items).all()


@pytest.mark.parametrize("total", [1, 500, 20_000, 200_000, 10_000_000, 100_000_000_000])
@pytest.mark.parametrize("replicas", [2, 8, 300])
def test_replicas_hold_a_hundredth_or_less(total, replicas):
    """What is in flight when the driver is killed is computed twice."""
    block = automatic_block_items(total, replicas)
    assert 1 <= block <= MOST_BLOCK_ITEMS
    assert block == 1 or block * replicas <= total / 100


def test_a_block_of_nothing_is_refused():
    with pytest.raises(ValueError, match="block_items must be at least 1, got 0"):
        plan_blocks([], 0, lambda interval: None)
    assert plan_blocks([], 1, lambda interval: None) == []
