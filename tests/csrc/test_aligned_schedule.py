"""The schedule of the XLA back end covers each visible pair once, in an order that does not depend on the pack."""

import itertools

import numpy as np
from hypothesis import strategies as st

from csrc_layout import build
from mask_definition import RequestSpec, define
from random_packs import cases, packs, requests, windows


def outside_windows(specs, window, pad_to=None):
    """bool [T, S]: what only the window hides."""
    return define(specs, pad_to).mask & ~define(specs, pad_to, window=window).mask


def times_covered(layout, schedule, hidden, block_q, block_kv, local_block):
    """int [T, S]: by how many tiles and blocks each pair is covered; checks what a visit promises."""
    covered = np.zeros((layout.num_rows, layout.num_columns), int)
    prefix_begin, prefix_end, own_begin, _ = layout.row_intervals
    for row_begin, row_end, column_begin, column_end, kind in schedule.tile_visits.T:
        assert 0 < row_end - row_begin <= block_q
        assert 0 < column_end - column_begin <= block_kv
        rows, columns = slice(row_begin, row_end), np.arange(column_begin, column_end)
        assert np.unique(layout.request_ids[rows]).size == 1
        assert kind == 0 or np.unique(layout.segment_ids[rows]).size == 1
        begin, end = (prefix_begin, prefix_end) if kind == 0 else (own_begin, schedule.tile_own_end)
        seen = (begin[rows, None] <= columns) & (columns < end[rows, None])
        seen &= ~hidden[rows, column_begin:column_end]
        assert seen.any(), "a tile without a visible pair"
        covered[rows, column_begin:column_end] += seen
    first_row = {column: row for row, column in enumerate(layout.row_columns) if column >= 0}
    for index, (row, column, length) in enumerate(schedule.local_blocks.T):
        assert 0 < length <= local_block
        columns = np.arange(column, column + length)
        present = [offset for offset in range(length) if column + offset in first_row]
        # What the item shares with the item before it has no rows, and is at its beginning.
        assert present == list(range(present[0], length))
        for offset in present:
            assert first_row[column + offset] == row + offset
            assert schedule.row_slot[row + offset] == index * local_block + offset
            covered[row + offset, columns[: offset + 1]] += ~hidden[
                row + offset, columns[: offset + 1]
            ]
    return covered


block_sizes = st.tuples(st.integers(1, 24), st.integers(1, 24), st.integers(1, 24))


@cases(packs, block_sizes, st.integers(0, 9), windows)
def test_aligned_schedule_covers_each_visible_pair_once(specs, blocks, padding, window):
    """For every block size; nothing else is covered."""
    block_q, block_kv, local_block = blocks[0], blocks[1], min(blocks[0], blocks[2])
    rows = define(specs).segment_ids.size + padding
    layout = build(specs, rows, window=window)
    schedule = layout.aligned_schedule(block_q=block_q, block_kv=block_kv, local_block=local_block)
    hidden = outside_windows(specs, window, rows)
    covered = times_covered(layout, schedule, hidden, block_q, block_kv, local_block)
    np.testing.assert_array_equal(covered, define(specs, rows, window=window).mask.astype(int))

    np.testing.assert_array_equal(schedule.row_slot >= 0, layout.segment_ids > 0)
    row_tiles = [tuple(visit) for visit in schedule.tile_visits[[0, 1, 4]].T]
    assert len(set(row_tiles)) == len(list(itertools.groupby(row_tiles))), (
        "a row tile in two places"
    )


@cases(
    st.lists(st.integers(1, 40), min_size=1, max_size=6).flatmap(
        lambda lens: st.tuples(st.just(lens), st.permutations(range(len(lens))))
    ),
    requests(),
    block_sizes,
    windows,
)
def test_aligned_schedule_of_an_item_does_not_depend_on_its_place(items, before, blocks, window):
    """The order of a row's sums: the same wherever its item and its request stand in the pack."""
    lens, order = items
    block_q, block_kv, local_block = blocks[0], blocks[1], min(blocks[0], blocks[2])

    def sums_of_items(specs, request):
        """For each item the blocks, relative to request and item, that each of its rows is summed over."""
        layout = build(specs, window=window)
        hidden = outside_windows(specs, window)
        schedule = layout.aligned_schedule(
            block_q=block_q, block_kv=block_kv, local_block=local_block
        )
        origin = np.flatnonzero(layout.key_request_ids == request)[0]
        sums = []
        for k in np.flatnonzero(layout.item_requests == request):
            item = []
            for row in layout.item_first_rows[k] + np.arange(layout.item_lens[k]):
                mine = (schedule.tile_visits[0] <= row) & (row < schedule.tile_visits[1])
                own_begin, own_end = layout.row_intervals[2, row], schedule.tile_own_end[row]
                for begin, end, kind in schedule.tile_visits[2:5, mine].T:
                    start = origin if kind == 0 else own_begin
                    # What lies past the row's own columns, or before its window, adds exactly zero.
                    end = end if kind == 0 else min(end, own_end)
                    if not hidden[row, begin:end].all():
                        item.append((row - layout.item_first_rows[k], begin - start, end - start))
                item.append(schedule.row_slot[row] % local_block)
            sums.append(item)
        return sums

    alone = sums_of_items([RequestSpec(7, lens)], 0)
    moved = sums_of_items([before, RequestSpec(7, [lens[k] for k in order])], 1)
    assert moved == [alone[k] for k in order]


@cases(st.lists(st.integers(1, 300), max_size=12), st.integers(8, 64), st.integers(1, 64))
def test_chosen_local_block_computes_the_fewest_pairs(lens, block_q, block_kv):
    layout = build([RequestSpec(1, lens)])

    def computed_pairs(local_block):
        schedule = layout.aligned_schedule(
            block_q=block_q, block_kv=block_kv, local_block=local_block
        )
        own_tiles = int((schedule.tile_visits[4] == 1).sum())
        return schedule.local_blocks.shape[1] * local_block**2 + own_tiles * block_q * block_kv

    candidates = (8, 16, 32, 64, 128, 256)
    best = min(
        (block for block in candidates if block <= block_q),
        key=lambda block: (computed_pairs(block), -block),
    )
    chosen = layout.choose_local_block(block_q=block_q, block_kv=block_kv, candidates=candidates)
    assert chosen == best


def test_tiles_outside_the_window_are_not_visited():
    """A window makes long prefixes cheap only if what it hides costs nothing."""
    specs = [RequestSpec(2000, [20] * 100 + [600])]
    whole, windowed = build(specs), build(specs, window=100)
    sizes = {"block_q": 64, "block_kv": 64, "local_block": 64}
    # Of the prefix a tile visits what its rows and their window take, in blocks.
    assert windowed.aligned_schedule(**sizes).tile_visits.shape[1] < 5 * 4700 / 64
    assert whole.aligned_schedule(**sizes).tile_visits.shape[1] > 15 * 4700 / 64


def test_schedule_of_a_large_pack_stays_linear():
    """128k rows of 20-token items: visits grow with rows times the prefix, not with rows squared."""
    layout = build([RequestSpec(2000, [20] * 6300)])
    schedule = layout.aligned_schedule(block_q=512, block_kv=512, local_block=32)
    assert layout.num_rows == 128_000
    assert schedule.tile_visits.shape == (5, 1 + 2 + 3 + 247 * 4)
    assert schedule.local_blocks.shape == (3, 6300)
