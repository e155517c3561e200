"""Between our layouts and FlashInfer's arguments: what one says, the other says, by FlashInfer's published rule.

No GPU and no FlashInfer: its rule is a formula of its kernel, in its own variables.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoprefill import PackedLayout
from isoprefill.integrations import flashinfer
from mask_definition import RequestSpec, define

# Two of FlashInfer's own test cases: kv_len, qo_len, prefix_len, token_pos_in_items, token_pos_in_items_len,
# max_item_len, and the items that they hold.
FLASHINFERS = [
    (54, 37, 17, [*range(17), *range(19), 0], 100, 18, [16, 18]),
    (97, 81, 16, [*range(80), 0], 97, 79, [79]),
]

BOOLEANS = st.booleans()


def specs(delimiters, cached=BOOLEANS):
    def make(prefix_len, item_lens, delimiter, cached_prefix):
        return RequestSpec(prefix_len, item_lens, delimiter, cached_prefix)

    lengths = st.lists(st.integers(1, 9), min_size=1, max_size=5)
    return st.builds(make, st.integers(1, 12), lengths, delimiters, cached)


def layout_of(requests, pad_to=None):
    return PackedLayout.concat(
        [
            PackedLayout.from_lengths(
                spec.prefix_len,
                list(spec.item_lens),
                spec.delimiter,
                cached_prefix=spec.cached_prefix,
            )
            for spec in requests
        ],
        pad_to=pad_to,
    )


def rule(params, request, qo_len, kv_len):
    """What FlashInfer's kernel lets each query position of a request see, from its parameters alone."""
    prefix_len = int(params["prefix_len_ptr"][request])
    first = request * params["token_pos_in_items_len"]
    seen = np.zeros((qo_len, kv_len), bool)
    for q_idx in range(qo_len):
        p = q_idx + kv_len - qo_len
        for kv in range(kv_len):
            if p < prefix_len:
                seen[q_idx, kv] = kv <= p
            else:
                t = int(params["token_pos_in_items_ptr"][first + p - prefix_len])
                seen[q_idx, kv] = kv < prefix_len or p - t < kv <= p
    return seen


@given(st.lists(specs(st.just("hidden")), min_size=1, max_size=3), st.integers(0, 7))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_the_parameters_mean_our_mask(requests, padding):
    """FlashInfer's kernel, given our parameters, would see what the definition of the mask says."""
    expected = define(requests)
    layout = layout_of(requests, expected.segment_ids.size + padding)
    params = flashinfer.parameters(layout)
    assert tuple(params) == flashinfer.PARAMETERS
    assert params["token_pos_in_items_ptr"].shape == (
        len(requests) * params["token_pos_in_items_len"],
    )
    for request in range(len(requests)):
        rows, columns = expected.request_ids == request, expected.key_request_ids == request
        np.testing.assert_array_equal(
            rule(params, request, rows.sum(), columns.sum()), expected.mask[rows][:, columns]
        )


@given(st.lists(specs(st.just("hidden"), st.just(False)), min_size=1, max_size=3), st.booleans())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_parameters_come_back_as_their_layout(requests, cached_prefix):
    """What FlashInfer batches, our attention can compute: the same rows, positions, read-outs and mask."""
    requests = [spec._replace(cached_prefix=cached_prefix) for spec in requests]
    layout = layout_of(requests)
    back = flashinfer.layout_from_parameters(
        flashinfer.parameters(layout), cached_prefix=cached_prefix
    )
    assert_same(back, define(requests))


@pytest.mark.parametrize("item_lens", [[[]], [[], []], [[], [2, 3]]], ids=str)
def test_requests_without_items_come_back(item_lens):
    """Their rows of positions hold nothing, or zeros alone beside requests that have items."""
    requests = [RequestSpec(5, lens, "hidden") for lens in item_lens]
    back = flashinfer.layout_from_parameters(flashinfer.parameters(layout_of(requests)))
    assert_same(back, define(requests))


@pytest.mark.parametrize("dtype", ["int32", "bool", "float32"])
def test_masks_that_are_not_bytes_are_refused(dtype):
    """Cast to bytes, 256 would be 0: another mask."""
    bits, _ = flashinfer.packed_mask(PackedLayout.from_lengths(4, [2, 3]))
    with pytest.raises(ValueError, match=f"bits must be uint8, got {dtype}"):
        flashinfer.layout_from_packed_mask(bits.astype(dtype), [9], [9])


def assert_same(layout, expected):
    for name in ("segment_ids", "positions", "request_ids", "row_columns", "readout_rows"):
        np.testing.assert_array_equal(getattr(layout, name), getattr(expected, name), name)
    np.testing.assert_array_equal(layout.dense_mask(), expected.mask)


@pytest.mark.parametrize(
    ("kv_len", "qo_len", "prefix_len", "positions", "row_len", "longest", "item_lens"), FLASHINFERS
)
def test_flashinfers_own_cases(kv_len, qo_len, prefix_len, positions, row_len, longest, item_lens):
    """Made by others, with the prefix cached and the zeros behind the last delimiter left out."""
    params = {
        "prefix_len_ptr": np.array([prefix_len], np.uint32),
        "token_pos_in_items_ptr": np.array(positions, np.uint16),
        "token_pos_in_items_len": row_len,
        "max_item_len_ptr": np.array([longest], np.uint16),
    }
    layout = flashinfer.layout_from_parameters(params, cached_prefix=True)
    assert layout.item_lens.tolist() == item_lens
    np.testing.assert_array_equal(layout.dense_mask(), rule(params, 0, qo_len, kv_len))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_item_len_ptr": None}, "max_item_len_ptr must be given"),
        ({"max_item_len_ptr": [3, 4]}, r"max_item_len_ptr\[1\] must be the longest item's 2 tokens, got 4"),
        ({"max_item_len_ptr": [3]}, "one length for each of the 2 requests, got 1"),
        ({"prefix_len_ptr": [0, 5]}, "prefix_len"),
        ({"prefix_len_ptr": [4.0, 5.0]}, "prefix_len_ptr must be a flat list of integers"),
        ({"token_pos_in_items_len": 9}, "2 rows of token_pos_in_items_len = 9"),
        ({"token_pos_in_items_ptr": [1, 0, 1, 2, 3, 0] + [0, 1, 2, 0, 0, 0]}, "request 0 must begin"),
        ({"token_pos_in_items_ptr": [0, 1, 0, 1, 2, 3] + [0, 1, 2, 0, 0, 0]}, "and end with a delimiter"),
        ({"token_pos_in_items_ptr": [0, 1, 0, 1, 3, 0] + [0, 1, 2, 0, 0, 0]}, "got 3 at 4"),
        ({"token_pos_in_items_ptr": [0, 1, 2, 3, 0, 0] + [0, 0, 1, 2, 0, 0]}, "request 1 must not have an empty item"),
    ],
)  # fmt: skip
def test_bad_parameters_are_named(change, message):
    """A tile skip by a too small max_item_len, or positions off by one, give wrong scores in silence."""
    params = {
        "prefix_len_ptr": [4, 5],
        "token_pos_in_items_ptr": [0, 1, 2, 3, 0, 0] + [0, 1, 2, 0, 0, 0],
        "token_pos_in_items_len": 6,
        "max_item_len_ptr": [3, 2],
    }
    assert flashinfer.layout_from_parameters(params).item_lens.tolist() == [3, 2]
    with pytest.raises(ValueError, match=message):
        flashinfer.layout_from_parameters(params | change)


def test_only_hidden_delimiters_have_parameters():
    """Without a delimiter FlashInfer's rule would hide an item's first token from its second."""
    with pytest.raises(ValueError, match="hidden"):
        flashinfer.parameters(PackedLayout.from_lengths(4, [2, 3]))


@given(
    st.lists(specs(st.sampled_from(["none", "hidden", "prefix_first"])), min_size=1, max_size=3),
    st.integers(0, 7),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_a_packed_mask_is_the_definition_and_comes_back(requests, padding):
    """Bit i of byte j of a request is pair 8j + i; the layout is found again from its mask alone."""
    expected = define(requests)
    bits, begins = flashinfer.packed_mask(layout_of(requests, expected.segment_ids.size + padding))
    qo_lens, kv_lens = [], []
    for request in range(len(requests)):
        rows, columns = expected.request_ids == request, expected.key_request_ids == request
        qo_lens.append(int(rows.sum()))
        kv_lens.append(int(columns.sum()))
        np.testing.assert_array_equal(
            bits[begins[request] : begins[request + 1]],
            np.packbits(expected.mask[rows][:, columns], bitorder="little"),
        )
    back = flashinfer.layout_from_packed_mask(bits, qo_lens, kv_lens)
    np.testing.assert_array_equal(back.dense_mask(), expected.mask)
    assert back.num_rows == expected.segment_ids.size
    if all(
        spec.cached_prefix or spec.delimiter != "none" or len(spec.item_lens) > 1
        for spec in requests
    ):
        assert_same(back, expected)


def test_a_causal_mask_comes_back_as_a_prefix():
    """Nothing in it says where a prefix would end."""
    layout = PackedLayout.from_lengths(6, [2, 3], isolation="causal")
    back = flashinfer.layout_from_packed_mask(flashinfer.packed_mask(layout)[0], [11], [11])
    assert back.item_lens.size == 0
    np.testing.assert_array_equal(back.positions, layout.positions)
    np.testing.assert_array_equal(back.dense_mask(), layout.dense_mask())


@pytest.mark.parametrize(
    ("row", "column", "seen"),
    [(6, 3, False), (6, 5, True), (4, 5, True), (7, 5, True), (0, 0, False), (8, 8, False), (3, 2, False)],
)  # fmt: skip
def test_a_mask_of_no_layout_is_refused(row, column, seen):
    """One wrong bit: a leak between items, a hole in the prefix, a row that sees the future."""
    mask = PackedLayout.from_lengths(4, [2, 3]).dense_mask()
    assert mask[row, column] != seen
    mask[row, column] = seen
    bits = np.packbits(mask, bitorder="little")
    with pytest.raises(ValueError, match="the mask of request 0 does not belong to any layout"):
        flashinfer.layout_from_packed_mask(bits, [9], [9])


@pytest.mark.parametrize(
    ("bits", "qo_lens", "kv_lens", "message"),
    [
        (11, [9], [9, 9], "one length for each request, got 1 and 2"),
        (11, [], [], "one length for each request, got 0 and 0"),
        (11, [10], [9], r"qo_lens\[0\] must be from 1 to kv_lens\[0\] = 9, got 10"),
        (10, [9], [9], "bits ends within request 0: 10 bytes"),
        (12, [9], [9], "bits must hold 11 bytes for these lengths, got 12"),
    ],
)
def test_lengths_that_do_not_fit_the_bits_are_refused(bits, qo_lens, kv_lens, message):
    """Read with another length, a mask would be that of another batch."""
    packed = np.resize(flashinfer.packed_mask(PackedLayout.from_lengths(4, [2, 3]))[0], bits)
    with pytest.raises(ValueError, match=message):
        flashinfer.layout_from_packed_mask(packed, qo_lens, kv_lens)


def test_windows_have_a_mask_and_no_parameters():
    """FlashInfer's own window counts columns; items begin again at the query's end, so it would hide other columns."""
    layout = PackedLayout.from_lengths(6, [2, 3], "hidden")
    windowed = layout.with_window(4)
    with pytest.raises(ValueError, match=r"window is 4; FlashInfer's parameters describe no"):
        flashinfer.parameters(windowed)
    bits, _ = flashinfer.packed_mask(windowed)
    expected = define([RequestSpec(6, [2, 3], "hidden")], window=4).mask
    np.testing.assert_array_equal(bits, np.packbits(expected.ravel(), bitorder="little"))
    with pytest.raises(ValueError, match="the mask of request 0 does not belong to any layout"):
        flashinfer.layout_from_packed_mask(bits, [14], [14])
