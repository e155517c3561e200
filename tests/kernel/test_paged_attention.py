"""Attention over a paged KV cache, in the TPU interpreter: pages of other requests and stale memory reach nobody.

Every page that no request owns, and what lies behind the last token of a page, holds NaN. The interpreter looks for
races between copies and computation, fills memory that was not written with NaN, and raises on reads out of bounds.
"""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kernel_interpreter
import pairwise
from attention_oracle import attend_float64
from isoprefill_pallas import BlockSizes, KernelSchedule, paged
from mask_definition import RequestSpec, define

SIZES = BlockSizes(256, 256, 128, 128, 128, 2, 160, 100)
ROWS, COLUMNS = 512, 1024  # of every pack, so that a case compiles once
TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2}  # of max |v|
PACKS = {
    "one request": [RequestSpec(200, [20] * 8)],
    "cached prefix": [RequestSpec(300, [7, 90, 1, 20], cached_prefix=True)],
    "several requests": [
        RequestSpec(37, [5, 60, 1], "hidden", cached_prefix=True),
        RequestSpec(1, [1]),
        RequestSpec(100, [], causal=True),
        RequestSpec(17, [3, 3, 3], cached_prefix=True),
    ],
}
# The kernel itself has a sweep of its own: here one case for each page size is enough, and the gathering gets all.
CASES = [
    {"pack": "one request", "page_size": 1, "head_dim": 128, "heads": (2, 2), "dtype": "bfloat16"},
    {
        "pack": "several requests",
        "page_size": 16,
        "head_dim": 64,
        "heads": (4, 2),
        "dtype": "bfloat16",
    },
    {"pack": "one request", "page_size": 128, "head_dim": 64, "heads": (4, 1), "dtype": "float32"},
    {
        "pack": "cached prefix",
        "page_size": 256,
        "head_dim": 64,
        "heads": (6, 3),
        "dtype": "float32",
    },
]
MATRIX = {
    "pack": list(PACKS),
    "page_size": [1, 16, 48, 128, 256],
    "head_dim": [64, 128, 256],
    "heads": [(2, 2), (6, 3), (16, 1)],
    "dtype": ["float32", "bfloat16"],
}
FULL = pairwise.FULL in os.environ


class Pack:
    """Requests in pages: the page table, what each row sees, and the mask by the definition."""

    def __init__(self, specs, page_size, seed=0):
        rng = np.random.default_rng(seed)
        definitions = [define([spec]) for spec in specs]
        pages = [-(-one.mask.shape[1] // page_size) for one in definitions]
        n = COLUMNS // page_size
        self.num_pages = n + 5
        self.page_indices = np.zeros(n, np.int32)
        self.page_lens = np.zeros(n, np.int32)
        owned = rng.permutation(self.num_pages)[: sum(pages)]
        self.page_indices[: sum(pages)] = owned
        self.mask = np.zeros((ROWS, n * page_size), np.bool_)
        self.slots = np.full(n * page_size, -1, np.int32)  # of each column
        row = page = 0
        for one, count in zip(definitions, pages, strict=True):
            rows, columns = one.mask.shape
            first = page * page_size
            self.mask[row : row + rows, first : first + columns] = one.mask
            left = columns - page_size * np.arange(count)
            self.page_lens[page : page + count] = np.minimum(left, page_size)
            column = first + np.arange(columns)
            self.slots[column] = (
                self.page_indices[column // page_size] * page_size + column % page_size
            )
            row, page = row + rows, page + count
        self.row_intervals = intervals(self.mask)
        self.page_size = page_size

    def arrays(self, query_heads, kv_heads, head_dim, dtype, seed=0):
        """q, the pages, and the contiguous k and v that they hold."""
        rng = np.random.default_rng(seed)
        q = rng.standard_normal((ROWS, query_heads, head_dim))
        k, v = rng.standard_normal((2, self.slots.size, kv_heads, head_dim))
        q, k, v = (jnp.asarray(x, dtype) for x in (q, k, v))
        packing = paged.packing_of(dtype)
        padded = -(-head_dim // 128) * 128
        empty = jnp.full(
            (self.num_pages, self.page_size, 2 * kv_heads // packing, packing, padded),
            jnp.nan,
            dtype,
        )
        return q, fill(empty, np.asarray(k), np.asarray(v), self.slots), k, v


def fill(pages, k, v, slots):
    """The pages with columns in their slots, one value after another."""
    pages = np.array(pages)
    _, page_size, _, packing, _ = pages.shape
    for column in np.flatnonzero(slots >= 0):
        page, place = divmod(int(slots[column]), page_size)
        for head in range(k.shape[1]):
            for kind, x in enumerate((k, v)):
                at = divmod(2 * head + kind, packing)
                pages[page, place, at[0], at[1], : k.shape[2]] = x[column, head]
    return jnp.asarray(pages)


def intervals(mask):
    """prefix_begin, prefix_end, own_begin, own_end of each row: its first run of columns, and its second."""
    found = np.zeros((4, mask.shape[0]), np.int32)
    for row, seen in enumerate(mask):
        edges = np.flatnonzero(np.diff(np.r_[0, seen.astype(np.int8), 0]))
        found[: edges.size, row] = edges
    return found


@functools.cache
def compiled(soft_cap=None):
    def run(q, pages, page_indices, page_lens, schedule):
        return paged.paged_attention(
            q,
            pages,
            page_indices,
            page_lens,
            schedule,
            scale=q.shape[-1] ** -0.5,
            soft_cap=soft_cap,
            interpret=kernel_interpreter.checking(),
        )

    jitted = jax.jit(run)

    def wait(*arrays):
        # The interpreter calls back into Python: work that is dispatched beside it can starve it of threads.
        jax.block_until_ready(arrays)
        return jax.block_until_ready(jitted(*arrays))

    return wait


@functools.partial(jax.jit, static_argnames="head_dim")
def gather(pages, page_indices, page_lens, head_dim):
    return paged.gather_columns(pages, page_indices, page_lens, head_dim=head_dim)


def attend(pack, q, pages, **options):
    schedule = KernelSchedule.of_intervals(pack.row_intervals, pack.slots.size, sizes=SIZES)
    return compiled(**options)(q, pages, pack.page_indices, pack.page_lens, schedule)


@pytest.mark.parametrize("case", pairwise.cases(MATRIX) if FULL else CASES, ids=str)
def test_equals_attention_over_contiguous_columns(case):
    """Any mistake in the page table, the heads' interleaving or the packing shows here; NaN is all around."""
    pack = Pack(PACKS[case["pack"]], case["page_size"])
    q, pages, k, v = pack.arrays(*case["heads"], case["head_dim"], case["dtype"])
    assert jnp.isnan(pages).any()
    out, lse = attend(pack, q, pages)
    expected, expected_lse = attend_float64(q, k, v, pack.mask)
    sees = pack.mask.any(axis=1)
    largest = np.abs(np.asarray(v, np.float64)).max()
    tolerance = TOLERANCE[case["dtype"]]
    assert np.abs(np.asarray(out, np.float64) - expected).max() <= tolerance * largest
    assert not np.asarray(out)[~sees].any()
    np.testing.assert_allclose(
        np.asarray(lse)[sees], expected_lse[sees], rtol=10 * tolerance, atol=10 * tolerance
    )
    # The same bits, whatever foreign pages and the unused rest of a last page hold.
    largest_finite = float(jnp.finfo(case["dtype"]).max)
    others = jnp.where(jnp.isnan(pages), largest_finite, pages)
    for before, after in zip((out, lse), attend(pack, q, others), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
    "case",
    pairwise.cases(
        {**MATRIX, "page_size": [1, 3, 16, 48, 128, 256], "heads": [(1, 1), (2, 2), (3, 3)]}
    ),
    ids=str,
)
def test_gathered_columns_are_bit_for_bit_what_the_pages_hold(case):
    pack = Pack(PACKS[case["pack"]], case["page_size"])
    _, pages, k, v = pack.arrays(*case["heads"], case["head_dim"], case["dtype"])
    gathered = gather(pages, pack.page_indices, pack.page_lens, case["head_dim"])
    counts = pack.slots >= 0
    for got, want in zip(gathered, (k, v), strict=True):
        expected = np.where(counts[:, None, None], np.asarray(want), 0)
        np.testing.assert_array_equal(np.asarray(got)[: counts.size], expected)
        assert not np.asarray(got)[counts.size :].any()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_written_columns_are_where_the_pages_are_read(dtype):
    pack = Pack(PACKS["several requests"], 16)
    _, pages, k, v = pack.arrays(2, 2, 64, dtype)
    empty = jnp.full_like(pages, jnp.nan)
    written = paged.write_columns(empty, k, v, jnp.asarray(pack.slots))
    np.testing.assert_array_equal(
        np.asarray(written, np.float32)[..., :64], np.asarray(pages, np.float32)[..., :64]
    )


def test_a_wrong_page_is_seen():
    """The comparison can fail: one entry of the page table names a page of NaN."""
    pack = Pack(PACKS["one request"], 16)
    q, pages, _, _ = pack.arrays(2, 2, 64, "float32")
    foreign = np.setdiff1d(np.arange(pack.num_pages), pack.page_indices)[0]
    pack.page_indices[3] = foreign
    out, _ = attend(pack, q, pages)
    assert np.isnan(np.asarray(out)).any()


CACHE = (8, 16, 2, 1, 128)


@pytest.mark.parametrize(
    ("cache", "dtype", "lens", "message"),
    [
        ((8, 16, 2, 128), "float32", 4, "kv_pages must have 5 dimensions"),
        ((8, 512, 2, 1, 128), "float32", 4, "page_size must be from 1 to 256, got 512"),
        (CACHE, "bfloat16", 4, "packing of bfloat16 must be 2, got 1"),
        ((8, 16, 2, 1, 64), "float32", 4, "head_dim 64 padded to a multiple of 128, got 64"),
        (CACHE, "float32", 3, r"must have the same shape \[n\], got \(4,\) and \(3,\)"),
        (CACHE, "float16", 4, "q must have"),
    ],
)
def test_bad_caches_are_rejected_by_name(cache, dtype, lens, message):
    q = jnp.zeros((8, 1, 64), "float32")
    pages = jnp.zeros(cache, "float32" if dtype == "float16" else dtype)
    if dtype == "float16":
        q = q.astype("bfloat16")
    pack = Pack([RequestSpec(3, [1])], 16)
    schedule = KernelSchedule.of_intervals(pack.row_intervals, 64, sizes=SIZES)
    with pytest.raises(ValueError, match=message):
        paged.paged_attention(
            q,
            pages,
            jnp.zeros(4, jnp.int32),
            jnp.zeros(lens, jnp.int32),
            schedule,
            scale=1.0,
        )


def test_a_schedule_of_other_columns_is_refused_before_tracing(monkeypatch):
    """Columns beyond those of the schedule would be read as if they were padding, or its own be missing."""
    monkeypatch.setattr(paged, "gather_columns", None)  # tracing would fail otherwise
    pack = Pack([RequestSpec(3, [1])], 16)
    schedule = KernelSchedule.of_intervals(pack.row_intervals, 48, sizes=SIZES)
    table = np.zeros(4, np.int32)
    message = "schedule must cover the 64 columns of page_indices, got one for 48"
    with pytest.raises(ValueError, match=message):
        paged.paged_attention(
            jnp.zeros((ROWS, 1, 64)), jnp.zeros(CACHE), table, table, schedule, scale=1.0
        )


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"page_indices": [0, 1, 8, 2]}, r"page_indices\[2\] must be from 0 to 7, got 8"),
        ({"page_indices": [0, -1, 3, 2]}, r"page_indices\[1\] must be from 0 to 7, got -1"),
        ({"page_lens": [16, 16, 17, 0]}, r"page_lens\[2\] must be from 0 to 16, got 17"),
    ],
)
def test_page_tables_beyond_the_cache_are_refused_before_tracing(table, message, monkeypatch):
    """A gather clamps what is out of range: the row would silently see another request's page."""
    monkeypatch.setattr(paged, "gather_columns", None)  # tracing would fail otherwise
    table = {"page_indices": [0, 1, 2, 3], "page_lens": [16, 16, 16, 16]} | table
    pack = Pack([RequestSpec(3, [1])], 16)
    schedule = KernelSchedule.of_intervals(pack.row_intervals, 64, sizes=SIZES)
    with pytest.raises(ValueError, match=message):
        paged.paged_attention(
            jnp.zeros((ROWS, 1, 64)),
            jnp.zeros(CACHE),
            np.asarray(table["page_indices"], np.int32),
            np.asarray(table["page_lens"], np.int32),
            schedule,
            scale=1.0,
        )
