"""No back end lets another item or request change a row, by a single bit.

If one of these fails, scores depend on neighbours. docs/kernel.md says how far a value that is not finite reaches.
"""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from attention_backends import BACKENDS, INTERPRETED, attend, reached
from isoprefill import PackedLayout

TOKENS = 512
# Over pages the kernel is the same: they get the dtype of which two values share a word.
CASES = [
    (backend, dtype)
    for backend in BACKENDS
    for dtype in ("float32", "bfloat16")
    if (backend, dtype) != ("paged", "float32")
]
# Content of others' q, k and v; of q and k only where it is not finite.
CONTENTS = {
    "norms x 10,000": lambda x: x * 1e4,
    "the dtype's largest": lambda x: jnp.full_like(x, jnp.finfo(x.dtype).max),
    "the dtype's smallest": lambda x: jnp.full_like(x, jnp.finfo(x.dtype).min),
    "nan": lambda x: jnp.full_like(x, jnp.nan),
    "infinity": lambda x: jnp.full_like(x, jnp.inf),
    "minus infinity": lambda x: jnp.full_like(x, -jnp.inf),
}
# (request, item): among others; longer than a window of the kernel allows; beside delimiters; over a cached prefix.
KEPT = [(0, 3), (0, 7), (1, 2), (2, 1)]
POISONED = [(0, 3), (1, 2)]


def layout_of(isolation="isolated"):
    return PackedLayout.concat(
        [
            PackedLayout.from_lengths(100, [20] * 6 + [60] + [5] * 3, isolation=isolation),
            PackedLayout.from_lengths(40, [30, 25], "hidden", isolation=isolation),
            PackedLayout.from_lengths(12, [9, 2], cached_prefix=True, isolation=isolation),
        ],
        TOKENS,
        pad_columns_to=TOKENS,
    )


@functools.cache
def inputs(dtype):
    rng = np.random.default_rng(0)
    heads = (4, 2, 2)
    return [jnp.asarray(rng.standard_normal((TOKENS, n, 64), np.float32), dtype) for n in heads]


@functools.cache
def original(backend, dtype):
    return attend(backend, *inputs(dtype), layout_of())


def rows_and_columns(request, item):
    """Of the item: its rows, and the columns that they may see."""
    layout = layout_of()
    rows = (layout.request_ids == request) & (layout.segment_ids == item)
    columns = (layout.key_request_ids == request) & np.isin(layout.key_segment_ids, [0, item])
    return rows, columns


def kept(x, where, content):
    return jnp.where(where[:, None, None], x, content(x))


@pytest.mark.parametrize(("backend", "dtype"), CASES)
@pytest.mark.parametrize("content", CONTENTS)
def test_content_of_others_does_not_change_a_bit(content, backend, dtype):
    q, k, v = inputs(dtype)
    change = CONTENTS[content]
    finite = bool(jnp.isfinite(change(v)).all())
    one = list(CONTENTS).index(content) % len(KEPT)
    for request, item in KEPT[one : one + 1] if backend in INTERPRETED else KEPT:
        rows, columns = rows_and_columns(request, item)
        changed = attend(
            backend,
            kept(q, rows, change),
            kept(k, columns, change),
            kept(v, columns, change) if finite else v,
            layout_of(),
        )
        for before, after in zip(original(backend, dtype), changed, strict=True):
            np.testing.assert_array_equal(before[rows], after[rows])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_what_is_not_finite_in_v_reaches_only_rows_that_compute_with_it(poison, backend):
    """0 * NaN is NaN: rows whose tile, window or masked unit holds the value, and no others."""
    dtype = "bfloat16" if backend == "paged" else "float32"
    q, k, v = inputs(dtype)
    before, lse = original(backend, dtype)
    layout = layout_of()
    reach = reached(backend, layout)
    for request, item in POISONED:
        columns = (layout.key_request_ids == request) & (layout.key_segment_ids == item)
        out, lse_after = attend(
            backend, q, k, jnp.where(columns[:, None, None], poison, v).astype(dtype), layout
        )
        clean = ~reach[:, columns].any(axis=1) & (layout.segment_ids > 0)
        assert clean.any() or backend == "dense"
        np.testing.assert_array_equal(before[clean], out[clean])
        np.testing.assert_array_equal(lse[clean], lse_after[clean])
        own = layout.dense_mask()[:, columns].any(axis=1)
        assert not np.isfinite(out[own].astype(np.float32)).any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_a_window_hides_does_not_change_a_bit(backend):
    """The beginning of the query, for rows more than a window behind it."""
    dtype = "bfloat16" if backend == "paged" else "float32"
    q, k, v = inputs(dtype)
    layout = layout_of().with_window(64)
    columns = (layout.key_request_ids == 0) & (np.arange(TOKENS) < 40)
    hidden = ~layout.dense_mask()[:, columns].any(axis=1) & (layout.segment_ids > 0)
    before = attend(backend, q, k, v, layout)
    after = attend(backend, q, kept(k, ~columns, lambda x: x * np.nan), v, layout)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one[hidden], other[hidden])
    seen = layout.dense_mask()[:, columns].any(axis=1)
    assert not np.isfinite(after[0][seen].astype(np.float32)).any()
    clean = ~reached(backend, layout)[:, columns].any(axis=1) & (layout.segment_ids > 0)
    after = attend(backend, q, k, kept(v, ~columns, lambda x: x * np.nan), layout)
    np.testing.assert_array_equal(before[0][clean], after[0][clean])
    assert backend != "cpu" or (clean == hidden).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_comparison_can_fail(backend):
    """With causal isolation the same change is seen: the tests above do not compare equal things."""
    q, k, v = inputs("bfloat16" if backend == "paged" else "float32")
    rows, columns = rows_and_columns(1, 2)
    layout = layout_of("causal")
    before, _ = attend(backend, q, k, v, layout)
    after, _ = attend(backend, q, k, kept(v, columns, lambda x: x * 2), layout)
    assert (before[rows] != after[rows]).any(axis=(1, 2)).all()
