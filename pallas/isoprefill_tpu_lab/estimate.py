"""Compiles our kernel and JAX's splash attention for a chip and estimates what they cost on a workload.

`tpu_compiler.prepare_process` has to have run with a dump directory.
"""

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import isoprefill_csrc
from isoprefill_pallas.block_sizes import BlockSizes, choose_block_sizes
from isoprefill_pallas.chips import CHIPS, Chip
from isoprefill_pallas.compiler_schedule import CompiledKernel
from isoprefill_pallas.cost_model import Cost, kernel_cost, splash_cost
from isoprefill_pallas.kernel import tile_attention
from isoprefill_pallas.reference import dense_attention
from isoprefill_pallas.schedule import KernelSchedule
from isoprefill_pallas.tpu_compiler import compile_for
from isoprefill_pallas.workloads import Workload, dense_mask, useful_pairs

# (block_q, block_kv, block_kv_compute)
SPLASH_BLOCKS = (
    (256, 256, 256),
    (512, 512, 512),
    (1024, 512, 512),
    (1024, 1024, 512),
    (1024, 1024, 1024),
    (2048, 1024, 512),
    (2048, 2048, 512),
)


def estimate_kernel(
    chip: str, workload: Workload, sizes: BlockSizes, dump_directory: str, *, online: bool = False
) -> Cost:
    """The cost of our kernel with fixed anchors, or with a running maximum (`online`).

    Args:
        dump_directory: that of `tpu_compiler.prepare_process`. Every file in it is deleted, before and after.

    Raises:
        Exception: the compiler's, if the kernel does not fit the chip with these sizes.
        ValueError: if the schedule needs more than one part, which this estimate does not add up.
    """
    layout = layout_of(workload)
    schedule = KernelSchedule.build(layout, sizes, padded=False)
    if len(schedule.parts) > 1:
        raise ValueError(
            f"the schedule of {workload.name} has {len(schedule.parts)} parts; only 1 is estimated"
        )
    (part,) = schedule.parts
    attend = functools.partial(
        tile_attention,
        num_steps=int(part.num_steps),
        sizes=sizes,
        scale=workload.head_dim**-0.5,
        online=online,
        vmem_limit_bytes=CHIPS[chip].vmem_limit_bytes,
    )
    columns, dtype = schedule.padded_columns, jnp.dtype(workload.dtype)
    q = jax.ShapeDtypeStruct((layout.num_rows, workload.query_heads, workload.head_dim), dtype)
    kv = jax.ShapeDtypeStruct((columns, workload.kv_heads, workload.head_dim), dtype)
    _clear(dump_directory)
    compile_for(chip, attend, q, kv, kv, schedule.row_bounds, part.steps, part.units, part.tiles)
    compiled = CompiledKernel(
        dump_directory, "isoprefill_online" if online else "isoprefill_anchored"
    )
    _clear(dump_directory)
    return kernel_cost(
        compiled,
        part,
        sizes,
        online=online,
        useful_pairs=useful_pairs(layout.row_intervals),
        kv_heads=workload.kv_heads,
        groups=workload.groups,
        head_dim=workload.head_dim,
        itemsize=workload.itemsize,
    )


def estimate_splash(
    chip: str, workload: Workload, blocks: tuple[int, int, int], dump_directory: str
) -> Cost:
    """The cost of jax.experimental's splash attention with a NumpyMask of the same mask.

    Args:
        dump_directory: as in `estimate_kernel`.

    Raises:
        Exception: the compiler's, if it does not compile with these blocks.
    """
    attend, rows = splash_attention(workload, blocks)
    block_q, block_kv, _ = blocks
    layout = layout_of(workload)
    block_mask = np.asarray(attend.fwd_mask_info.block_mask)[0]
    # It takes head dimensions of whole lanes only.
    head_dim = -(-workload.head_dim // 128) * 128
    q = jax.ShapeDtypeStruct((workload.query_heads, rows, head_dim), jnp.dtype(workload.dtype))
    kv = jax.ShapeDtypeStruct((workload.kv_heads, rows, head_dim), jnp.dtype(workload.dtype))
    _clear(dump_directory)
    compile_for(chip, lambda q, k, v: attend(q, k, v), q, kv, kv)
    compiled = CompiledKernel(dump_directory, "splash_mha_fwd")
    _clear(dump_directory)
    return splash_cost(
        compiled,
        block_mask,
        block_q=block_q,
        block_kv=block_kv,
        heads=workload.query_heads,
        groups=workload.groups,
        head_dim=head_dim,
        itemsize=workload.itemsize,
        useful_pairs=useful_pairs(layout.row_intervals),
    )


def estimate_dense(chip: str, workload: Workload) -> tuple[float, float, int]:
    """(seconds, useful share, HBM bytes) of dense attention with a mask, as XLA compiles it.

    From the operations and bytes that XLA counts, at the chip's peak and bandwidth: less than it takes.
    """
    layout = layout_of(workload)
    rows, columns, dtype = layout.num_rows, layout.num_columns, jnp.dtype(workload.dtype)

    def attend(q: jax.Array, k: jax.Array, v: jax.Array, intervals: jax.Array) -> jax.Array:
        column = jnp.arange(columns)
        prefix_begin, prefix_end, own_begin, own_end = intervals[:, :, None]
        mask = (column >= prefix_begin) & (column < prefix_end)
        mask |= (column >= own_begin) & (column < own_end)
        return dense_attention(q, k, v, mask, scale=workload.head_dim**-0.5)[0]

    q = jax.ShapeDtypeStruct((rows, workload.query_heads, workload.head_dim), dtype)
    kv = jax.ShapeDtypeStruct((columns, workload.kv_heads, workload.head_dim), dtype)
    counted = compile_for(chip, attend, q, kv, kv, layout.row_intervals).cost_analysis()
    operations, moved = counted["flops"], counted["bytes accessed"]
    seconds = max(operations / CHIPS[chip].peak_flops, moved / CHIPS[chip].hbm_bytes_per_second)
    return seconds, useful_pairs(layout.row_intervals) / (rows * columns), int(moved)


def bound_seconds(chip: Chip, workload: Workload) -> tuple[float, float]:
    """What no kernel can beat: the useful products at the chip's peak, and q, k, v and the output moved once."""
    layout = layout_of(workload)
    width = workload.query_heads * workload.head_dim
    operations = 4 * width * useful_pairs(layout.row_intervals)
    moved = 2 * layout.num_rows * width
    moved += 2 * layout.num_columns * workload.kv_heads * workload.head_dim
    return operations / chip.peak_flops, moved * workload.itemsize / chip.hbm_bytes_per_second


def splash_attention(workload: Workload, blocks: tuple[int, int, int]) -> tuple[Any, int]:
    """(splash attention with the workload's mask on arrays [heads, rows, head_dim], rows as it wants them)."""
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel,
        splash_attention_mask,
    )

    block_q, block_kv, block_kv_compute = blocks
    layout = layout_of(workload)
    largest = max(block_q, block_kv)
    rows = -(-layout.num_rows // largest) * largest
    mask = splash_attention_mask.NumpyMask(dense_mask(layout.row_intervals, rows, rows))
    attend = splash_attention_kernel.make_splash_mha_single_device(
        mask=splash_attention_mask.MultiHeadMask([mask] * workload.query_heads),
        block_sizes=splash_attention_kernel.BlockSizes(
            block_q=block_q, block_kv=block_kv, block_kv_compute=block_kv_compute
        ),
    )
    return attend, rows


def sizes_of(chip: str | None, workload: Workload) -> BlockSizes:
    """The block sizes that the product chooses for the workload."""
    layout = layout_of(workload)
    return choose_block_sizes(chip, workload.heads, layout.row_intervals, layout.num_columns)


def layout_of(workload: Workload) -> isoprefill_csrc.Layout:
    return isoprefill_csrc.build_layout(
        prefix_lens=list(workload.prefix_lens),
        item_lens=[list(lens) for lens in workload.item_lens],
    )


def _clear(directory: str) -> None:
    for path in pathlib.Path(directory).iterdir():
        if path.is_file():
            path.unlink()
