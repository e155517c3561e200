"""What the back end xla costs: compilations, memory, and tiles that are computed."""

import jax

from isoprefill import PackedLayout, multi_item_attention
from isoprefill.attention.xla.attention import xla_attention
from reference_packs import random_qkv


def test_layouts_of_one_bucket_share_one_compilation():
    compiled = jax.jit(lambda q, k, v, layout: multi_item_attention(q, k, v, layout))
    blocks = set()
    for lens in ([20] * 18, [21, 18] * 9, [3, 50, 17, 40, 60], [100, 200], [1] * 200):
        layout = PackedLayout.from_lengths(100, lens, pad_to=512).with_schedule("xla")
        compiled(*random_qkv(layout), layout)
        blocks.add((layout.schedule.local_block, layout.schedule.local_blocks.shape))
    # One for each local block and capacity that the items' lengths ask for, and few of these.
    assert compiled._cache_size() == len(blocks) <= 3


def test_memory_does_not_grow_with_the_square_of_the_pack():
    """Temporary memory of the compiled program: linear in T, for ragged lists with a giant item too."""

    def bytes_of(item_lens):
        layout = PackedLayout.from_lengths(2000, item_lens)
        layout = PackedLayout.concat(
            [layout], pad_to=-(-layout.num_rows // 512) * 512
        ).with_schedule("xla")
        arrays = random_qkv(layout, 9, 3)
        compiled = (
            jax.jit(xla_attention, static_argnames="scale")
            .lower(*arrays, layout.row_intervals, layout.schedule, scale=0.125)
            .compile()
        )
        return compiled.memory_analysis().temp_size_in_bytes / layout.num_rows

    per_row = bytes_of([20] * 100)
    assert bytes_of([20] * 500) <= 1.5 * per_row
    assert bytes_of([20] * 499 + [4000]) <= 1.5 * per_row


def test_auto_needs_no_square_of_memory():
    """The default back end must not be the dense one."""
    layout = PackedLayout.from_lengths(1000, [20] * 52).with_schedule("xla")
    arrays = random_qkv(layout)

    def temporary_bytes(backend):
        call = jax.jit(
            lambda q, k, v, layout: multi_item_attention(q, k, v, layout, backend=backend)
        )
        compiled = call.lower(*arrays, layout).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary_bytes("auto") == temporary_bytes("xla") < temporary_bytes("dense") / 2


def test_small_requests_do_not_compute_large_tiles():
    """Many short requests in one pack (item_first, a busy server) must not cost a large tile each."""
    small = [PackedLayout.from_lengths(20, [6])] * 100
    large = PackedLayout.from_lengths(2000, [20] * 30)
    alone, beside, one_large = (
        PackedLayout.concat(parts).with_schedule("xla")
        for parts in (small, [*small, large], [large])
    )
    pairs = [
        sum(int(one.num_visits) * one.block_q * one.block_kv for one in layout.schedule.tiles)
        for layout in (alone, beside, one_large)
    ]
    assert pairs[0] <= 16 * alone.dense_mask().sum()
    assert pairs[1] == pairs[0] + pairs[2]
