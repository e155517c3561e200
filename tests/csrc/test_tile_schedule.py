"""The tile schedule covers what is visible: every pair once, and nothing else."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csrc_layout import build
from isoprefill_csrc import tile_schedule_of_intervals
from mask_definition import RequestSpec, define
from schedule_expansion import covered_pairs, expand

WINDOWS = st.none() | st.integers(1, 40) | st.integers(1, 700)
DELIMITERS = st.sampled_from(["none", "hidden", "prefix_first"])


@st.composite
def packs(draw):
    """One to four requests; short and long items beside each other."""
    cached = draw(st.booleans())
    specs = []
    for _ in range(draw(st.integers(1, 4))):
        lens = draw(st.lists(st.integers(1, 40), max_size=20))
        if draw(st.booleans()):
            lens.insert(draw(st.integers(0, len(lens))), draw(st.integers(100, 500)))
        if cached and not lens:
            lens = [draw(st.integers(1, 300))]
        causal = draw(st.integers(0, 4)) == 0 and not cached
        specs.append(RequestSpec(draw(st.integers(1, 600)), lens, draw(DELIMITERS), cached, causal))
    return specs


@st.composite
def sizes(draw):
    unit_q = 128 * draw(st.integers(1, 3))
    unit_kv = 16 * draw(st.integers(8, 24))
    return {
        "block_q": unit_q * draw(st.integers(1, 4)),
        "block_kv": unit_kv * draw(st.integers(1, 4)),
        "unit_q": unit_q,
        "unit_kv": unit_kv,
        "unit_group": draw(st.sampled_from([1, 2, 4])),
        "window_keys": draw(st.sampled_from([0, 128, 144, 160, 256])),
        "full_keys": draw(st.sampled_from([0, 1, 100, 256])),
    }


@settings(derandomize=True, deadline=None, max_examples=150)
@given(packs(), sizes(), st.booleans(), WINDOWS)
def test_every_visible_pair_is_covered_exactly_once(requests, size, padded, window):
    """A pair covered twice counts double in the softmax; one not covered is missing from it."""
    rows = define(requests).mask.shape[0]
    pad = rows + 37 if padded else None
    layout = build(requests, pad, window=window)
    mask = define(requests, pad, window=window).mask
    schedule = layout.tile_schedule(**size)
    count = covered_pairs(schedule, size, layout.num_columns)
    np.testing.assert_array_equal(count, mask.astype(np.int32))


@settings(derandomize=True, deadline=None, max_examples=150)
@given(packs(), sizes(), WINDOWS)
def test_no_tile_is_without_a_visible_pair_and_unmasked_ones_hide_nothing(requests, size, window):
    """Work on invisible tiles is wasted; a wrong full step or whole unit lets rows see what they must not."""
    layout = build(requests, window=window)
    mask = define(requests, window=window).mask
    live = mask.any(axis=1)
    for tile in expand(layout.tile_schedule(**size), size):
        seen = mask[tile.rows][live[tile.rows]][:, tile.columns]
        assert seen.any(), tile
        if tile.kind == "full":
            assert size["full_keys"]
        if tile.kind in ("full", "whole unit"):
            assert seen.all(), tile
        if tile.kind == "whole unit":
            assert size["full_keys"]
            assert tile.columns == tile.unit_columns


@settings(derandomize=True, deadline=None, max_examples=100)
@given(packs(), sizes(), WINDOWS)
def test_windows_and_units_end_with_the_last_column_that_one_of_their_rows_sees(
    requests, size, window
):
    """Up to there the kernel multiplies V, if only by 0: NaN in an item behind it would reach rows before the item."""
    layout = build(requests, window=window)
    mask = define(requests, window=window).mask
    for tile in expand(layout.tile_schedule(**size), size):
        assert mask[tile.rows, tile.columns.stop - 1].any(), tile


@settings(derandomize=True, deadline=None, max_examples=60)
@given(packs(), sizes(), WINDOWS)
def test_each_row_gets_its_anchor_from_what_it_sees(requests, size, window):
    """A row without an anchor key falls back to the slow path, or overflows; with two, the sums do not fit together."""
    layout = build(requests, window=window)
    schedule = layout.tile_schedule(**size)
    far_begin, far_end, near_begin, near_end = schedule.row_bounds
    sees_far, sees_near = far_end > far_begin, near_end > near_begin
    windowed = np.zeros(layout.num_rows, bool)
    full = np.zeros(layout.num_rows, bool)
    anchored_in = np.full(layout.num_rows, -1)
    for tile in expand(schedule, size, anchors=True):
        rows = np.arange(layout.num_rows)[tile.rows]
        if tile.kind == "window":
            windowed[rows] = True
        elif tile.kind == "anchor":
            # An anchor of one column stands for a first full step.
            full[rows] |= tile.columns.stop - tile.columns.start == 1
            first = far_begin[rows]
            hit = (first >= tile.columns.start) & (first < tile.columns.stop) & sees_far[rows]
            # Entries of one step are handled before its units, so the last of them counts.
            assert np.isin(anchored_in[rows[hit]], (-1, tile.step)).all()
            anchored_in[rows[hit]] = tile.step
    by_window = windowed & sees_near & ~full
    np.testing.assert_array_equal(anchored_in[~by_window] >= 0, sees_far[~by_window])


@settings(derandomize=True, deadline=None, max_examples=60)
@given(packs(), sizes(), WINDOWS)
def test_far_and_near_columns_are_those_that_a_row_sees(requests, size, window):
    """A column lost in the split is missing from the softmax, whatever the tiles are."""
    layout = build(requests, window=window)
    far_begin, far_end, near_begin, near_end = (
        x[:, None] for x in layout.tile_schedule(**size).row_bounds
    )
    column = np.arange(layout.num_columns)
    far = (column >= far_begin) & (column < far_end)
    near = (column >= near_begin) & (column < near_end)
    np.testing.assert_array_equal(far | near, define(requests, window=window).mask)
    assert not np.any(far & near)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(packs(), sizes(), WINDOWS)
def test_steps_are_grouped_by_q_tile_and_blocks_stay_inside(requests, size, window):
    """The kernel starts a Q tile at its first step and writes it at its last, once."""
    layout = build(requests, window=window)
    schedule = layout.tile_schedule(**size)
    q_tile, key_start, flags, key_range = schedule.steps[:4]
    assert np.all(key_start % 16 == 0)
    assert np.all(key_start >= 0)
    assert np.all(key_start + size["block_kv"] <= schedule.padded_columns)
    assert np.all(key_range & 0xFFFF <= key_range >> 16)
    assert np.all(key_range >> 16 <= size["block_kv"])
    np.testing.assert_array_equal(q_tile[(flags & 1) != 0], np.arange(len(schedule.tiles)))
    np.testing.assert_array_equal(q_tile[(flags & 2) != 0], np.arange(len(schedule.tiles)))
    assert np.all(np.diff(q_tile) >= 0)
    assert np.all(schedule.tiles[:, 0] % 16 == 0)
    local_keys = size["block_q"] + size["window_keys"] - 128 if size["window_keys"] else 0
    if local_keys:
        assert np.all(schedule.tiles[:, 0] + local_keys <= schedule.padded_columns)
    windows, ends = schedule.tiles[:, 1::2], schedule.tiles[:, 2::2]
    assert np.all(windows + size["window_keys"] <= local_keys)
    assert np.all((windows == -1) | (windows % 16 == 0))
    assert np.all((windows < ends) | (ends == 0))
    assert np.all(ends - windows <= np.where(windows < 0, 1, size["window_keys"]))
    for ranges in (schedule.steps[4:6], schedule.steps[5:7], schedule.steps[6:8]):
        assert np.all((ranges[1] - ranges[0]) % size["unit_group"] == 0)
        assert np.all(ranges[1] >= ranges[0])


def test_worked_example():
    """The example of csrc/tile_schedule.h, so that the header stays true."""
    layout = build([RequestSpec(300, [20] * 8)])
    size = {"block_q": 256, "block_kv": 512, "unit_q": 128, "unit_kv": 128, "unit_group": 1}
    size |= {"window_keys": 160, "full_keys": 256}
    schedule = layout.tile_schedule(**size)
    tiles = expand(schedule, size)
    whole, masked = (
        [(t.rows.start, t.unit_columns.start) for t in tiles if t.kind == kind]
        for kind in ("whole unit", "masked unit")
    )
    assert whole == [(128, 0), (256, 0), (256, 128), (384, 0), (384, 128)]
    assert masked == [(256, 256), (384, 256)]
    windows = [(t.rows.start, t.columns.start, t.columns.stop) for t in tiles if t.kind == "window"]
    assert windows == [(0, 0, 128), (128, 128, 256), (256, 256, 384), (384, 352, 460)]
    # What a prefix row sees from its window's first column on is near.
    assert schedule.row_bounds[:, 255].tolist() == [0, 128, 128, 256]
    assert schedule.row_bounds[:, 300].tolist() == [0, 300, 300, 301]


def test_steps_outside_the_window_are_not_made():
    """A window makes long prefixes cheap only if what it hides is not visited."""
    requests = [RequestSpec(4000, [20] * 100)]
    size = {"block_q": 256, "block_kv": 256, "unit_q": 128, "unit_kv": 128, "window_keys": 160}
    count = {}
    for window in (None, 300):
        schedule = build(requests, window=window).tile_schedule(**size)
        kinds = [tile.kind for tile in expand(schedule, size)]
        units = kinds.count("whole unit") + kinds.count("masked unit")
        count[window] = units + 4 * kinds.count("full")  # a full step is as many units
    rows = -(-6000 // 128)
    assert count[300] <= 4 * rows  # of a window and 128 rows
    assert count[None] > 12 * rows


def test_tile_of_item_rows_alone_is_full():
    """One unmasked product for all rows that see the same prefix is what makes the kernel fast."""
    layout = build([RequestSpec(300, [20] * 8, cached_prefix=True)])
    size = {"block_q": 256, "block_kv": 512, "unit_q": 128, "unit_kv": 128, "unit_group": 1}
    size |= {"window_keys": 160, "full_keys": 256}
    schedule = layout.tile_schedule(**size)
    full, *windows = expand(schedule, size)
    assert (full.kind, full.columns) == ("full", slice(0, 300))
    assert [t.kind for t in windows] == ["window", "window"]


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ({"block_q": 100, "block_kv": 256}, r"block_q is 100; .* multiple of 256"),
        ({"block_q": 256, "block_kv": 0}, r"block_kv is 0; .* multiple of 256 from 256 to 32640"),
        ({"block_q": 256, "block_kv": 32768}, r"block_kv is 32768; .* to 32640"),
        ({"block_q": 256, "block_kv": 256, "unit_q": 64}, r"unit_q is 64; .* multiple of 128"),
        ({"block_q": 256, "block_kv": 256, "unit_kv": 0}, r"unit_kv is 0; "),
        ({"block_q": 256, "block_kv": 256, "unit_group": 0}, r"unit_group is 0; "),
        ({"block_q": 256, "block_kv": 256, "window_keys": 100}, r"window_keys is 100; "),
        ({"block_q": 256, "block_kv": 256, "full_keys": -1}, r"full_keys is -1; "),
        ({"block_q": -256, "block_kv": 256}, r"block_q is -256; .* multiple of 256 from 256"),
        (
            {"block_q": 1 << 40, "block_kv": 256},
            r"block_q is 1099511627776; it must fit into 32 bits",
        ),
    ],
)
def test_bad_sizes_name_the_value_and_the_limit(size, message):
    """A bad size that passed would read or write outside the schedule's arrays."""
    with pytest.raises(ValueError, match=message):
        build([RequestSpec(700, [20] * 10)]).tile_schedule(**size)


def test_arrays_are_views_that_outlive_the_schedule():
    """A second copy of a schedule, or one freed too early, would be slow or wrong."""
    schedule = build([RequestSpec(300, [20] * 8)]).tile_schedule(block_q=256, block_kv=256)
    steps = schedule.steps
    assert not steps.flags.owndata
    assert not steps.flags.writeable
    before = steps.copy()
    del schedule
    np.testing.assert_array_equal(steps, before)


def test_time_grows_linearly():
    """A schedule that looks at T x T entries takes 64 times as long for 8 times the rows."""

    def best(items):
        layout = build([RequestSpec(2000, [20] * items)])
        times = []
        for _ in range(7):
            start = time.perf_counter()
            layout.tile_schedule(block_q=2048, block_kv=2048)
            times.append(time.perf_counter() - start)
        return min(times)

    assert best(6000) < 24 * best(750)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(packs(), sizes(), st.integers(0, 300), st.integers(1, 500), st.booleans())
def test_rows_from_the_middle_of_a_pack_are_covered_once(requests, size, first, count, gap):
    """A chunk of a request has no layout, only intervals; rows that see nothing may stand between the others."""
    whole = build(requests)
    first = min(first, whole.num_rows - 1)
    intervals = whole.row_intervals[:, first : first + count].copy()
    if gap:
        intervals[:, intervals.shape[1] // 2] = 0
    schedule = tile_schedule_of_intervals(intervals, whole.num_columns, **size)
    column = np.arange(whole.num_columns)
    prefix_begin, prefix_end, own_begin, own_end = (x[:, None] for x in intervals)
    seen = (column >= prefix_begin) & (column < prefix_end)
    seen |= (column >= own_begin) & (column < own_end)
    pairs = covered_pairs(schedule, size, whole.num_columns)
    np.testing.assert_array_equal(pairs, seen)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(packs(), sizes(), st.integers(1, 300))
def test_rows_that_see_nothing_take_no_windows_from_those_behind_them(requests, size, hidden):
    """The kernel asks the first window of a row block whether the block has any, and anchors its rows by that."""
    layout = build(requests)
    intervals = layout.row_intervals.copy()
    intervals[:, :hidden] = 0
    schedule = tile_schedule_of_intervals(intervals, layout.num_columns, **size)
    windows = schedule.tiles[:, 1::2].reshape(-1, size["unit_q"] // 128)
    np.testing.assert_array_equal(windows[:, 0] >= 0, (windows >= 0).any(axis=1))
    column = np.arange(layout.num_columns)
    far, near = (
        (column >= begin[:, None]) & (column < end[:, None])
        for begin, end in (intervals[:2], intervals[2:])
    )
    pairs = covered_pairs(schedule, size, layout.num_columns)
    np.testing.assert_array_equal(pairs, far | near)


def test_rows_whose_columns_all_lie_before_their_tiles_windows_take_none():
    """Such as delimiters behind items, which see the prefix alone: a window of theirs would be computed for nothing."""
    items, delimiters = np.arange(1000, 1128), np.zeros(128, np.int64)
    own = [*items, *delimiters], [*(items + 1), *delimiters]
    intervals = np.asarray([[0] * 256, [10] * 256, *own], np.int32)
    size = {"block_q": 256, "block_kv": 256, "unit_q": 128, "unit_kv": 128, "unit_group": 1}
    size |= {"window_keys": 160, "full_keys": 256}
    schedule = tile_schedule_of_intervals(intervals, 2000, **size)
    assert schedule.tiles.tolist() == [[976, 16, 152, -1, 0]]
    kinds = [tile.kind for tile in expand(schedule, size)]
    assert kinds.count("window") == 1
    assert covered_pairs(schedule, size, 2000)[128:].sum(axis=1).tolist() == [10] * 128


def test_intervals_of_a_layout_give_the_layouts_schedule():
    layout = build([RequestSpec(300, [20] * 20), RequestSpec(50, [400])])
    size = {"block_q": 256, "block_kv": 256}
    ours = tile_schedule_of_intervals(layout.row_intervals, layout.num_columns, **size)
    for name in ("steps", "units", "tiles", "row_bounds", "padded_columns"):
        np.testing.assert_array_equal(
            getattr(ours, name), getattr(layout.tile_schedule(**size), name)
        )


@pytest.mark.parametrize(
    ("intervals", "message"),
    [
        ([[0], [5], [0], [0]], r"\[0, 5\) at row 0; it must lie in \[0, 4\]"),
        ([[-1], [2], [0], [0]], r"\[-1, 2\) at row 0"),
        ([[3], [2], [0], [0]], r"\[3, 2\) at row 0"),
        (
            [[0], [2], [1], [3]],
            r"\[1, 3\) at row 0; it must begin after the row's prefix, \[0, 2\)",
        ),
        ([[0, 0], [1, 1], [2, 1], [3, 4]], r"\[1, 4\) at row 1; it must neither begin nor end"),
        ([[0, 0], [1, 1], [2, 2], [4, 3]], r"\[2, 3\) at row 1; it must neither begin nor end"),
        ([[0], [1], [0]], "row_intervals must be int32 of shape"),
        ([[], [], [], []], "the number of rows is 0"),
    ],
)
def test_intervals_that_break_the_rules_are_rejected_by_row(intervals, message):
    """The schedule would not cover what they see, and the kernel would give wrong results."""
    with pytest.raises(ValueError, match=message):
        tile_schedule_of_intervals(np.asarray(intervals, np.int32), 4, block_q=256, block_kv=256)
