"""Attention of a multi-item pass over the paged cache in XLA, for where the TPU kernel cannot compute it.

Every row looks at every column of the pass, a block of rows at a time: time grows with rows times columns.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int32

from isoprefill_pallas.paged import FusedCache, gather_columns
from isoprefill_pallas.reference import dense_attention

ROW_BLOCK = 128  # rows whose scores are in memory at a time


def xla_paged_attention(
    q: Float[Array, "T Hq D"],
    kv_pages: FusedCache,
    page_indices: Int32[Array, "n"],
    page_lens: Int32[Array, "n"],
    row_intervals: Int32[Array, "4 T"],
    *,
    scale: float,
    soft_cap: float | None,
) -> Float[Array, "T Hq D"]:
    """As `isoprefill_pallas.paged.paged_attention`, without a schedule: every row looks at every column."""
    k, v = (
        x.astype(q.dtype)
        for x in gather_columns(kv_pages, page_indices, page_lens, head_dim=q.shape[-1])
    )
    columns = jnp.arange(k.shape[0], dtype=jnp.int32)
    rows = q.shape[0]
    padding = -rows % ROW_BLOCK
    blocks = (
        jnp.pad(q, ((0, padding), (0, 0), (0, 0))).reshape(-1, ROW_BLOCK, *q.shape[1:]),
        jnp.pad(row_intervals, ((0, 0), (0, padding))).reshape(4, -1, ROW_BLOCK).swapaxes(0, 1),
    )

    def block(args: tuple[jax.Array, jax.Array]) -> jax.Array:
        q_block, (prefix_begin, prefix_end, own_begin, own_end) = args
        prefix = (columns >= prefix_begin[:, None]) & (columns < prefix_end[:, None])
        own = (columns >= own_begin[:, None]) & (columns < own_end[:, None])
        return dense_attention(q_block, k, v, prefix | own, scale=scale, soft_cap=soft_cap)[0]

    return lax.map(block, blocks).reshape(-1, *q.shape[1:])[:rows]
