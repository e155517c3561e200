"""The layout of a pack is what docs/design.md defines; the oracle is tests/support/mask_definition.py."""

import numpy as np
import pytest
from hypothesis import strategies as st

import isoprefill_csrc as csrc
from csrc_layout import build
from mask_definition import RequestSpec, define
from random_packs import DELIMITERS, cases, packs


def test_worked_example():
    """The pack drawn in docs/design.md: query 5 and items 3, 2, 4."""
    layout = build([RequestSpec(5, [3, 2, 4])])
    drawn = """
        # . . . . . . . . . . . . .
        # # . . . . . . . . . . . .
        # # # . . . . . . . . . . .
        # # # # . . . . . . . . . .
        # # # # # . . . . . . . . .
        # # # # # # . . . . . . . .
        # # # # # # # . . . . . . .
        # # # # # # # # . . . . . .
        # # # # # . . . # . . . . .
        # # # # # . . . # # . . . .
        # # # # # . . . . . # . . .
        # # # # # . . . . . # # . .
        # # # # # . . . . . # # # .
        # # # # # . . . . . # # # #
    """
    expected = [
        [mark == "#" for mark in line.split()] for line in drawn.split("\n") if line.strip()
    ]
    np.testing.assert_array_equal(layout.dense_mask(), expected)
    assert layout.segment_ids.tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 3]
    assert layout.positions.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 5, 6, 5, 6, 7, 8]
    assert layout.readout_rows.tolist() == [7, 9, 13]


@cases(packs, st.integers(-1, 9), st.integers(-1, 9))
def test_layout_is_the_definition(specs, more_rows, more_columns):
    """Every array, for every delimiter mode, cached or not, causal or not, padded or not."""
    unpadded = define(specs)
    rows = None if more_rows < 0 else unpadded.segment_ids.size + more_rows
    columns = None if more_columns < 0 else unpadded.key_segment_ids.size + more_columns
    if columns is None and unpadded.segment_ids.size == unpadded.key_segment_ids.size:
        columns = rows
    layout, expected = build(specs, rows, columns), define(specs, rows, columns)
    for name, array in expected._asdict().items():
        if name != "mask":
            np.testing.assert_array_equal(getattr(layout, name), array, err_msg=name)
            assert getattr(layout, name).dtype == np.int32, name
    assert (layout.num_rows, layout.num_columns) == expected.mask.shape


@cases(packs)
def test_requests_are_cut_where_their_rows_begin(specs):
    layout = build(specs, pad_to=define(specs).segment_ids.size + 3)
    for r in range(len(specs)):
        assert (layout.request_ids[slice(*layout.request_rows[r : r + 2])] == r).all()
    assert layout.request_rows[-1] == define(specs).segment_ids.size


def test_shared_tokens_have_columns_but_no_rows():
    """The pack that csrc/layout.h lists: were a column to hold another row, an item would see another's tokens."""
    layout = build([RequestSpec(5, [3, 4, 4], shared_lens=[0, 3, 2])])
    assert layout.segment_ids.tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 2, 3, 3]
    assert layout.positions.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 7, 8]
    assert layout.row_columns.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 11, 14, 15]
    assert layout.column_rows.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 5, 6, 7, 8, 5, 6, 9, 10]
    assert layout.item_first_rows.tolist() == [5, 8, 9]
    assert layout.readout_rows.tolist() == [7, 8, 10]


@pytest.mark.parametrize(
    ("delimiter", "delimiter_position", "first_item_position"),
    [("none", None, 7), ("hidden", 6, 7), ("prefix_first", 7, 8)],
)
def test_positions_of_each_delimiter_mode(delimiter, delimiter_position, first_item_position):
    """FlashInfer puts a delimiter at len(q) - 1; the mode prefix_first equals serial `query + <d> + item`."""
    layout = build([RequestSpec(7, [2, 5], delimiter)])
    assert (layout.positions[layout.item_first_rows] == first_item_position).all()
    hidden = layout.positions[layout.segment_ids == -2]
    assert set(hidden.tolist()) == ({delimiter_position} if delimiter_position else set())
    prefix = layout.positions[layout.segment_ids == 0]
    assert prefix.tolist() == list(range(first_item_position))


def test_no_items_is_a_prefix_on_its_own():
    for delimiter in DELIMITERS:
        layout = build([RequestSpec(3, [], delimiter)])
        assert layout.segment_ids.tolist() == [0, 0, 0]
        np.testing.assert_array_equal(layout.dense_mask(), np.tri(3, dtype=bool))
        assert layout.readout_rows.shape == (0,)
        assert build([RequestSpec(3, [], delimiter, cached_prefix=True)]).num_rows == 0


def test_lengths_may_be_arrays_and_modes_have_defaults():
    layout = csrc.build_layout(
        prefix_lens=np.array([2, 3], np.uint64), item_lens=[[1], np.array([4, 1], np.uint16)]
    )
    expected = build([RequestSpec(2, [1]), RequestSpec(3, [4, 1])])
    np.testing.assert_array_equal(layout.positions, expected.positions)
    np.testing.assert_array_equal(layout.row_intervals, expected.row_intervals)
