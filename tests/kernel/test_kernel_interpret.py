"""The TPU kernel in the TPU interpreter: its numbers and what it visits.

The interpreter looks for races between copies and computation, fills memory that was not written with NaN and
raises on reads out of bounds. Columns that are padding hold NaN. One compilation serves all packs of a case.
"""

import dataclasses
import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kernel_interpreter
from attention_oracle import attend_float64
from csrc_layout import build
from isoprefill_pallas import kernel
from isoprefill_pallas.block_sizes import BlockSizes
from isoprefill_pallas.op import pallas_attention
from isoprefill_pallas.reference import dense_attention, visible
from isoprefill_pallas.schedule import KernelSchedule
from mask_definition import RequestSpec
from schedule_expansion import covered_pairs

TOKENS = 1024  # rows and columns of all packs but the largest
SIZES = BlockSizes(
    block_q=256,
    block_kv=256,
    chunk_kv=128,
    unit_q=128,
    unit_kv=128,
    unit_group=2,
    window_keys=160,
    full_keys=100,
)
# (query heads per KV head, head_dim, dtype): every dtype with every head_dim, and several ratios.
SHAPES = [
    (1, 64, "float32"),
    (3, 64, "bfloat16"),
    (2, 128, "bfloat16"),
    (4, 128, "float32"),
    (1, 256, "bfloat16"),
    (16, 64, "bfloat16"),
]
RATIOS = (1, 2, 3, 4, 8, 16)
ALL_SHAPES = [
    (groups, head_dim, dtype)
    for groups in RATIOS
    for head_dim in (64, 128, 256)
    for dtype in ("float32", "bfloat16")
] + [(groups, 64, "bfloat16") for groups in range(1, 17) if groups not in RATIOS]
KV_HEADS = 2
PADDED = 288  # columns that the kernel wants at least: those of the windows of a Q tile
# //tests:full_kernel_interpret sets it and takes over an hour.
FULL = "ISOPREFILL_FULL_MATRIX" in os.environ


@functools.cache
def compiled(sizes, soft_cap=None, online=None):
    """`pallas_attention`, or with `online` one of its two variants alone."""

    def both(q, k, v, schedule):
        return pallas_attention(
            q,
            k,
            v,
            schedule,
            scale=q.shape[-1] ** -0.5,
            soft_cap=soft_cap,
            interpret=kernel_interpreter.checking(),
        )

    def one(q, k, v, schedule):
        (part,) = schedule.parts
        return kernel.tile_attention(
            q,
            k,
            v,
            schedule.row_bounds,
            part.steps,
            part.units,
            part.tiles,
            num_steps=part.num_steps,
            sizes=sizes,
            scale=q.shape[-1] ** -0.5,
            soft_cap=soft_cap,
            online=online,
            interpret=kernel_interpreter.checking(),
        )

    run = jax.jit(both if online is None else one)

    def wait(*arrays):
        # The interpreter calls back into Python: work that is dispatched beside it can starve it of threads.
        jax.block_until_ready(arrays)
        return jax.block_until_ready(run(*arrays))

    return wait


def layout_of(requests, tokens=TOKENS):
    return build(requests, pad_to=tokens, pad_columns_to=tokens)


def mask_of(layout):
    return np.asarray(
        visible(
            layout.segment_ids,
            layout.request_ids,
            layout.row_columns,
            layout.key_segment_ids,
            layout.key_request_ids,
        )
    )


def inputs(layout, shape, seed=0):
    """q, k, v with NaN in the columns that are padding."""
    groups, head_dim, dtype = shape
    random = np.random.default_rng(seed)
    heads = (KV_HEADS * groups, KV_HEADS, KV_HEADS)
    tokens = (layout.num_rows, layout.num_columns, layout.num_columns)
    q, k, v = (
        random.standard_normal((count, head, head_dim))
        for count, head in zip(tokens, heads, strict=True)
    )
    k[layout.key_request_ids < 0] = np.nan
    v[layout.key_request_ids < 0] = np.nan
    return [jnp.asarray(x, dtype) for x in (q, k, v)]


def exact(q, k, v, mask, soft_cap=None):
    """Output and log-sum-exp in float64, of columns that may hold NaN where nobody sees them."""
    clean = (np.nan_to_num(np.asarray(x, np.float64)) for x in (q, k, v))
    return attend_float64(*clean, mask, soft_cap=soft_cap)


def check_close(out, lse, q, k, v, layout, soft_cap=None):
    """The bound of the product: 1e-2 of the largest value in bfloat16; float32 as good as the dense one."""
    mask = mask_of(layout)
    want, want_lse = exact(q, k, v, mask, soft_cap)
    largest = np.nanmax(np.abs(np.asarray(v, np.float64)))
    error = np.abs(np.asarray(out, np.float64) - want).max() / largest
    limit = 1e-2
    if q.dtype == jnp.float32:
        clean = [jnp.nan_to_num(x) for x in (q, k, v)]
        dense, _ = dense_attention(*clean, mask, scale=q.shape[-1] ** -0.5, soft_cap=soft_cap)
        limit = max(1e-5, 2 * np.abs(np.asarray(dense, np.float64) - want).max() / largest)
    assert error <= limit
    padding = ~mask.any(axis=1)
    assert np.all(np.asarray(out)[padding] == 0)
    assert np.all(np.isneginf(np.asarray(lse)[padding]))
    scale = max(1.0, np.abs(want_lse[~padding]).max())
    assert np.abs(np.asarray(lse)[~padding] - want_lse[~padding]).max() <= 1e-2 * scale


def run(requests, shape, sizes=SIZES, tokens=TOKENS, change=None, **options):
    layout = layout_of(requests, tokens)
    q, k, v = inputs(layout, shape)
    if change is not None:
        q, k, v = change(q, k, v)
    schedule = KernelSchedule.build(layout, sizes)
    out, lse = compiled(sizes, **options)(q, k, v, schedule)
    return out, lse, (q, k, v), layout


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
        specs.append(RequestSpec(prefix, lens or [1], delimiter, cached))
    return specs


@pytest.mark.parametrize("shape", ALL_SHAPES if FULL else SHAPES, ids=str)
def test_agrees_with_float64_on_ragged_packs(shape):
    """Any mistake in masks, tiles, windows or the softmax of any shape shows here."""

    @settings(derandomize=True, deadline=None, max_examples=30 if FULL else 5, database=None)
    @given(packs())
    def check(requests):
        out, lse, arrays, layout = run(requests, shape)
        check_close(out, lse, *arrays, layout)

    check()


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
    schedule = KernelSchedule.of_intervals(intervals, 512, sizes)
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
        return q, k.at[10:12].multiply(1000.0), v

    # Seen by rows from 10 on; those up to 127 have it in the window that their anchor comes from.
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


def test_schedule_in_parts_gives_the_same_bits():
    """Packs whose schedule exceeds scalar memory run in several calls."""
    layout = layout_of([RequestSpec(200, [20] * 40)])
    q, k, v = inputs(layout, SHAPES[0])
    whole = KernelSchedule.build(layout, SIZES)
    parts = KernelSchedule.build(layout, SIZES, smem_words=130)
    assert len(parts.parts) > 1
    attend = compiled(SIZES)
    for a, b in zip(
        attend(q, k, v, whole),
        attend(q, k, v, parts),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_a_schedule_that_is_cut_is_not_padded_back_over_scalar_memory():
    """With its usual capacity this one takes 368 words; as it is, the whole of it takes 136."""
    layout = layout_of([RequestSpec(300, [20] * 30)])
    (part,) = KernelSchedule.build(layout, SIZES, smem_words=200).parts
    assert part.steps.size + part.units.size + part.tiles.size <= 200


def test_a_tile_that_exceeds_scalar_memory_is_refused_wherever_it_is():
    """The last tiles of a prefix see most: a call with one of them would fail in the compiler, or on the chip."""
    sizes = BlockSizes(512, 512, 128, 128, 128, 2, 160, 0)
    layout = build([RequestSpec(8192, [])])
    message = r"the schedule of Q tile [1-9]\d* takes \d+ words; scalar memory holds 150"
    with pytest.raises(ValueError, match=message):
        KernelSchedule.build(layout, sizes, smem_words=150)


def test_columns_that_are_padded_already_give_the_same_bits():
    layout = build([RequestSpec(100, [20])])
    schedule = KernelSchedule.build(layout, SIZES)
    q, k, v = inputs(layout, SHAPES[0])
    missing = ((0, schedule.padded_columns - layout.num_columns), (0, 0), (0, 0))
    assert missing[0][1] > 0
    padded = (jnp.pad(x, missing, constant_values=np.nan) for x in (k, v))
    attend = compiled(SIZES)
    for a, b in zip(attend(q, k, v, schedule), attend(q, *padded, schedule), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_tiles_that_ran_are_those_of_the_schedule(monkeypatch):
    """Work that the schedule does not list would be invisible in the cost model, and wasted."""
    ran = {"full": set(), "units": [], "windows": set(), "anchors": []}

    def recorded(name, note):
        original = getattr(kernel._Tile, name)

        def method(self, *args, **kwargs):
            note(self, *args, **kwargs)
            return original(self, *args, **kwargs)

        monkeypatch.setattr(kernel._Tile, name, method)

    def note_units(tile, first, count):
        jax.debug.callback(lambda at: ran["units"].extend(range(int(at), int(at) + count)), first)

    def note_anchors(tile, group):
        first = tile.field(kernel.ANCHORS) + group * SIZES.unit_group
        jax.debug.callback(
            lambda at: ran["anchors"].extend(range(int(at), int(at) + SIZES.unit_group)), first
        )

    recorded("unit_group", note_units)
    recorded("find_anchors", note_anchors)
    recorded(
        "full_block", lambda tile: jax.debug.callback(lambda s: ran["full"].add(int(s)), tile.step)
    )
    recorded(
        "windows",
        lambda tile, fresh: jax.debug.callback(lambda s: ran["windows"].add(int(s)), tile.step),
    )
    grid = []
    layout = layout_of([RequestSpec(300, [20] * 20 + [200])])
    schedule = KernelSchedule.build(layout, SIZES)
    (part,) = schedule.parts
    q, k, v = inputs(layout, (1, 64, "float32"))
    parameters = kernel_interpreter.checking(
        grid_point_recorder=lambda token, point, core: (grid.append(tuple(map(int, point))), token)[
            1
        ]
    )
    out, _ = kernel.tile_attention(
        q,
        k,
        v,
        schedule.row_bounds,
        part.steps,
        part.units,
        part.tiles,
        num_steps=part.num_steps,
        sizes=SIZES,
        scale=0.125,
        interpret=parameters,
    )
    jax.block_until_ready(out)
    jax.effects_barrier()
    flags = part.steps[kernel.FLAGS]

    def entries(first, end):
        """Of `units`, those between two fields of every step."""
        return [
            index
            for begin, stop in zip(part.steps[first], part.steps[end], strict=True)
            for index in range(begin, stop)
        ]

    assert sorted(grid) == [(h, s) for h in range(KV_HEADS) for s in range(part.num_steps)]
    assert ran["full"] == set(np.flatnonzero(flags & kernel.FULL))
    assert ran["windows"] == set(np.flatnonzero(flags & kernel.WINDOWS))
    assert ran["full"]
    assert ran["windows"]
    assert sorted(ran["units"]) == sorted(entries(kernel.UNITS, kernel.UNITS_END) * KV_HEADS)
    assert sorted(ran["anchors"]) == sorted(entries(kernel.ANCHORS, kernel.UNITS) * KV_HEADS)
    # And the schedule covers what the mask shows, once.
    arguments = SIZES.schedule_arguments()
    covered = covered_pairs(layout.tile_schedule(**arguments), arguments, layout.num_columns)
    np.testing.assert_array_equal(covered, mask_of(layout))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 96, "float32"), "head_dim .* got 96"),
        ((17, 64, "float32"), "1 to 16 query heads per KV head, got 34"),
        ((1, 64, "float16"), "got float16"),
    ],
    ids=str,
)
def test_unsupported_shapes_are_refused_before_tracing(shape, message, monkeypatch):
    """An error from deep inside the compiler names neither the argument nor the limit."""
    monkeypatch.setattr("isoprefill_pallas.op.tile_attention", None)  # tracing would fail otherwise
    layout = layout_of([RequestSpec(10, [3])])
    schedule = KernelSchedule.build(layout, SIZES)
    with pytest.raises(ValueError, match=message):
        pallas_attention(*inputs(layout, shape), schedule, scale=1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": (13, 2, 64, 1)}, "q must have 3 dimensions"),
        ({"q": (12, 2, 64)}, r"q must have the schedule's 13 rows, got shape \(12, 2, 64\)"),
        ({"k": (12, 2, 64)}, r"k must have the schedule's 13 columns, got shape \(12, 2, 64\)"),
        ({"v": (12, 2, 64)}, r"v must have the schedule's 13 columns, got shape \(12, 2, 64\)"),
        ({"k": (14, 2, 64), "v": (14, 2, 64)}, "k must have the schedule's 13 columns"),
        ({"k": (PADDED, 2, 64)}, f"v must have the schedule's {PADDED} columns"),
        ({"k": (13, 2, 128)}, r"k must have q's head_dim 64, got shape \(13, 2, 128\)"),
        ({"v": (13, 2, 128)}, r"v must have q's head_dim 64, got shape \(13, 2, 128\)"),
        ({"v": (13, 1, 64)}, r"v must have k's shape \(13, 2, 64\), got \(13, 1, 64\)"),
        ({"k": (13, 0, 64), "v": (13, 0, 64)}, "KV heads must be at least 1, got 0"),
        ({"q": (13, 0, 64)}, "query heads must be at least 1, got 0"),
        ({"q": (13, 3, 64)}, "query heads must be a multiple of the 2 KV heads, got 3"),
        (dict.fromkeys("qkv", (13, 2, 0)), "head_dim must be at least 1, got 0"),
        ({"dtype": {"k": "bfloat16"}}, "k must have q's dtype float32, got bfloat16"),
        ({"dtype": {"v": "bfloat16"}}, "v must have q's dtype float32, got bfloat16"),
        ({"soft_cap": 0.0}, "soft_cap must be from 1e-30 to 1e[+]30, got 0.0"),
        ({"soft_cap": -2.0}, "soft_cap must be .* got -2.0"),
        ({"soft_cap": np.inf}, "soft_cap must be .* got inf"),
        ({"soft_cap": np.nan}, "soft_cap must be .* got nan"),
    ],
    ids=str,
)
def test_operands_that_do_not_fit_are_refused_before_tracing(change, message, monkeypatch):
    """Missing columns would be padded with zeros and seen, and heads beyond the arrays clamped to others."""
    monkeypatch.setattr("isoprefill_pallas.op.tile_attention", None)  # tracing would fail otherwise
    schedule = KernelSchedule.build(build([RequestSpec(10, [3])]), SIZES)
    assert schedule.padded_columns == PADDED
    dtypes = change.get("dtype", {})
    arrays = [
        jnp.zeros(change.get(name, (13, 2, 64)), dtypes.get(name, "float32")) for name in "qkv"
    ]
    with pytest.raises(ValueError, match=message):
        pallas_attention(*arrays, schedule, scale=1.0, soft_cap=change.get("soft_cap"))
