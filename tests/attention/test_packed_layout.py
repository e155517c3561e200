"""`PackedLayout`, the face of the mask op that users see: its arrays, its pytree, its errors."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csrc_layout import build
from isoprefill import PackedLayout
from isoprefill.attention.layout import RequestShape
from isoprefill.attention.padding import bucket_size
from isoprefill.attention.xla.schedule import TILES, aligned_schedule
from mask_definition import RequestSpec, define


def test_worked_example():
    """The pack that docs/design.md draws."""
    layout = PackedLayout.from_lengths(5, [3, 2, 4])
    assert layout.segment_ids.tolist() == [0] * 5 + [1] * 3 + [2] * 2 + [3] * 4
    assert layout.positions.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 5, 6, 5, 6, 7, 8]
    assert layout.readout_rows.tolist() == [7, 9, 13]
    assert layout.item_first_rows.tolist() == [5, 8, 10]
    assert layout.item_context_rows.tolist() == [4, 4, 4]
    assert layout.item_lens.tolist() == [3, 2, 4]
    assert layout.item_requests.tolist() == [0, 0, 0]
    drawn = ["".join("#" if seen else "." for seen in row) for row in layout.dense_mask()]
    assert drawn[4:6] == ["#####.........", "######........"]
    assert drawn[8] == "#####...#....."
    assert drawn[13] == "#####.....####"
    bits = np.unpackbits(layout.packed_bits(), bitorder="little")[: 14 * 14]
    np.testing.assert_array_equal(bits.reshape(14, 14).astype(bool), layout.dense_mask())


def test_arrays_are_int32():
    layout = PackedLayout.from_lengths(5, [3, 2, 4], "hidden", pad_to=32)
    arrays = (*jax.tree.leaves(layout), layout.readout_rows, layout.item_lens)
    assert {array.dtype for array in arrays} == {np.dtype(np.int32)}


@pytest.mark.parametrize("delimiter", ["none", "hidden", "prefix_first"])
@pytest.mark.parametrize("isolation", ["isolated", "causal"])
def test_concat_of_requests_is_the_definition(delimiter, isolation):
    """Each request keeps its own mode, and padding of the parts disappears."""
    first = PackedLayout.from_lengths(5, [3, 2, 4], delimiter, isolation=isolation, pad_to=64)
    second = PackedLayout.from_lengths(2, [1], cached_prefix=True)
    pack = PackedLayout.concat([first, second], pad_to=48, pad_columns_to=56)
    expected = define(
        [
            RequestSpec(5, [3, 2, 4], delimiter, causal=isolation == "causal"),
            RequestSpec(2, [1], cached_prefix=True),
        ],
        pad_to=48,
        pad_columns_to=56,
    )
    for name in ("segment_ids", "request_ids", "positions", "row_columns", "key_segment_ids",
                 "key_request_ids", "readout_rows", "item_first_rows", "item_context_rows"):  # fmt: skip
        np.testing.assert_array_equal(getattr(pack, name), getattr(expected, name), err_msg=name)
    np.testing.assert_array_equal(pack.dense_mask(), expected.mask)


def test_from_tokens_finds_the_items():
    delimiter = 9
    layout = PackedLayout.from_tokens([1, 2, 9, 3, 3, 9, 4, 9], delimiter)
    same = PackedLayout.from_lengths(2, [2, 1], "hidden")
    np.testing.assert_array_equal(layout.segment_ids, same.segment_ids)
    np.testing.assert_array_equal(layout.positions, same.positions)
    with pytest.raises(ValueError, match="empty"):
        PackedLayout.from_tokens([1, 9, 9], delimiter)


def test_flashinfer_params_of_the_published_example():
    params = PackedLayout.from_lengths(5, [3, 2, 4], "hidden").flashinfer_params()
    assert params["prefix_len_ptr"].tolist() == [5]
    assert params["token_pos_in_items_ptr"].ravel().tolist() == [
        0,
        1,
        2,
        3,
        0,
        1,
        2,
        0,
        1,
        2,
        3,
        4,
        0,
    ]
    assert params["token_pos_in_items_len"] == 13
    assert params["max_item_len_ptr"].tolist() == [4]
    with pytest.raises(ValueError, match="hidden"):
        PackedLayout.from_lengths(5, [3]).flashinfer_params()


def test_a_traced_layout_keeps_only_what_is_traced():
    layout = PackedLayout.from_lengths(5, [3, 2, 4], pad_to=64)
    assert layout.num_rows == layout.num_columns == 64
    doubled = jax.jit(lambda layout: layout.positions * 2)(layout)
    np.testing.assert_array_equal(doubled, 2 * layout.positions)
    traced = jax.tree.map(lambda array: array, layout)
    for name, use in {
        "readout_rows": lambda: traced.readout_rows,
        "dense_mask": traced.dense_mask,
        "with_schedule": lambda: traced.with_schedule("xla"),
    }.items():
        with pytest.raises(ValueError, match=f"{name} is not available on a traced PackedLayout"):
            use()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PackedLayout.from_lengths(0, [3]), "prefix_len"),
        (lambda: PackedLayout.from_lengths(5, [3, 0]), r"item_lens"),
        (lambda: PackedLayout.from_lengths(5, [3, -2]), "-2"),
        (lambda: PackedLayout.from_lengths(5, [1.5]), "item_lens must be a flat list of integers"),
        (lambda: PackedLayout.from_lengths(5, [[3]]), "item_lens must be a flat list of integers"),
        (lambda: PackedLayout.from_lengths(5, [2**31]), "2147483648"),
        (lambda: PackedLayout.from_lengths(5, [3], "star"), "star"),
        (lambda: PackedLayout.from_lengths(5, [3], pad_to=7), "7"),
        (lambda: PackedLayout.from_lengths(5, [3], isolation="none"), "isolation must be one of"),
        (lambda: PackedLayout.concat([]), "layouts must hold at least one layout, got 0"),
        (
            lambda: PackedLayout.from_lengths(5, [3]).with_schedule("cuda"),
            "backend must be one of .* got 'cuda'",
        ),
        (lambda: RequestShape(1, np.array([1]), isolation="x"), "isolation must be one of"),
    ],
)
def test_bad_layouts_are_rejected_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_no_items_is_a_prefix_on_its_own():
    layout = PackedLayout.from_lengths(4, []).with_schedule("xla")
    np.testing.assert_array_equal(layout.dense_mask(), np.tri(4, dtype=bool))
    assert not layout.readout_rows.size


def test_tiles_that_no_request_has_are_not_scheduled():
    """In tiles of 64 x 64 the prefix of 100,000 tokens would take more than a million visits, all to be dropped."""
    made = []

    class Op:
        def __init__(self, op):
            self.op = op

        def __getattr__(self, name):
            return getattr(self.op, name)

        def aligned_schedule(self, **sizes):
            made.append((sizes["block_q"], sizes["block_kv"]))
            return self.op.aligned_schedule(**sizes)

    for prefixes, expected in (([100_000], [(512, 512)]), ([600, 20], [(512, 512), (64, 64)])):
        made.clear()
        layout = build([RequestSpec(n, [20] * 9) for n in prefixes])
        schedule = aligned_schedule(Op(layout), TILES, local_block=64)
        assert made == expected
        used = [(one.block_q, one.block_kv) for one in schedule.tiles if one.num_visits]
        assert sorted(used) == sorted(expected)


@settings(derandomize=True, deadline=None)
@given(length=st.integers(1, 1 << 20))
def test_buckets_are_few_and_near(length):
    """Few sizes bound how often a service compiles; near ones bound the padding it computes."""
    size = bucket_size(length)
    assert size >= max(64, length)
    assert size <= max(64 * -(-length // 64), length * 9 / 8)
    assert bucket_size(size) == size
    assert (
        len({bucket_size(rows) for rows in range(length, 2 * length, max(1, length // 512))}) <= 17
    )


def test_a_window_is_kept_and_taken_away():
    """A layout that lost its window on the way would show more than the model sees."""
    layout = PackedLayout.from_lengths(9, [3, 4], pad_to=20)
    windowed = layout.with_window(5)
    assert (windowed.num_rows, windowed.window) == (20, 5)
    assert windowed.with_schedule("xla").window == 5
    assert windowed.dense_mask().sum(axis=1).max() == 5
    np.testing.assert_array_equal(windowed.with_window(None).dense_mask(), layout.dense_mask())
    both = PackedLayout.concat([windowed, windowed])
    assert both.dense_mask().sum(axis=1).max() == both.window == 5
    with pytest.raises(ValueError, match=r"layouts must have one window, got \[5, None\]"):
        PackedLayout.concat([layout, windowed])
