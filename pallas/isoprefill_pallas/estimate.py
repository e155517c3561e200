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
from isoprefill_pallas.block_sizes import BlockSizes
from isoprefill_pallas.chips import CHIPS
from isoprefill_pallas.compiler_schedule import CompiledKernel
from isoprefill_pallas.cost_model import Cost, kernel_cost, splash_cost
from isoprefill_pallas.kernel import tile_attention
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


def layout_of(workload: Workload) -> isoprefill_csrc.Layout:
    return isoprefill_csrc.build_layout(
        prefix_lens=list(workload.prefix_lens),
        item_lens=[list(lens) for lens in workload.item_lens],
    )


def _clear(directory: str) -> None:
    for path in pathlib.Path(directory).iterdir():
        if path.is_file():
            path.unlink()
