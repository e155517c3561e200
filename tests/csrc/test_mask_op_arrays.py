"""The mask op's arrays are views or owned buffers, never copies, and other threads run while it works."""

import gc
import threading
import time

import numpy as np

from csrc_layout import build
from mask_definition import RequestSpec


def test_attributes_are_views_that_keep_the_layout_alive():
    layout = build([RequestSpec(5, [3, 2, 4])])
    positions = layout.positions
    assert positions.base is layout
    assert positions.ctypes.data == layout.positions.ctypes.data, "a copy"
    assert not positions.flags.writeable
    schedule = layout.aligned_schedule(block_q=4, block_kv=4, local_block=2)
    assert schedule.tile_visits.base is schedule
    visits, expected = schedule.tile_visits, schedule.tile_visits.tolist()
    del layout, schedule
    gc.collect()
    rubbish = [np.full(14, 7, np.int32) for _ in range(100)]
    assert positions.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 5, 6, 5, 6, 7, 8]
    assert visits.tolist() == expected
    del rubbish


def test_results_own_the_buffer_that_c_filled():
    layout = build([RequestSpec(5, [3, 2, 4], "hidden")])
    params = layout.flashinfer_params()
    arrays = [
        layout.dense_mask(),
        layout.packed_bits(),
        layout.packed_bit_offsets(),
        params["prefix_len_ptr"],
        params["token_pos_in_items_ptr"],
    ]
    for array in arrays:
        assert type(array.base).__name__ == "PyCapsule"
        assert array.flags.writeable
        assert array.flags.c_contiguous


def test_other_threads_run_while_a_mask_is_written():
    """The GIL is released: a server must not stop for a mask."""
    layout = build([RequestSpec(2000, [20] * 500)])
    span = []

    def write_masks():
        for _ in range(6):
            begin = time.perf_counter()
            layout.dense_mask()
            span.append((begin, time.perf_counter()))

    ticks = []
    writer = threading.Thread(target=write_masks)
    writer.start()
    while writer.is_alive():
        ticks.append(time.perf_counter())
    middle = [(begin + (end - begin) / 4, end - (end - begin) / 4) for begin, end in span]
    assert any(begin < tick < end for begin, end in middle for tick in ticks)
