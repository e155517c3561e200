"""One call of the TPU kernel: which blocks of the operands each step of the grid brings into VMEM.

Letters as in kernel.py. Operands are laid out as the kernel cuts them: heads of whole lanes (D a multiple of 128) side
by side, [T, H * D]; narrower heads on the leading axis, [H, T, D].
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int32

from isoprefill_csrc import KEY_GRANULE, LANES, RowBound, StepField, TileField, WindowField
from isoprefill_pallas.block_sizes import BlockSizes
from isoprefill_pallas.kernel import attend_step, ones_rows
from isoprefill_pallas.schedule import SchedulePart
from isoprefill_pallas.softmax import LOG2_E


def tile_attention(
    q: Float[Array, "T Hq D"],
    k: Float[Array, "S Hkv D"],
    v: Float[Array, "S Hkv D"],
    row_bounds: Int32[Array, "4 T"],
    part: SchedulePart,
    *,
    sizes: BlockSizes,
    scale: float,
    soft_cap: float | None = None,
    online: bool = False,
    interpret: bool | pltpu.InterpretParams = False,
    vmem_limit_bytes: int | None = None,
) -> tuple[Float[Array, "T Hq D"], Float[Array, "T Hq"]]:
    """Runs the kernel once over the rows of a part of a schedule.

    Args:
        q, k, v: bfloat16 or float32, all alike. S is the schedule's `padded_columns`; T the rows of the part.
        row_bounds: of the same rows.
        part: made for these `sizes`.
        online: keep a running maximum instead of fixed anchors.

    Returns:
        The output in q's dtype, and the natural log-sum-exp of each row's scores: -inf for padding, NaN for rows
        whose anchor does not certify their output (never with `online`).
    """
    rows, query_heads, head_dim = q.shape
    kv_heads = k.shape[1]
    groups = query_heads // kv_heads
    bq, bk = sizes.block_q, sizes.block_kv
    local_keys = max(sizes.local_keys, KEY_GRANULE)
    tile_fields = TileField.WINDOWS + bq // LANES * len(WindowField)
    stacked = groups * bq
    # Heads side by side in memory can be cut along whole lanes; otherwise heads come first.
    token_major = head_dim % LANES == 0

    # Where a block lies, by KV head and step; scalars are prefetched.
    def q_tile(h, t, steps, units, tiles):
        tile = steps[StepField.Q_TILE, t]
        return (tile, h) if token_major else (h, tile, 0)

    def columns_from(start, h):
        start = pl.multiple_of(start, KEY_GRANULE)
        return (start, pl.multiple_of(h * head_dim, LANES)) if token_major else (h, start, 0)

    def block(h, t, steps, units, tiles):
        return columns_from(steps[StepField.KEY_START, t], h)

    def local(h, t, steps, units, tiles):
        return columns_from(tiles[steps[StepField.Q_TILE, t] * tile_fields], h)

    def row_tile(h, t, steps, units, tiles):
        return (0, steps[StepField.Q_TILE, t])

    def lse_tile(h, t, steps, units, tiles):
        return (h, 0, steps[StepField.Q_TILE, t])

    def kv_spec(count, index):
        shape = (pl.Element(count), pl.Element(head_dim))
        return pl.BlockSpec(shape if token_major else (pl.Element(1), *shape), index)

    if token_major:
        q_spec = pl.BlockSpec((bq, groups * head_dim), q_tile)
        q, k, v = (x.reshape(x.shape[0], -1) for x in (q, k, v))
    else:
        q_spec = pl.BlockSpec((groups, bq, head_dim), q_tile)
        q, k, v = (x.swapaxes(0, 1) for x in (q, k, v))
    in_memory: Any = jax.ShapeDtypeStruct
    if not interpret:
        # Left alone, the compiler may put whole operands into VMEM, where vector instructions copy the blocks.
        # It does not look through the constraint, so that it stands behind what cancels out: reshapes.
        in_memory = pltpu.HBM
        row_bounds, q, k, v = (
            pltpu.with_memory_space_constraint(x, pltpu.HBM) for x in (row_bounds, q, k, v)
        )

    depth = head_dim + ones_rows(v.dtype)
    num_steps = part.num_steps
    out, lse = pl.pallas_call(
        functools.partial(
            attend_step,
            sizes=sizes,
            groups=groups,
            head_dim=head_dim,
            log2_scale=scale * LOG2_E,
            log2_cap=None if soft_cap is None else soft_cap * LOG2_E,
            online=online,
        ),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=3,
            grid=(kv_heads, num_steps if isinstance(num_steps, int) else jnp.asarray(num_steps)),
            in_specs=[
                pl.BlockSpec((len(RowBound), bq), row_tile),
                q_spec,
                kv_spec(bk, block),
                kv_spec(bk, block),
                kv_spec(local_keys, local),
                kv_spec(local_keys, local),
            ],
            out_specs=[q_spec, pl.BlockSpec((1, groups, bq), lse_tile)],
            scratch_shapes=[
                pltpu.VMEM((depth, stacked), jnp.float32),
                pltpu.VMEM((1, stacked), jnp.float32),
                pltpu.VMEM((depth, bk if sizes.full_keys else LANES), v.dtype),
                pltpu.VMEM((stacked, head_dim), q.dtype),
            ],
        ),
        out_shape=[
            in_memory(q.shape, q.dtype),
            in_memory((kv_heads, groups, rows), jnp.float32),
        ],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary"),
            vmem_limit_bytes=vmem_limit_bytes,
            # `schedule.check_blocks` has looked at every block, and `check_operands` at the arrays.
            disable_bounds_checks=True,
        ),
        interpret=interpret,
        name="isoprefill_online" if online else "isoprefill_anchored",
    )(part.steps, part.units, part.tiles.reshape(-1), row_bounds, q, k, v, k, v)
    out = out.reshape(rows, query_heads, head_dim) if token_major else out.swapaxes(0, 1)
    return out, lse.reshape(query_heads, rows).T / LOG2_E
