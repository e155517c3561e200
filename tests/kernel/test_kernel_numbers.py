"""The TPU kernel in the TPU interpreter: its numbers, against attention in float64."""

import dataclasses
import os

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoprefill_pallas import BlockSizes, KernelSchedule
from kernel_packs import SIZES, TOKENS, check_close, compiled, exact, layout_of, run
from mask_definition import RequestSpec
from random_packs import sharing

# (query heads per KV head, head_dim, dtype): every dtype with every head_dim, and several ratios.
SHAPES = [
    (1, 64, "float32"),
    (3, 64, "bfloat16"),
    (2, 128, "bfloat16"),
    (4, 128, "float32"),
    (1, 256, "bfloat16"),
]
RATIOS = (1, 2, 3, 4, 8, 16)
ALL_SHAPES = [
    (groups, head_dim, dtype)
    for groups in RATIOS
    for head_dim in (64, 128, 256)
    for dtype in ("float32", "bfloat16")
] + [(groups, 64, "bfloat16") for groups in range(1, 17) if groups not in RATIOS]
# //tests:full_kernel_interpret sets it and takes over an hour.
FULL = "ISOPREFILL_FULL_MATRIX" in os.environ


@st.composite
def packs(draw):
    """One to four requests in 1024 rows and columns."""
    cached = draw(st.booleans())
    specs, room = [], TOKENS
    for _ in range(draw(st.integers(1, 4))):
        if room < 40:
            break
        prefix = draw(st.integers(1, room // 2))
        room -= prefix + 2
        lens = []
        for length in draw(st.lists(st.integers(1, 40), min_size=1, max_size=15)) + [
            draw(st.integers(1, 400))
        ]:
            if length + 1 <= room:
                lens.append(length)
                room -= length + 1
        delimiter = draw(st.sampled_from(["none", "hidden", "prefix_first"]))
        spec = RequestSpec(prefix, lens or [1], delimiter, cached)
        specs.append(draw(st.just(spec) | sharing(spec)))
    return specs


@pytest.mark.parametrize("shape", ALL_SHAPES if FULL else SHAPES, ids=str)
def test_agrees_with_float64_on_ragged_packs(shape):
    """Any mistake in masks, tiles, windows or the softmax of any shape shows here."""

    @settings(derandomize=True, deadline=None, max_examples=30 if FULL else 4, database=None)
    @given(packs())
    def check(requests):
        out, lse, arrays, layout = run(requests, shape)
        check_close(out, lse, *arrays, layout)

    check()


def test_agrees_with_float64_with_sixteen_query_heads_to_each_kv_head():
    """The most heads that share k and v; random packs of them take half a minute each."""
    requests = [
        RequestSpec(70, [30, 1, 90], "hidden"),
        RequestSpec(40, [150, 7], "none", True, shared_lens=[0, 5]),
    ]
    out, lse, arrays, layout = run(requests, (16, 64, "bfloat16"))
    check_close(out, lse, *arrays, layout)


@settings(derandomize=True, deadline=None, max_examples=30 if FULL else 4, database=None)
@given(packs(), st.integers(1, 40) | st.integers(1, 400))
def test_agrees_with_float64_in_sliding_windows(requests, window):
    """Far columns of a tile then begin and end anywhere, and rows may see none of the prefix."""
    out, lse, arrays, layout = run(requests, SHAPES[0], window=window)
    check_close(out, lse, *arrays, layout)


@pytest.mark.parametrize("window", [127, 128, 129])
def test_windows_that_end_at_tile_edges(window):
    """Items of one token and of several hundred; a window off by one gives another result."""
    requests = [RequestSpec(256, [1, 3, 300] + [20] * 10)]
    out, lse, arrays, layout = run(requests, SHAPES[0], window=window)
    check_close(out, lse, *arrays, layout)
    other = layout_of(requests, window=window + 1)
    with pytest.raises(AssertionError):
        check_close(out, lse, *arrays, other)


@pytest.mark.parametrize("offset", [-1, 0, 1], ids=["before", "on", "after"])
@pytest.mark.parametrize("cached", [False, True], ids=["rows", "cached-prefix"])
def test_items_begin_and_end_around_every_tile_edge(offset, cached):
    """An off-by-one at an edge of a tile, unit or window shows only when an item starts or ends there."""
    edge = 128  # of windows and units; every second one is an edge of Q tiles and blocks
    prefix = edge + offset
    ends = np.arange(2 * edge, TOKENS, edge) + offset
    # One item up to each of the first edges, three up to each of the others.
    long, short = np.split(np.diff([prefix, *ends]), [3])
    lens = [*long, *(part for length in short for part in (3, 5, length - 8))]
    out, lse, arrays, layout = run([RequestSpec(prefix, lens, "none", cached)], SHAPES[0])
    check_close(out, lse, *arrays, layout)


@pytest.mark.parametrize(
    "requests",
    [
        pytest.param([RequestSpec(1, [])], id="a-row-that-sees-only-itself"),
        pytest.param([RequestSpec(1, [1, 1, 30])], id="prefix-of-one"),
        pytest.param([RequestSpec(1, [300] + [1] * 200)], id="giant-among-tiny"),
        pytest.param([RequestSpec(700, [], causal=True)], id="causal"),
        pytest.param([RequestSpec(1000, [5], "hidden", True)], id="long-cached-prefix"),
        pytest.param([RequestSpec(30, [3, 4])] * 20, id="twenty-requests"),
    ],
)
def test_unusual_packs(requests):
    """Rows that see one column only, items longer than windows, more requests than anchors in a group."""
    out, lse, arrays, layout = run(requests, SHAPES[0])
    check_close(out, lse, *arrays, layout)


@pytest.mark.skipif(not FULL, reason="half a minute for one pack")
def test_giant_item_and_long_prefix():
    """A 3,000-token item in a pack of tiny ones must not cost the tiny ones their windows, nor be wrong."""
    sizes = BlockSizes(1024, 1024, 512, 256, 256, 4, 160, 512)
    requests = [RequestSpec(4096, [7] * 60 + [3000] + [20] * 30)]
    out, lse, arrays, layout = run(requests, (1, 64, "float32"), sizes, tokens=8192)
    check_close(out, lse, *arrays, layout)


@pytest.mark.parametrize("norm", [30.0, 300.0])
@pytest.mark.parametrize(
    "place", ["anchor", "prefix", "own"]
)  # in the anchor's keys, outside, own item
def test_huge_keys_do_not_overflow_or_vanish(place, norm):
    """A fixed anchor overflows on keys far above it and loses all far below it: such rows must be recomputed."""
    requests = [RequestSpec(300, [20] * 20)]
    columns = {"anchor": slice(3, 6), "prefix": slice(200, 203), "own": slice(305, 308)}[place]

    def grow(q, k, v):
        return q, k.at[columns].multiply(norm), v

    out, lse, arrays, layout = run(requests, SHAPES[0], change=grow)
    check_close(out, lse, *arrays, layout)


def test_a_row_keeps_its_anchor_where_the_next_request_begins():
    """Rows of two steps would otherwise change their anchor in between, and add up what does not fit together."""
    sizes = dataclasses.replace(SIZES, window_keys=0)
    requests = [RequestSpec(300, [3]), RequestSpec(300, [5])]
    out, lse, arrays, layout = run(requests, SHAPES[0], sizes)
    check_close(out, lse, *arrays, layout)


def test_rows_behind_a_padded_start_keep_the_anchors_of_their_windows():
    """Of 256 rows the first 128 see nothing. Others, anchored by their windows, must not be anchored once more."""
    sizes = dataclasses.replace(SIZES, block_kv=512, unit_q=256, window_keys=128, full_keys=0)
    prefix, rows = 320, 256
    # Items of 10, each followed by a row that sees the prefix alone and whose window begins behind it.
    own = [(prefix + 11 * i, prefix + 11 * i + n) for i in range(12) for n in (*range(1, 11), 0)]
    intervals = np.zeros((4, rows), np.int32)
    intervals[1, 128:] = prefix
    intervals[2:, 128:] = np.array([(b, e) if e > b else (0, 0) for b, e in own[:128]]).T
    column = np.arange(512)
    far, near = (
        (column >= b[:, None]) & (column < e[:, None]) for b, e in (intervals[:2], intervals[2:])
    )
    random = np.random.default_rng(0)
    q, k, v = (
        jnp.asarray(random.standard_normal((count, 1, 64)), "float32") for count in (rows, 512, 512)
    )
    q = 4 * q  # so that the best score of a window is not that of the prefix
    schedule = KernelSchedule.of_intervals(intervals, 512, sizes=sizes)
    out, lse = compiled(sizes)(q, k, v, schedule)
    want, want_lse = exact(q, k, v, far | near)
    np.testing.assert_allclose(out, want, atol=1e-4)
    np.testing.assert_allclose(lse, want_lse, rtol=1e-4)


def test_anchored_variant_flags_rows_out_of_range_and_only_those():
    """A certificate that passes everything proves nothing; one that flags everything costs twice."""
    requests = [RequestSpec(300, [20] * 20)]
    _, calm, _, _ = run(requests, SHAPES[0], online=False)
    assert not np.isnan(np.asarray(calm)).any()

    def grow(q, k, v):
        return q, k.at[40:42].multiply(1000.0), v

    # Seen by rows from 40 on; those up to 127 have it in the window that their anchor comes from. Rows of items have it
    # neither there nor among the first 32 columns of their first full step.
    _, lse, _, _ = run(requests, SHAPES[0], online=False, change=grow)
    flagged = np.isnan(np.asarray(lse)).any(axis=1)
    assert flagged[300:].any()
    assert not flagged[:128].any()


@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[2]], ids=str)
def test_running_maximum_alone_agrees_with_float64(shape):
    """The fallback must be right for all rows, not only for those that usually need it."""
    requests = [RequestSpec(200, [20] * 10 + [150]), RequestSpec(77, [3, 60])]
    out, lse, arrays, layout = run(requests, shape, online=True)
    check_close(out, lse, *arrays, layout)


def test_soft_cap():
    """A cap applied to scores in base 2, or before the scale, gives other weights."""
    requests = [RequestSpec(200, [20] * 10)]

    def grow(q, k, v):
        return q, k * 10, v

    out, lse, arrays, layout = run(requests, SHAPES[0], change=grow, soft_cap=5.0)
    check_close(out, lse, *arrays, layout, soft_cap=5.0)
