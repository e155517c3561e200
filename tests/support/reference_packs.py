"""Packs for the attention back ends but the TPU kernel, and how their numbers are compared with the definition."""

import jax.numpy as jnp
import numpy as np

from attention_backends import BACKENDS as ALL_BACKENDS
from attention_backends import INTERPRETED
from attention_oracle import attend_float64
from isoprefill import PackedLayout, multi_item_attention
from mask_definition import define

# The kernel has tests/kernel/test_kernel_numbers.py.
BACKENDS = [name for name in ALL_BACKENDS if name not in INTERPRETED]
TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2}  # of max |v|


def layout_of(specs, pad_to=None, pad_columns_to=None, window=None) -> PackedLayout:
    parts = [
        PackedLayout.from_lengths(
            spec.prefix_len,
            spec.item_lens,
            spec.delimiter,
            spec.cached_prefix,
            isolation="causal" if spec.causal else "isolated",
            shared_lens=spec.shared_lens or None,
        )
        for spec in specs
    ]
    return PackedLayout.concat(parts, pad_to, pad_columns_to=pad_columns_to).with_window(window)


def random_qkv(layout, query_heads=2, kv_heads=1, head_dim=64, dtype="float32", seed=0):
    rng = np.random.default_rng(seed)
    shapes = (
        (layout.num_rows, query_heads, head_dim),
        (layout.num_columns, kv_heads, head_dim),
        (layout.num_columns, kv_heads, head_dim),
    )
    return [jnp.asarray(rng.standard_normal(shape, np.float32), dtype) for shape in shapes]


def assert_equals_oracle(specs, layout, arrays, backend, **options):
    result = multi_item_attention(*arrays, layout, backend=backend, return_lse=True, **options)
    assert_is_oracle(specs, layout, arrays, result, **options)


def assert_is_oracle(specs, layout, arrays, result, **options):
    out, lse = result
    mask = define(specs, layout.num_rows, layout.num_columns, layout.window).mask
    expected, expected_lse = attend_float64(*arrays, mask, **options)
    assert out.dtype == arrays[0].dtype
    tolerance = TOLERANCE[str(out.dtype)]
    largest_value = np.abs(np.asarray(arrays[2], np.float64)).max()
    assert np.abs(np.asarray(out, np.float64) - expected).max() <= tolerance * largest_value
    np.testing.assert_array_equal(
        np.isneginf(lse), ~mask.any(axis=1)[:, None].repeat(lse.shape[1], 1)
    )
    np.testing.assert_allclose(lse, expected_lse, rtol=10 * tolerance, atol=10 * tolerance)
    assert not np.asarray(out)[~mask.any(axis=1)].any(), "a row that sees nothing must give zeros"
