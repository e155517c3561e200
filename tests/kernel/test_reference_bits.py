"""The bits of a result do not depend on what lies beside it: neighbours, order, the number of requests."""

import numpy as np
import pytest

from isoprefill import PackedLayout, multi_item_attention
from reference_packs import random_qkv


@pytest.mark.parametrize("window", [None, 80])
def test_an_item_packed_is_the_same_bits_as_alone_with_cpu(window):
    packed, alone = (
        PackedLayout.from_lengths(70, lens).with_window(window) for lens in ([3, 100, 20], [100])
    )
    arrays = random_qkv(packed, 6, 2)
    rows = np.r_[0:70, 73:173]
    out = np.asarray(multi_item_attention(*arrays, packed, backend="cpu"))
    one = multi_item_attention(*(array[rows] for array in arrays), alone, backend="cpu")
    np.testing.assert_array_equal(out[rows], np.asarray(one))


@pytest.mark.parametrize(
    ("backend", "local_block", "window"),
    [("xla", 8, None), ("xla", 32, None), ("cpu", None, None), ("xla", 32, 50), ("cpu", None, 50)],
)
def test_order_of_items_does_not_change_a_bit(backend, local_block, window):
    """With other tile edges in the pack an item's sums must still run in the same order."""
    prefix, lens = 70, [3, 40, 9, 130, 1, 20, 64]
    order = [4, 2, 6, 0, 3, 5, 1]
    rng = np.random.default_rng(0)
    parts = [rng.standard_normal((3, n, 2, 64), np.float32) for n in (prefix, *lens)]

    def run(order):
        layout = PackedLayout.from_lengths(prefix, [lens[index] for index in order], pad_to=384)
        layout = layout.with_window(window)
        if backend == "xla":
            layout = layout.with_schedule("xla", block_q=32, block_kv=32, local_block=local_block)
        packed = np.concatenate([parts[0], *(parts[1 + index] for index in order)], axis=1)
        packed = np.pad(packed, ((0, 0), (0, 384 - packed.shape[1]), (0, 0), (0, 0)))
        out = np.asarray(multi_item_attention(*packed, layout, backend=backend))
        ends = prefix + np.cumsum([lens[index] for index in order])
        return {index: out[end - lens[index] : end] for index, end in zip(order, ends, strict=True)}

    straight, shuffled = run(range(len(lens))), run(order)
    for index in range(len(lens)):
        np.testing.assert_array_equal(straight[index], shuffled[index])


@pytest.mark.parametrize("heads", [(9, 3, 64), (16, 8, 128)], ids=str)
def test_requests_beside_do_not_change_a_bit(heads):
    """The tiles of a request, and with them the order of its sums, follow from its own lengths (xla)."""
    lens = {20: [6], 60: [5, 40, 3], 230: [20] * 3, 600: [9]}
    rng = np.random.default_rng(0)
    parts = {
        prefix: [
            rng.standard_normal((prefix + sum(items), count, heads[2]), np.float32)
            for count in (heads[0], heads[1], heads[1])
        ]
        for prefix, items in lens.items()
    }

    def run(prefixes):
        layout = PackedLayout.concat(
            [PackedLayout.from_lengths(prefix, lens[prefix]) for prefix in prefixes], pad_to=1088
        )
        arrays = [
            np.pad(x, ((0, 1088 - len(x)), (0, 0), (0, 0)))
            for x in map(np.concatenate, zip(*(parts[prefix] for prefix in prefixes), strict=True))
        ]
        out = np.asarray(multi_item_attention(*arrays, layout, backend="xla"))
        ends = np.cumsum([len(parts[prefix][0]) for prefix in prefixes])
        return {
            prefix: out[end - len(parts[prefix][0]) : end]
            for prefix, end in zip(prefixes, ends, strict=True)
        }

    together = run([600, 20, 230, 60])
    for prefix in lens:
        np.testing.assert_array_equal(run([prefix])[prefix], together[prefix])
