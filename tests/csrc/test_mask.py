"""The mask is what docs/design.md defines: dense, as intervals, as packed bits, and in FlashInfer's parameters.

The oracle is tests/support/mask_definition.py, and for hidden delimiters also FlashInfer's own rule.
"""

import itertools

import numpy as np
from hypothesis import strategies as st

from csrc_layout import build
from mask_definition import RequestSpec, define, visible
from random_packs import cases, packs, requests, windows


def block_of_request(layout, mask, request):
    """The part of the mask that a request has to itself."""
    return mask[layout.request_ids == request][:, layout.key_request_ids == request]


@cases(packs, st.integers(0, 9), windows)
def test_masks_and_intervals_are_the_definition(specs, padding, window):
    """Dense, as the two intervals of each row, and as FlashInfer's bits."""
    rows = define(specs).segment_ids.size + padding
    layout, expected = build(specs, rows, window=window), define(specs, rows, window=window)
    assert layout.window == window
    mask = layout.dense_mask()
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, expected.mask)

    prefix_begin, prefix_end, own_begin, own_end = layout.row_intervals[:, :, None]
    column = np.arange(layout.num_columns)
    prefix = (prefix_begin <= column) & (column < prefix_end)
    own = (own_begin <= column) & (column < own_end)
    assert not (prefix & own).any()
    np.testing.assert_array_equal(prefix | own, define(specs, rows).mask)
    assert (prefix_begin[prefix_begin == prefix_end] == 0).all()
    assert (own_begin[own_begin == own_end] == 0).all()

    bits, offsets = layout.packed_bits(), layout.packed_bit_offsets()
    assert offsets[-1] == bits.size
    for r in range(len(specs)):
        block = block_of_request(layout, expected.mask, r)
        np.testing.assert_array_equal(
            bits[offsets[r] : offsets[r + 1]], np.packbits(block.flatten(), bitorder="little")
        )


@cases(packs)
def test_a_window_of_all_positions_hides_nothing_and_a_window_of_one_all_but_the_row(specs):
    """The ends of the range, where an error by one shows."""
    whole = build(specs)
    longest = int(whole.positions.max(initial=0)) + 1
    np.testing.assert_array_equal(build(specs, window=longest).dense_mask(), whole.dense_mask())
    if longest > 1:
        shorter = build(specs, window=longest - 1).dense_mask()
        assert (shorter != whole.dense_mask()).any()
    alone = build(specs, window=1).dense_mask()
    np.testing.assert_array_equal(alone.sum(axis=1), whole.dense_mask().any(axis=1))


def test_large_masks_hold_no_stale_memory():
    """From 32 MiB on zeros are left to the allocator: they must be zeros even where memory was used before."""
    specs = [RequestSpec(500, [30] * 190)]
    expected = define(specs).mask
    layout = build(specs)
    for _ in range(2):
        rubbish = np.full(expected.size, 255, np.uint8)
        del rubbish
        np.testing.assert_array_equal(layout.dense_mask(), expected)


@cases(st.lists(requests(causal=st.just(False)), min_size=1, max_size=4))
def test_no_item_sees_another(specs):
    """Item 1 too: a known builder took `segment <= 1` for the prefix, and so showed item 1 to every later item."""
    layout = build(specs)
    mask = layout.dense_mask()
    rows = np.where(layout.segment_ids > 0)[0]
    for row in rows:
        seen = np.where(mask[row])[0]
        assert set(layout.key_segment_ids[seen]) == {0, layout.segment_ids[row]}
        assert set(layout.key_request_ids[seen]) == {layout.request_ids[row]}
        assert seen[-1] == layout.row_columns[row]
    assert not mask[:, layout.key_segment_ids == -2].any(), (
        "a delimiter is seen by nobody, itself included"
    )


def test_the_definition_tells_a_leak_of_item_1():
    """The oracle itself: with item 1 taken for the prefix, later items see it, and the masks differ."""
    d = define([RequestSpec(5, [3, 2, 4])])
    leaky_keys = np.where(d.key_segment_ids == 1, 0, d.key_segment_ids)
    leaky = visible(d.segment_ids, d.request_ids, d.row_columns, leaky_keys, d.key_request_ids)
    np.testing.assert_array_equal(np.argwhere(leaky & ~d.mask)[:, 1], [5, 6, 7] * 6)


@cases(st.lists(requests(delimiters=["hidden"], causal=st.just(False)), min_size=1, max_size=4))
def test_flashinfers_rule_gives_the_same_mask(specs):
    """FlashInfer's rule in its own variables: with its parameters it must see what our mask shows."""
    layout, params = build(specs), build(specs).flashinfer_params()
    assert params["prefix_len_ptr"].dtype == np.uint32
    assert params["token_pos_in_items_ptr"].dtype == np.uint16
    assert params["max_item_len_ptr"].dtype == np.uint16
    assert params["token_pos_in_items_ptr"].shape == (len(specs), params["token_pos_in_items_len"])
    mask = layout.dense_mask()
    for r, spec in enumerate(specs):
        block = block_of_request(layout, mask, r)
        qo_len, kv_len = block.shape
        prefix_len = int(params["prefix_len_ptr"][r])
        token_pos = params["token_pos_in_items_ptr"][r].astype(int)
        # Within the prefix, causal: as if the row's t reached back to column 0.
        for q_idx, kv in itertools.product(range(qo_len), range(kv_len)):
            p = q_idx + kv_len - qo_len
            t = p + 1 if p < prefix_len else token_pos[p - prefix_len]
            seen = (kv < prefix_len <= p) or p - t < kv <= p
            assert block[q_idx, kv] == seen, (r, q_idx, kv)
        assert params["max_item_len_ptr"][r] == max(spec.item_lens, default=0)
        assert not token_pos[kv_len - prefix_len :].any()


def test_flashinfers_numbers():
    """Items 3, 2, 4 give 0,1,2,3,0,1,2,0,1,2,3,4,0, and an item may have 65,535 tokens."""
    params = build([RequestSpec(5, [3, 2, 4], "hidden")]).flashinfer_params()
    assert params["token_pos_in_items_ptr"].tolist() == [[0, 1, 2, 3, 0, 1, 2, 0, 1, 2, 3, 4, 0]]
    assert params["token_pos_in_items_len"] == 13
    assert params["prefix_len_ptr"].tolist() == [5]
    assert params["max_item_len_ptr"].tolist() == [4]
    longest = build([RequestSpec(1, [65_535], "hidden")]).flashinfer_params()
    assert longest["max_item_len_ptr"].tolist() == [65_535]
    assert longest["token_pos_in_items_ptr"][0, -2] == 65_535
