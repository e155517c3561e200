"""Compiles our kernel and JAX's splash attention for a chip and estimates what they cost on a pack.

`tpu_compiler.prepare_process` has to have run with a dump directory, which these functions take: they delete every file
in it, before and after.
"""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from isoprefill_pallas.block_sizes import BlockSizes, choose_block_sizes
from isoprefill_pallas.chips import CHIPS
from isoprefill_pallas.reference import dense_attention
from isoprefill_pallas.schedule import KernelSchedule, SchedulePart
from isoprefill_pallas.tile_attention import tile_attention
from isoprefill_tpu_lab.chips import FIGURES
from isoprefill_tpu_lab.compiler_schedule import CompiledKernel
from isoprefill_tpu_lab.cost_model import Cost, kernel_cost, splash_cost
from isoprefill_tpu_lab.packs import Pack, square_mask
from isoprefill_tpu_lab.tpu_compiler import PROGRAMS, compile_for

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
    chip: str, pack: Pack, sizes: BlockSizes, dump_directory: str, *, online: bool = False
) -> Cost:
    """Estimates our kernel with fixed anchors, or with a running maximum (`online`).

    Raises:
        Exception: the compiler's, if the kernel does not fit the chip with these sizes.
        ValueError: if the schedule needs more than one part, which this estimate does not add up.
    """
    schedule = KernelSchedule.of(pack.layout, sizes=sizes, padded=False)
    if len(schedule.parts) > 1:
        raise ValueError(
            f"the schedule of {pack.name} has {len(schedule.parts)} parts; only 1 is estimated"
        )
    (part,) = schedule.parts

    def attend(
        q: jax.Array, k: jax.Array, v: jax.Array, bounds: jax.Array, traced: SchedulePart
    ) -> Any:
        return tile_attention(
            q,
            k,
            v,
            bounds,
            dataclasses.replace(traced, num_steps=int(part.num_steps)),
            sizes=sizes,
            scale=pack.head_dim**-0.5,
            online=online,
            vmem_limit_bytes=CHIPS[chip].vmem_limit_bytes,
        )

    q, kv = _shapes(pack, schedule.num_rows, schedule.padded_columns)
    name = "isoprefill_online" if online else "isoprefill_anchored"
    arguments = (q, kv, kv, schedule.row_bounds, part)
    compiled = _compile(name, dump_directory, chip, attend, *arguments)
    return kernel_cost(compiled, part, sizes, pack, online=online)


def estimate_splash(
    chip: str, pack: Pack, blocks: tuple[int, int, int], dump_directory: str
) -> Cost:
    """Estimates jax.experimental's splash attention with a NumpyMask of the same mask.

    Raises:
        Exception: the compiler's, if it does not compile with these blocks.
    """
    attend, rows = splash_attention(pack, blocks)
    block_mask = np.asarray(attend.fwd_mask_info.block_mask)[0]
    # It takes head dimensions of whole lanes only.
    head_dim = -(-pack.head_dim // 128) * 128
    q = jax.ShapeDtypeStruct((pack.query_heads, rows, head_dim), jnp.dtype(pack.dtype))
    kv = jax.ShapeDtypeStruct((pack.kv_heads, rows, head_dim), jnp.dtype(pack.dtype))
    compiled = _compile(
        "splash_mha_fwd", dump_directory, chip, lambda q, k, v: attend(q, k, v), q, kv, kv
    )
    return splash_cost(compiled, block_mask, blocks, pack, head_dim)


def estimate_dense(chip: str, pack: Pack) -> tuple[float, float, int]:
    """Returns seconds, useful share and HBM bytes of dense attention with a mask, as XLA compiles it.

    From the operations and bytes that XLA counts, at the chip's peak and bandwidth: less than it takes.
    """
    layout, figures = pack.layout, FIGURES[chip]
    rows, columns = layout.num_rows, layout.num_columns

    def attend(q: jax.Array, k: jax.Array, v: jax.Array, intervals: jax.Array) -> jax.Array:
        column = jnp.arange(columns)
        prefix_begin, prefix_end, own_begin, own_end = intervals[:, :, None]
        mask = (column >= prefix_begin) & (column < prefix_end)
        mask |= (column >= own_begin) & (column < own_end)
        return dense_attention(q, k, v, mask, scale=pack.head_dim**-0.5)[0]

    q, kv = _shapes(pack, rows, columns)
    counted = compile_for(chip, attend, q, kv, kv, layout.row_intervals).cost_analysis()
    operations, moved = counted["flops"], counted["bytes accessed"]
    seconds = max(operations / figures.peak_flops, moved / figures.hbm_bytes_per_second)
    return seconds, pack.useful_pairs / (rows * columns), int(moved)


def bound_seconds(chip: str, pack: Pack) -> tuple[float, float]:
    """Returns what no kernel can beat: the useful products at the chip's peak; q, k, v and the output moved once."""
    layout, figures = pack.layout, FIGURES[chip]
    width = pack.query_heads * pack.head_dim
    moved = 2 * layout.num_rows * width + 2 * layout.num_columns * pack.kv_heads * pack.head_dim
    return (
        4 * width * pack.useful_pairs / figures.peak_flops,
        moved * pack.itemsize / figures.hbm_bytes_per_second,
    )


def splash_attention(
    pack: Pack, blocks: tuple[int, int, int], *, interpret: bool = False
) -> tuple[Any, int]:
    """Returns splash attention with the pack's mask on arrays [heads, rows, head_dim], and rows as it wants them."""
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel,
        splash_attention_mask,
    )

    block_q, block_kv, block_kv_compute = blocks
    largest = max(block_q, block_kv)
    rows = -(-pack.layout.num_rows // largest) * largest
    mask = splash_attention_mask.NumpyMask(square_mask(pack.layout, rows))
    attend = splash_attention_kernel.make_splash_mha_single_device(
        mask=splash_attention_mask.MultiHeadMask([mask] * pack.query_heads),
        block_sizes=splash_attention_kernel.BlockSizes(
            block_q=block_q, block_kv=block_kv, block_kv_compute=block_kv_compute
        ),
        interpret=interpret,
    )
    return attend, rows


def sizes_of(chip: str, pack: Pack) -> BlockSizes:
    """Returns the block sizes that the product chooses for the pack."""
    layout = pack.layout
    return choose_block_sizes(chip, pack.heads, layout.row_intervals, layout.num_columns)


def _shapes(
    pack: Pack, rows: int, columns: int
) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Returns those of q, and of k and v."""
    dtype = jnp.dtype(pack.dtype)
    return (
        jax.ShapeDtypeStruct((rows, pack.query_heads, pack.head_dim), dtype),
        jax.ShapeDtypeStruct((columns, pack.kv_heads, pack.head_dim), dtype),
    )


def _compile(
    name: str, dump_directory: str, chip: str, attend: Callable[..., Any], *arguments: Any
) -> CompiledKernel:
    """Compiles for a chip, and reads what the compiler says of the kernel called `name`."""
    _clear(dump_directory)
    compile_for(chip, attend, *arguments)
    compiled = CompiledKernel(dump_directory, name)
    _clear(dump_directory)
    return compiled


def _clear(directory: str) -> None:
    """Deletes the schedules and programs of earlier compilations."""
    for path in [*pathlib.Path(directory).iterdir(), *pathlib.Path(directory, PROGRAMS).glob("*")]:
        if path.is_file():
            path.unlink()
